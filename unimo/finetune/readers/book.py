"""Keeping the books of one split: usable rows, bad rows by name, rows left out by reason."""

from __future__ import annotations

from dataclasses import replace

from unimo.corpus.bad_samples import Ledger
from unimo.corpus.corpus import Corpus
from unimo.corpus.image_names import ImageKeys
from unimo.errors import DataError
from unimo.finetune.example import Caption, Dropped, Example, Noted, Target
from unimo.finetune.readers.raw import ends_the_file


class Book:
    """Rows of a split while it is read, and what was wrong with others.

    rows: the usable ones so far. own: counts and notes of this split alone. Rows that are captions of one image
    become one example, where the first of them stood; how many there were is noted.
    """

    def __init__(self, source: str, need_targets: bool, keep_unlabelled: bool = False):
        self.source, self.need_targets, self.keep_unlabelled = source, need_targets, keep_unlabelled
        self.own = Ledger()  # this split is judged alone, whatever else the run's ledger already holds
        self.rows: list[Example] = []
        self.bad: list[tuple[str, DataError]] = []  # (key, what is wrong)
        self._met = 0
        self._seen: dict[str, int] = {}  # id -> which of the rows met, from 1
        self._images: dict[str, str | None] = {}  # id of a caption -> its image
        self._joined = 0  # rows that are part of another row's example

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
        elif found.id in self._seen and isinstance(found, Caption) and self._images.get(found.id) == found.image:
            self.rows.append(found)  # the id is the image's: all its captions have it
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
            if isinstance(found, Caption):
                self._images[found.id] = found.image
            self.rows.append(found)

    def settled(self, images: Corpus | None) -> list[Example]:
        """The usable rows once all are known: with a target if others have one, with keys that the corpus has."""
        broken = ImageKeys({} if images is None else images.unreadable)
        keys = None if images is None else ImageKeys.of(images)
        labelled = self.need_targets or any(row.target is not None for row in self.rows)
        if labelled and self.keep_unlabelled:
            count = sum(row.target is None for row in self.rows)
            self.own.note("rows without a target: answered, not scored", count)
            labelled = False
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
                    where = f"{self.source}, id {row.id}"
                    try:
                        key = keys.find(row.image, where)
                    except DataError as missing:
                        raise _reason(row.image, where, broken, images) or missing from None
                    row = row if key == row.image else replace(row, image=key)
                rows.append(row)
            except DataError as error:
                self.refuse(row.id, error)
        self.rows = self._grouped(rows)
        self._joined = len(rows) - len(self.rows)
        return self.rows

    def _grouped(self, rows: list[Example]) -> list[Example]:
        """Captions of one image as one example, by the id that all of them have, else by the image's name."""
        captions: dict[str | None, list[Caption]] = {}
        for row in rows:
            if isinstance(row, Caption):
                captions.setdefault(row.image, []).append(row)
        found = []
        for row in rows:
            own = captions.get(row.image, []) if isinstance(row, Caption) else []
            if not own:
                found.append(row)
            elif row is own[0]:
                same = all(each.id == row.id for each in own)
                said = tuple(text for each in own for text in _said(each.target)) if len(own) > 1 else row.target
                found.append(Example(row.id if same else str(row.image), (), row.image, said, row.extra))
        if len(found) == len(rows):
            return found
        counts = [len(own) for own in captions.values()]
        most = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        total = sum(counts)
        self.own.note(f"rows of one image belong together: {total} rows, {len(counts)} images, {most} rows each")
        return found

    def refuse(self, key: str, error: DataError) -> None:
        self.bad.append((key or str(error.where), error))

    def report(self, ledger: Ledger | None, max_bad_fraction: float) -> None:
        """Hand everything to the ledgers. DataError when too many rows are bad, or none is left."""
        for book in (self.own, ledger):
            if book is None:
                continue
            book.offer(len(self.rows) + self._joined + len(self.bad))
            book.use(len(self.rows) + self._joined)
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
            self.own.check(max_bad_fraction, report=None if ledger is None else ledger.path)
        except DataError as error:
            raise DataError(
                "too many bad rows", where=self.source, got=error.got, expected=error.expected, do=first
            ) from error


def _said(target: Target) -> tuple[str, ...]:
    """The texts of a target that was written."""
    return target if isinstance(target, tuple) else tuple(target) if isinstance(target, dict) else (str(target),)


def _reason(name: str, where: str, broken: ImageKeys, images: Corpus | None) -> DataError | None:
    """What is wrong with the image of a row that is there but cannot be used; None where it is not there."""
    try:
        parts = images.unreadable[broken.find(name, where)] if images is not None and len(broken) else None
    except DataError:
        return None
    return None if parts is None else DataError(**{**parts, "where": f"{where}: {parts.get('where', name)}"})
