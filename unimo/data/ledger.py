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

from unimo.errors import DataError, ResourceError, UnimoError

SMALLEST_JUDGED = 10  # below this many offered samples a share says nothing


class Ledger:
    """Counts of offered, used and quarantined samples, and their reasons."""

    def __init__(self, path: str | Path | None = None):
        self.path = None if path is None else Path(path)
        self.offered = 0
        self.used = 0
        self.quarantined = 0
        self.notes: Counter[str] = Counter()  # lesser findings: extra members, blank captions
        self._reasons: Counter[str] = Counter()
        self._torn = False  # the file ends in a line that a kill cut short
        self._written = self._read_written()

    def offer(self, count: int = 1) -> None:
        self.offered += count

    def use(self, count: int = 1) -> None:
        self.used += count

    def note(self, what: str, count: int = 1) -> None:
        if count:
            self.notes[what] += count

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
            "file": None if self.path is None else str(self.path),
        }

    def check(self, max_bad_share: float = 0.01, *, report: Path | None = None) -> None:
        """Raise DataError when too many of the offered samples are bad; a broken count is our own fault.

        report: the ledger file to name, if it is another's than this one's.
        """
        if self.offered != self.used + self.quarantined:
            raise UnimoError(
                "the ledger does not balance",
                got=f"{self.used} used + {self.quarantined} quarantined",
                expected=f"{self.offered} offered",
                do="report this as a fault of unimo",
            )
        judged = self.offered >= SMALLEST_JUDGED
        if judged and self.quarantined > max_bad_share * self.offered:
            top = "; ".join(f"{count} x {reason}" for reason, count in self._reasons.most_common(5))
            raise DataError(
                "too many bad samples",
                where=report or self.path or "see the reasons; give the ledger a path for the full list",
                got=f"{self.quarantined} of {self.offered} samples are bad: {top}",
                expected=f"at most a share of {max_bad_share:g}",
                do="repair or remove the samples named in the ledger, or raise max_bad_share",
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
        if self.path is None or not self.path.is_file():
            return found
        with self.path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._torn = not line.endswith("\n")
                try:
                    entry = json.loads(line)
                    found.add((entry["shard"], entry["key"], entry["what"]))
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut by a kill: its sample is simply written again
        return found
