"""The ledger of bad samples: whatever was offered was either used or is named here.

    offered = used + quarantined

Each bad sample becomes one line of `bad_samples.jsonl` (when a path is given): first seen, shard, key and
the parts of its error. A sample already in the file is counted again, not written again, so every run's
counts are its own and the file stays a list of distinct samples.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

from unimo.errors import DataError, ResourceError, UnimoError, UsageError
from unimo.paths import user_path

SMALLEST_JUDGED = 10  # below this many offered samples a share says nothing
SHOWN = 3  # examples of a finding


class Notes(Counter[str]):
    """Counts of lesser findings and of what was passed over, by reason, with a few examples of each."""

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[str, list[str]] = {}

    def __reduce__(self):
        return Notes.from_json, (self.to_json(),)

    def tell(self, what: str, example: str | None = None, count: int = 1) -> None:
        if not count:
            return
        self[what] += count
        if example is not None:
            self._show(what, example)

    def join(self, others: Notes) -> None:
        for what, count in others.items():
            self.tell(what, None, count)
            for example in others.examples.get(what, ()):
                self._show(what, example)

    def _show(self, what: str, example: str) -> None:
        shown = self.examples.setdefault(what, [])
        if len(shown) < SHOWN and example not in shown:
            shown.append(example)

    def to_json(self) -> dict[str, list]:
        """{reason: [count, examples]}"""
        return {what: [count, self.examples.get(what, [])] for what, count in sorted(self.items()) if count}

    @classmethod
    def from_json(cls, values: dict[str, list]) -> Notes:
        notes = cls()
        for what, (count, examples) in values.items():
            notes.tell(what, None, count)
            notes.examples[what] = list(examples)
        return notes

    def lines(self) -> list[str]:
        """A line for each reason: count, reason, examples."""
        return [
            f"{count} {what}" + (f" ({', '.join(shown)}{', …' if len(shown) < count else ''})" if shown else "")
            for what, count in self.items()
            for shown in [self.examples.get(what, [])]
        ]


def check_share(value: float, where: str = "max_bad_fraction") -> None:
    """UsageError for a share that is none; NaN would switch the limit off."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UsageError(
            "not a share", where=where, got=value, expected="a number from 0 to 1", do="0.01 is one of a hundred"
        )


class Ledger:
    """Counts of offered, used and quarantined samples, and their reasons.

    What was passed over (a file of another kind, an image that no table names) is not offered: it is in `notes`.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = None if path is None else user_path(path, "ledger")
        self.offered = 0
        self.used = 0
        self.quarantined = 0
        self.notes = Notes()  # lesser findings and what was passed over: extra members, blank captions
        self._reasons: Counter[str] = Counter()
        self._torn = False  # the file ends in a line that a kill cut short
        self._written = self._read_written()

    def offer(self, count: int = 1) -> None:
        self.offered += count

    def use(self, count: int = 1) -> None:
        self.used += count

    def note(self, what: str, count: int = 1, example: str | None = None) -> None:
        self.notes.tell(what, example, count)

    def add(self, error: UnimoError, *, key: str | None = None, shard: object = None) -> None:
        """Quarantine one offered sample: count it and append its line to the file."""
        self.quarantined += 1
        self._reasons[error.what] += 1
        identity = (str(shard), str(key), error.what)
        if self.path is None or identity in self._written:
            return
        self._written.add(identity)
        entry = {
            "first_seen": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "shard": str(shard),
            "key": str(key),
            **error.parts(),
        }
        self._append(("\n" if self._torn else "") + json.dumps(entry) + "\n")
        self._torn = False

    def summary(self) -> dict:
        """Counts and the reasons, most frequent first."""
        return {
            "offered": self.offered,
            "used": self.used,
            "quarantined": self.quarantined,
            "reasons": dict(self._reasons.most_common()),
            "notes": dict(self.notes),
            "examples": {what: list(shown) for what, shown in self.notes.examples.items() if shown},
            "file": None if self.path is None else str(self.path),
        }

    def check(self, max_bad_fraction: float = 0.01, *, report: Path | None = None) -> None:
        """Raise DataError when too many of the offered samples are bad; a broken count is our own fault.

        report: the ledger file to name, if it is another's than this one's. UsageError for a share that is none.
        """
        check_share(max_bad_fraction)
        if self.offered != self.used + self.quarantined:
            raise UnimoError(
                "the ledger does not balance",
                got=f"{self.used} used + {self.quarantined} quarantined",
                expected=f"{self.offered} offered",
                do="report this as a fault of unimo",
            )
        judged = self.offered >= SMALLEST_JUDGED
        if judged and self.quarantined > max_bad_fraction * self.offered:
            top = "; ".join(f"{count} x {reason}" for reason, count in self._reasons.most_common(5))
            raise DataError(
                "too many bad samples",
                where=report or self.path or "see the reasons; give the ledger a path for the full list",
                got=f"{self.quarantined} of {self.offered} samples are bad: {top}",
                expected=f"at most a share of {max_bad_fraction:g}",
                do="repair or remove the samples named in the ledger, or raise max_bad_fraction",
            )

    def _append(self, line: str) -> None:
        assert self.path is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # one write of one whole line: processes sharing the file cannot tear each other's lines
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, line.encode("utf-8"))
            finally:
                os.close(handle)
        except OSError as error:
            raise ResourceError(
                "cannot write the ledger of bad samples",
                where=self.path,
                got=error.strerror,
                expected="a writable file",
                do="free disk space or choose another output folder",
            ) from error

    def _read_written(self) -> set[tuple[str, str, str]]:
        found: set[tuple[str, str, str]] = set()
        if self.path is None:
            return found
        try:
            with self.path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    self._torn = not line.endswith("\n")
                    try:
                        entry = json.loads(line)
                        found.add((entry["shard"], entry["key"], entry["what"]))
                    except (ValueError, KeyError, TypeError):
                        continue  # a line cut by a kill: its sample is simply written again
        except (FileNotFoundError, NotADirectoryError):
            return found
        except OSError as error:  # taken for an empty one, it would get every line a second time
            raise ResourceError(
                "cannot read the ledger of bad samples",
                where=self.path,
                got=error.strerror,
                expected="a file that may be read and written, or none",
                do="repair its permissions or choose another name",
            ) from error
        return found
