"""Keeping the books of one split: usable rows, bad rows by name, rows left out by reason."""

from __future__ import annotations

from dataclasses import replace

from unimo.data.example import Dropped, Example, Noted
from unimo.data.ledger import Ledger
from unimo.data.readers.files import ends_the_file
from unimo.data.readers.keys import PictureKeys
from unimo.data.sources import Corpus
from unimo.errors import DataError


class Book:
    """Rows of a split while it is read, and what was wrong with others.

    rows: the usable ones so far. own: counts and notes of this split alone.
    """

    def __init__(self, source: str, need_targets: bool):
        self.source, self.need_targets = source, need_targets
        self.own = Ledger()  # this split is judged alone, whatever else the run's ledger already holds
        self.rows: list[Example] = []
        self.bad: list[tuple[str, DataError]] = []  # (key, what is wrong)
        self._met = 0
        self._seen: dict[str, int] = {}  # id -> which of the rows met, from 1

    def take(self, found: Example | DataError | Dropped | Noted) -> None:
        if isinstance(found, Noted):
            self.own.note(found.what)
            return
        self._met += 1
        if isinstance(found, Dropped):
            self.own.note(f"left out: {found.reason}")
        elif isinstance(found, DataError):
            if ends_the_file(found):
                raise found
            self.refuse("", found)
        elif found.id in self._seen:
            error = DataError(
                "id appears twice",
                where=f"{self.source}, id {found.id}, row {self._met}",
                got=f"the id of row {self._seen[found.id]} (counted from 1, without header and blank lines)",
                expected="an id of its own for each row",
                do="rename or remove one, or let no column be the id; the first was kept",
            )
            self.refuse(found.id, error)
        else:
            self._seen[found.id] = self._met
            self.rows.append(found)

    def settled(self, pictures: Corpus | None) -> list[Example]:
        """The usable rows once all are known: with a target if others have one, with keys that the corpus has."""
        keys = None if pictures is None else PictureKeys.of(pictures)
        labelled = self.need_targets or any(row.target is not None for row in self.rows)
        rows = []
        for row in self.rows:
            try:
                if labelled and row.target is None:
                    raise DataError(
                        "target is missing",
                        where=f"{self.source}, id {row.id}",
                        expected="a target in every row, or in none (a split to predict for); label -1 means none",
                        do="fill it, call a class -1 otherwise, or remove the row",
                    )
                if row.image is not None and keys is not None:
                    key = keys.find(row.image, f"{self.source}, id {row.id}")
                    row = row if key == row.image else replace(row, image=key)
                rows.append(row)
            except DataError as error:
                self.refuse(row.id, error)
        self.rows = rows
        return rows

    def refuse(self, key: str, error: DataError) -> None:
        self.bad.append((key or str(error.where), error))

    def report(self, ledger: Ledger | None, max_bad_share: float) -> None:
        """Hand everything to the ledgers. DataError when too many rows are bad, or none is left."""
        for book in (self.own, ledger):
            if book is None:
                continue
            book.offer(len(self.rows) + len(self.bad))
            book.use(len(self.rows))
            for key, error in self.bad:
                book.add(error, key=key, shard=self.source)
        if ledger is not None:
            for note, count in self.own.notes.items():
                ledger.note(f"{self.source}: {note}", count)
        first = f"the first: {self.bad[0][1].one_line()}" if self.bad else None
        if not self.rows:
            reasons = "; ".join(f"{count} x {what}" for what, count in self.own.summary()["reasons"].items())
            left = "; ".join(f"{count} x {what}" for what, count in self.own.notes.items() if "left out" in what)
            raise DataError(
                "no usable row",
                where=self.source,
                got="; ".join(filter(None, [reasons, left])) or "an empty file",
                expected="at least one row",
                do=first,
            )
        try:
            self.own.check(max_bad_share, report=None if ledger is None else ledger.path)
        except DataError as error:
            raise DataError(
                "too many bad rows", where=self.source, got=error.got, expected=error.expected, do=first
            ) from error
