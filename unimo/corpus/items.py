"""Reading a shard once, sample by sample: whole ones, bad ones, and stretches that are lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from unimo.corpus.bad_samples import Notes
from unimo.corpus.finding import IMAGE_SUFFIXES, Kind, Source, printable, walk_order
from unimo.corpus.image_names import MISSING, ImageFiles
from unimo.corpus.tar_samples import Parts, TarMembers
from unimo.errors import DataError
from unimo.file_access import MAX_MEMBER_BYTES, read_file, read_range
from unimo.formats.arrow import embedded_image
from unimo.formats.columns import CAPTION_NAMES, DOWNLOAD, PLAIN_CAPTION_NAMES, Fields, first_of, missing_field, without
from unimo.formats.delimited import unpacked
from unimo.formats.documents import KARPATHY, layout_of
from unimo.formats.json_values import is_blank
from unimo.formats.tables import ADDRESSED, rows_of
from unimo.formats.tar import Member, scan_tar
from unimo.formats.text import Row, checked_text, decode_utf8, ends_the_file, parse_json, split_lines

KARPATHY_TRAINING, KARPATHY_VALIDATION = ("train", "restval"), "val"


@dataclass
class Item:
    """A candidate sample while its shard is being indexed."""

    key: str
    where: str
    file: str = ""
    image: bytes = b""
    image_at: tuple[int, int] = (0, 0)
    image_sha256: bytes = bytes(32)
    record_at: tuple[int, int] = (-1, 0)
    record_sha256: bytes = bytes(32)
    texts: list[str] = field(default_factory=list)
    label: str = ""
    record: str = ""  # relative path of the .json beside a loose image
    meta: str = ""  # JSON of the other columns of a row that cannot be read alone
    validation: bool = False  # of the data's own validation split


class Bad(NamedTuple):
    """A sample that cannot be used; without a key, a stretch that may have held any number of samples."""

    key: str
    error: DataError


class _Side(NamedTuple):
    """A file or member beside an image."""

    where: str
    data: bytes
    offset: int = 0


class PassedOver(Exception):
    """What is neither a sample nor a bad one, with the reason."""


def items(source: Source, kind: Kind, fields: Fields, notes: Notes) -> Iterator[Item | Bad]:
    """Every sample of a shard: usable ones, bad ones, lost stretches; what is passed over goes to notes."""
    return iter(_Reader(source, kind, fields, notes))


class _Reader:
    def __init__(self, source: Source, kind: Kind, fields: Fields, notes: Notes):
        self.source, self.kind, self.fields, self.notes = source, kind, fields, notes
        self.path, self.name = source.path, source.path.name
        karpathy = source.form == "json" and layout_of(self.path) == KARPATHY
        self.own_split = KARPATHY_VALIDATION if karpathy and not fields.split else None

    def __iter__(self) -> Iterator[Item | Bad]:
        form = self.source.form
        if form == "tar":
            return self._tar()
        if form == "loose":
            return (
                self._pairs()
                if self.kind == "pairs"
                else self._each(self._text if self.kind == "texts" else self._image)
            )
        return self._row_texts() if self.kind == "texts" else self._row_images()

    def _try(self, key: str, make: Callable[..., Item], *given: Any) -> Iterator[Item | Bad]:
        try:
            yield make(*given)
        except PassedOver as reason:
            self.notes.tell(str(reason), key)
        except DataError as error:
            yield Bad(key, error)

    # ---- tar

    def _tar(self) -> Iterator[Item | Bad]:
        """Members sharing a name up to its first dot are one sample (WebDataset); they need not be neighbours."""
        members = TarMembers(self.kind, self.notes)
        for entry in scan_tar(self.path):
            if isinstance(entry, DataError):
                yield Bad("", entry)
            else:
                members.take(entry)
        for key, parts in members.samples(self.name):
            if isinstance(parts, DataError):
                yield Bad(key, parts)
            else:
                yield from self._try(key, self._tar_item, key, parts)

    def _tar_item(self, key: str, members: Parts) -> Item:
        where = f"{self.name}, key {key}"
        image = members.get("image")
        if image is None:
            if "json" in members:
                with contextlib.suppress(DataError):
                    pass_over_failed(parse_json(self._member(members["json"]).data, where))
            what = "caption without image" if self.kind == "pairs" else "sample without image"
            got = "only " + ", ".join(sorted(member.name for member in members.values()))
            expected = f"{key} with one of {', '.join(IMAGE_SUFFIXES)}"
            raise DataError(what, where=where, got=got, expected=expected, do="add the image or remove the sample")
        item = Item(key, f"{self.name}, member {image.name}, byte offset {image.offset}")
        item.image, item.image_at = self._member(image).data, (image.offset, image.length)
        record, lines = (members.get(each) for each in ("json", "txt"))
        self._describe(item, where, record and self._member(record), lines and self._member(lines))
        return item

    def _member(self, member: Member) -> _Side:
        where = f"{self.name}, member {member.name}"
        if member.length > MAX_MEMBER_BYTES:
            what, got, expected = "member is too large", f"{member.length} bytes", f"at most {MAX_MEMBER_BYTES} bytes"
            raise DataError(what, where=where, got=got, expected=expected, do="make it smaller or remove the sample")
        return _Side(where, read_range(self.path, member.offset, member.length), member.offset)

    def _describe(self, item: Item, where: str, record: _Side | None, lines: _Side | None) -> None:
        """Takes what a .json and a .txt beside an image say; of both the .json goes first, if it has a plain name."""
        given: Any = None
        if record:
            values = parse_json(record.data, record.where, record.offset)
            item.record_at = record.offset, len(record.data)
            item.record_sha256, item.label = hashlib.sha256(record.data).digest(), self._label(values)
            guessed = self.fields.captions == CAPTION_NAMES and lines is not None
            given = first_of(values, PLAIN_CAPTION_NAMES if guessed else self.fields.captions)
        if given is None and lines:
            given = split_lines(decode_utf8(lines.data, lines.where))
        if self.kind == "pairs":
            item.texts = self._captions(given, where)

    # ---- loose files

    def _each(self, make: Callable[[str], Item]) -> Iterator[Item | Bad]:
        for name in self.source.files:
            yield from self._try(printable(name), make, name)

    def _image(self, name: str) -> Item:
        key = printable(name)
        return Item(key, f"{self.name}/{key}", file=name, image=read_file(self.path / name))

    def _text(self, name: str) -> Item:
        where, data = f"{self.name}/{printable(name)}", read_file(self.path / name, limit=2**40)
        text = decode_utf8(data, where)
        if not text.strip():
            raise DataError("document is empty", where=where, expected="text", do="remove the file")
        at, digest = (0, len(data)), hashlib.sha256(data).digest()
        return Item(printable(name), where, file=name, record_at=at, record_sha256=digest, texts=[text])

    def _pairs(self) -> Iterator[Item | Bad]:
        """Images with NAME.json or NAME.txt beside them, as img2dataset writes folders; the .json goes first."""
        images: dict[str, list[str]] = {}  # name without its ending -> images
        sides: dict[tuple[str, str], str] = {}  # (name without its ending, ending) -> file
        for name in self.source.files:
            stem, _, ending = name.rpartition(".")
            sides[stem, ending.lower()] = name
            if name.lower().endswith(IMAGE_SUFFIXES):
                images.setdefault(stem, []).append(name)
        for stem, names in images.items():
            for name in names:
                shared = len(names) > 1 and any((stem, each) in sides for each in ("json", "txt"))
                found = [sides.get((stem, each)) or sides.get((name, each)) for each in ("json", "txt")]
                yield from self._try(printable(name), self._pair, name, *found, names if shared else [])

    def _pair(self, name: str, record: str | None, lines: str | None, sharing: Sequence[str]) -> Item:
        where = f"{self.name}/{printable(name)}"
        if sharing:
            what, got = "several images share one caption", ", ".join(map(printable, sharing[:3]))
            do = "rename one with a caption of its own, or move it away"
            raise DataError(what, where=where, got=got, expected="one image for each .txt or .json", do=do)
        item = self._image(name)
        item.record = record or ""
        sides = [
            _Side(f"{self.name}/{printable(each)}", read_file(self.path / each)) if each else None
            for each in (record, lines)
        ]
        self._describe(item, where, *sides)
        return item

    # ---- tables

    def _rows(self) -> Iterator[Row | DataError]:
        """The rows of the splits that are read; those of others are passed over."""
        wanted = self.fields.split or ((*KARPATHY_TRAINING, self.own_split) if self.own_split else ())
        for row in _rows_of(self.source):
            split = str(row.values.get("split")) if wanted and isinstance(row, Row) else None
            if split is None or split in wanted:
                yield row
            else:
                self.notes.tell(f"rows of another split ({split[:40]}; --column split={split[:40]} reads them)")

    def _row_texts(self) -> Iterator[Item | Bad]:
        for row in self._rows():
            if isinstance(row, DataError):
                yield _bad_row(row)
            else:
                yield from self._try(row.key, self._row_text, row)

    def _row_text(self, row: Row) -> Item:
        value, name = first_of(row.values, self.fields.text), "/".join(self.fields.text[:4])
        if value is None and set(self.fields.text).isdisjoint(row.values):
            raise missing_field(row.values, row.where, "text", self.fields.text)
        if is_blank(value):
            raise PassedOver("rows with a blank text")
        return Item(row.key, row.where, **self._address(row), texts=[checked_text(value, row.where, name)])

    def _address(self, row: Row) -> dict[str, Any]:
        """Where a row can be read again, if it can be read alone; else what it says beside the sample."""
        if self.source.form not in ADDRESSED:
            meta = without(row.values, [*self.fields.parts(self.kind), ("",)])
            return {"meta": json.dumps(meta) if meta else ""}
        return {"record_at": (row.offset, row.length), "record_sha256": row.sha256}

    def _row_images(self) -> Iterator[Item | Bad]:
        """Rows that hold an image, and rows that name one: those that name the same are one sample with several
        captions, and the row met first is its record."""
        files = ImageFiles(self.path.parent)
        found: dict[str, Item] = {}
        lost: dict[str, DataError] = {}
        for row in self._rows():
            if isinstance(row, DataError):
                yield _bad_row(row)
            elif any(embedded_image(row.values.get(name)) is not None for name in self.fields.image):
                key = row.key if row.values.get("key") is None else str(row.values["key"])
                yield from self._try(key, self._embedded, key, row)
            else:
                try:
                    self._take_named(row, files, found, lost)
                except PassedOver as reason:
                    self.notes.tell(str(reason), row.where)
                except DataError as error:
                    yield Bad(row.where, error)
        yield from (Bad(printable(name), error) for name, error in lost.items())
        for item in found.values():
            try:
                item.image = read_file(self.path.parent / item.file)
                yield item
            except DataError as error:
                yield Bad(item.key, error)

    def _embedded(self, key: str, row: Row) -> Item:
        images = (embedded_image(row.values.get(name)) for name in self.fields.image)
        data = next(image for image in images if image is not None)
        item = Item(key, row.where, image=data, image_at=(row.offset, len(data)), **self._address(row))
        item.label, item.texts = self._label(row.values), self._row_captions(row)
        return item

    def _take_named(self, row: Row, files: ImageFiles, found: dict[str, Item], lost: dict[str, DataError]) -> None:
        given = image_name(row, self.fields)
        if given is None:
            pass_over_failed(row.values)
            if "conversations" in row.values:
                raise PassedOver("conversations about no image")
            raise _no_image(row, self.fields.image)
        if _ADDRESS.match(given):
            raise DataError("image is an address", where=row.where, got=given[:200], expected="a file", do=DOWNLOAD)
        try:
            name = files.find(given, row.where)
        except DataError as error:
            pass_over_failed(row.values)
            if error.what != MISSING:
                raise
            self._row_captions(row)
            embedded = next((each for each in self.fields.image if isinstance(row.values.get(each), dict)), None)
            lost.setdefault(given, _no_image(row, (embedded,)) if embedded else error)
            return
        captions = self._row_captions(row)
        if name in found:
            self.notes.tell("further captions of an image in rows of their own", row.where)
            found[name].texts += captions
            return
        key = printable(name.removeprefix("../"))
        found[name] = Item(key, f"{row.where}, image {key}", file=name, **self._address(row))
        found[name].texts, found[name].label = captions, self._label(row.values)
        found[name].validation = self.own_split is not None and row.values.get("split") == self.own_split

    def _row_captions(self, row: Row) -> list[str]:
        if self.kind != "pairs":
            return []
        name = next((name for name in self.fields.captions if row.values.get(name) is not None), None)
        given = None if name is None else row.values[name]
        if not row.typed and isinstance(given, str):
            given = unpacked(given, f"{row.where}, field {name}")
        if name is None and not set(self.fields.captions) & row.values.keys():
            raise missing_field(row.values, row.where, "caption", self.fields.captions)
        return self._captions(given, row.where)

    # ---- fields

    def _captions(self, given: object, where: str) -> list[str]:
        """One or many captions, stripped; blank ones are dropped and counted."""
        name = "/".join(self.fields.captions[:4])
        what, got, expected = "image without caption", None, f"a field {name}, or lines of .txt"
        given = [given] if isinstance(given, str) else given
        if isinstance(given, list):
            captions = [checked_text(caption, where, name).strip() for caption in given if not is_blank(caption)]
            self.notes.tell("blank captions", where, count=len(given) - len(captions))
            if captions:
                return captions
            got = "only blank captions"
        elif not is_blank(given):
            what, where, got = "wrong type of field", f"{where}, field {name}", type(given).__name__
            expected = "a string or a list of strings"
        do = "add a caption, name another field, or remove the image"
        raise DataError(what, where=where, got=got, expected=expected, do=do)

    def _label(self, values: dict[str, Any]) -> str:
        label = first_of(values, self.fields.label)
        return str(label) if isinstance(label, (str, int)) else ""


def named_images(source: Source, fields: Fields) -> tuple[str, ...]:
    """The files of the images that a table names, in the order of `walk`, whether they are there or not."""
    files = ImageFiles(source.path.parent)
    names = set()
    for row in _rows_of(source) if source.listed else ():
        with contextlib.suppress(DataError):
            if isinstance(row, Row) and (name := image_name(row, fields)) is not None:
                try:
                    names.add(files.find(name, row.where))
                except DataError as error:
                    names |= {PurePosixPath(name).as_posix()} if error.what == MISSING else set()  # may come
    return tuple(sorted(names, key=walk_order))


def _rows_of(source: Source) -> Iterator[Row | DataError]:
    """The rows of a table; a file that cannot be read as one is one error among the others."""
    try:
        yield from rows_of(source.path, source.form)
    except DataError as error:
        yield error


def image_name(row: Row, fields: Fields) -> str | None:
    """The path of the image that a row names, as written; None where it names none."""
    value = first_of(row.values, fields.image)
    if isinstance(value, dict):  # a record of Hugging Face datasets
        value = value.get("path")
    if isinstance(value, str) and not row.typed:  # NAME, CAPTION: blanks beside a delimiter are nobody's name
        value = value.strip()
    return None if value in (None, "") else checked_text(value, row.where, "/".join(fields.image[:4]))


def pass_over_failed(values: dict[str, Any]) -> None:
    """PassedOver where a record without its image says itself that fetching it failed, as img2dataset's do."""
    status, message = values.get("status"), values.get("error_message")
    if (isinstance(message, str) and message.strip()) or (isinstance(status, str) and _FAILED.match(status)):
        why = f"status {status}" if isinstance(status, str) and status else "with an error_message"
        raise PassedOver(f"records without an image that are named as failed, {why[:60]}")


_FAILED = re.compile(r"(?i)fail|error")
_ADDRESS = re.compile(r"(?i)https?://")


def _bad_row(error: DataError) -> Bad:
    return Bad("" if ends_the_file(error) else str(error.where), error)


def _no_image(row: Row, names: Sequence[str]) -> DataError:
    """The error of a row without an image, or whose record has a path alone and no file is there."""
    name = next((name for name in names if row.values.get(name) not in (None, "")), None)
    if name is None and set(names).isdisjoint(row.values):
        return missing_field(row.values, row.where, "image", names)
    if name is None:
        expected, do = "the path of an image", "fill it or remove the row"
        return DataError("row names no image", where=row.where, got="a blank", expected=expected, do=do)
    value = row.values[name]
    path = value.get("path") if isinstance(value, dict) else value
    got = f"only the path {path}" if isinstance(path, str) else type(value).__name__
    expected = "a path below the folder of the table, the bytes of an image file, or {bytes, path} with bytes"
    do = "write the table with its images embedded, or put the images beside it"
    return DataError("image is not in the table", where=f"{row.where}, field {name}", got=got, expected=expected, do=do)
