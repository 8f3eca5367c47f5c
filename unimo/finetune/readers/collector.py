"""Collecting the rows of one split: usable rows, bad rows by name, rows left out by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus
from unimo.corpus.image_names import ImageKeys
from unimo.errors import DataError
from unimo.finetune.example import Caption, Dropped, Example, Noted, Target
from unimo.formats.text import ends_the_file


class RowCollector:
    """Rows of a split while it is read, and what was wrong with others.

    rows: the usable ones so far. own: counts and notes of this split alone. Rows that are captions of one image
    become one example, where the first of them stood; how many there were is noted.
    """

    def __init__(self, source: str, need_targets: bool, keep_unlabelled: bool = False):
        self.source, self.need_targets, self.keep_unlabelled = source, need_targets, keep_unlabelled
        self.own = BadSamples()  # this split is judged alone, whatever else the run's report already holds
        self.rows: list[Example] = []
        self.bad: list[tuple[str, DataError]] = []  # (key, what is wrong)
        self._met = 0
        self._seen: dict[str, tuple[int, str | None]] = {}  # id -> which of the rows met, from 1; image of a caption
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
            self.bad.append((str(found.where), found))
        else:
            caption_of = found.image if isinstance(found, Caption) else None
            first, image = self._seen.setdefault(found.id, (self._met, caption_of))
            if first == self._met or (isinstance(found, Caption) and image == found.image):
                self.rows.append(found)  # of captions, the id may be the image's
            else:
                self.bad.append((found.id, self._twice(found.id, first)))

    def _twice(self, name: str, first: int) -> DataError:
        where, expected = f"{self.source}, id {name}, row {self._met}", "an id of its own for each row"
        got = f"the id of row {first} (counted from 1, without header and blank lines)"
        do = "rename or remove one, or let no column be the id; the first was kept"
        return DataError("id appears twice", where=where, got=got, expected=expected, do=do)

    def settled(self, images: Corpus | None) -> list[Example]:
        """The usable rows once all are known: with a target if others have one, with keys that the corpus has."""
        keys = None if images is None else ImageKeys.of(images)
        broken = ImageKeys(() if images is None else images.unreadable)
        labelled = self.need_targets or any(row.target is not None for row in self.rows)
        columns = [note for note in self.own.notes if note.startswith("columns")]
        if self.need_targets and self.rows and columns and all("no targets" in note for note in columns):
            got, do = (
                "; ".join(columns),
                "name its column: --column label=NAME (or score, target, answers)",
            )
            raise DataError("no row has a target", where=self.source, got=got, expected="a column of targets", do=do)
        if labelled and self.keep_unlabelled:
            count = sum(row.target is None for row in self.rows)
            self.own.note("rows without a target: answered, not scored", count)
            labelled = False
        rows = []
        for row in self.rows:
            where = f"{self.source}, id {row.id}"
            try:
                if labelled and row.target is None:
                    expected = "a target in every row, or in none (a split to predict for); label -1 means none"
                    do = "fill it, call a class -1 otherwise, or remove the row"
                    raise DataError("target is missing", where=where, expected=expected, do=do)
                if row.image is not None and keys is not None and images is not None:
                    key = _found(row.image, where, keys, broken, images)
                    row = row if key == row.image else replace(row, image=key)
                rows.append(row)
            except DataError as error:
                self.bad.append((row.id, error))
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
                target = tuple(text for each in own for text in _texts(each.target)) if len(own) > 1 else row.target
                found.append(Example(row.id if same else str(row.image), (), row.image, target, row.extra))
        if len(found) < len(rows):
            counts = sorted(len(own) for own in captions.values())
            each = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
            note = f"{sum(counts)} rows, {len(counts)} images, {each} rows each"
            self.own.note(f"rows of one image belong together: {note}")
        return found

    def report(self, bad_samples: BadSamples | None, max_bad_fraction: float) -> None:
        """Hand everything to the reports. DataError when too many rows are bad, or none is left."""
        used = len(self.rows) + self._joined
        for report in filter(None, (self.own, bad_samples)):
            report.offer(used + len(self.bad))
            report.use(used)
            for key, error in self.bad:
                report.add(error, key=key, shard=self.source)
        if bad_samples is not None:
            for note, count in self.own.notes.items():
                bad_samples.note(f"{self.source}: {note}", count)
        common = Counter(error.what for _, error in self.bad).most_common(1)
        first = next((f"the first: {error.one_line()}" for _, error in self.bad if error.what == common[0][0]), None)
        if not self.rows:
            reasons = [f"{count} x {what}" for what, count in self.own.summary()["reasons"].items()]
            reasons += [f"{count} x {what}" for what, count in self.own.notes.items() if "left out" in what]
            got, expected = "; ".join(reasons) or "an empty file", "at least one row"
            raise DataError("no usable row", where=self.source, got=got, expected=expected, do=first)
        try:
            self.own.check(max_bad_fraction)
        except DataError as error:
            what = "too many bad rows"
            raise DataError(what, where=self.source, got=error.got, expected=error.expected, do=first) from error


def _found(name: str, where: str, keys: ImageKeys, broken: ImageKeys, images: Corpus) -> str:
    """The key of an image. DataError where there is none; with what is wrong with one that is there and left out."""
    try:
        return keys.find(name, where)
    except DataError as missing:
        try:
            parts = images.unreadable[broken.find(name, where)]
        except DataError:
            raise missing from None
        raise DataError(**{**parts, "where": f"{where}: {parts.get('where', name)}"}) from None


def _texts(target: Target) -> tuple[str, ...]:
    """The texts of a target that was written."""
    return target if isinstance(target, tuple) else tuple(target) if isinstance(target, dict) else (str(target),)
