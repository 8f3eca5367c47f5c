"""The report of bad samples: whatever was offered was either used or is named here.

    offered = used + quarantined

Each bad sample is one line of JSON in a file (when a path is given): first seen, shard, key and the parts of its error.
A sample already in the file is counted again, not written again: counts are of the run, lines are distinct samples.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from unimo.errors import DataError, ResourceError, UnimoError, UsageError
from unimo.paths import user_path

MIN_JUDGED = 10  # below this many offered samples a fraction says nothing
SHOWN = 3  # examples of a note


class Notes(Counter[str]):
    """Counts of lesser findings and of what was passed over, by reason, with a few examples of each."""

    def __init__(self, values: Mapping[str, list] | None = None) -> None:
        """values: {reason: [count, examples]}, as `to_json` gives them."""
        super().__init__()
        self.examples: dict[str, list[str]] = {}
        for what, (count, examples) in (values or {}).items():
            self.tell(what, *examples, count=count)

    def __reduce__(self):
        return Notes, (self.to_json(),)

    def tell(self, what: str, *examples: str, count: int = 1) -> None:
        if count:
            self[what] += count
            shown = self.examples.setdefault(what, [])
            shown += [example for example in dict.fromkeys(examples) if example not in shown][: SHOWN - len(shown)]

    def join(self, others: Notes) -> None:
        for what, count in others.items():
            self.tell(what, *others.examples.get(what, ()), count=count)

    def to_json(self) -> dict[str, list]:
        return {what: [count, self.examples.get(what, [])] for what, count in sorted(self.items()) if count}

    def lines(self) -> list[str]:
        """A line for each reason: count, reason, examples."""
        found = []
        for what, count in self.items():
            shown = self.examples.get(what, [])
            more = ", …" if len(shown) < count else ""
            found.append(f"{count} {what}" + (f" ({', '.join(shown)}{more})" if shown else ""))
        return found


def check_fraction(value: float) -> None:
    """UsageError for what is no fraction; NaN would switch the limit off."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        expected = "a number from 0 to 1"
        where = "max_bad_fraction"
        raise UsageError("not a fraction", where=where, got=value, expected=expected, do="0.01 is one of a hundred")


class BadSamples:
    """Counts of offered, used and quarantined samples, and the reasons of the last.

    What was passed over (a file of another kind, an image that no table names) is not offered: it is in `notes`.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = None if path is None else user_path(path, "report of bad samples")
        self.offered = self.used = self.quarantined = 0
        self.notes = Notes()
        self._reasons: Counter[str] = Counter()
        self._torn = False  # the file ends in a line that a kill cut short
        self._written = self._read_written()

    def offer(self, count: int = 1) -> None:
        self.offered += count

    def use(self, count: int = 1) -> None:
        self.used += count

    def note(self, what: str, count: int = 1) -> None:
        self.notes.tell(what, count=count)

    def add(self, error: UnimoError, *, key: str | None = None, shard: object = None) -> None:
        """Quarantine one offered sample: count it and append its line to the file."""
        self.quarantined += 1
        self._reasons[error.what] += 1
        identity = (str(shard), str(key), error.what)
        if self.path is None or identity in self._written:
            return
        self._written.add(identity)
        entry = {"first_seen": datetime.now(timezone.utc).isoformat(timespec="seconds"), "shard": str(shard)}
        entry |= {"key": str(key), **error.parts()}
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
        """DataError when too many of the offered samples are bad; a count that does not balance is our own fault.

        report: the file to name, if it is another's than this one's. UsageError for what is no fraction.
        """
        check_fraction(max_bad_fraction)
        if self.offered != self.used + self.quarantined:
            what = "the report of bad samples does not balance"
            got = f"{self.used} used + {self.quarantined} quarantined"
            raise UnimoError(what, got=got, expected=f"{self.offered} offered", do="report this as a fault of unimo")
        if self.offered >= MIN_JUDGED and self.quarantined > max_bad_fraction * self.offered:
            top = "; ".join(f"{count} x {reason}" for reason, count in self._reasons.most_common(5))
            raise DataError(
                "too many bad samples",
                where=report or self.path or "see the reasons; give the report a path for the full list",
                got=f"{self.quarantined} of {self.offered} samples are bad: {top}",
                expected=f"at most a fraction of {max_bad_fraction:g}",
                do="repair or remove the samples named in the report, or raise max_bad_fraction",
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
            raise self._refused("write", error) from error

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
            raise self._refused("read", error) from error
        return found

    def _refused(self, verb: str, error: OSError) -> ResourceError:
        what, expected = f"cannot {verb} the report of bad samples", "a file that may be read and written, or none"
        do = "repair its permissions, free disk space or choose another name"
        return ResourceError(what, where=self.path, got=error.strerror, expected=expected, do=do)


def tell_left_out(bad: BadSamples, say: Callable[[str], None]) -> None:
    """Says how many of the offered samples are bad, why, and where they are named; and lesser findings (notes)."""
    if bad.quarantined:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in bad.summary()["reasons"].items())
        named = f"listed in {bad.path}" if bad.path else "--bad-samples FILE would name them"
        say(f"{bad.quarantined} of {bad.offered} are bad ({reasons}), {named}")
    for line in bad.notes.lines():
        say(line)
