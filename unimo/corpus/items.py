"""Reading a shard once, sample by sample: whole ones, bad ones, and stretches that are lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unimo.corpus import text as readers
from unimo.corpus.bad_samples import Notes
from unimo.corpus.finding import IMAGE_SUFFIXES, Fields, Kind, Source, printable, walk_order
from unimo.corpus.image_names import FolderNames
from unimo.corpus.tar import Member, Parts, TarMembers, scan_tar
from unimo.errors import DataError
from unimo.file_access import MAX_MEMBER_BYTES, read_file, read_range

Rows = Iterable["readers.Row | DataError"]


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


class Bad(NamedTuple):
    """A sample that cannot be used; without a key, a stretch that may have held any number of samples."""

    key: str
    error: DataError


class PassedOver(Exception):
    """What is neither a sample nor a bad one, with the reason."""


def items(source: Source, kind: Kind, fields: Fields, notes: Notes) -> Iterator[Item | Bad]:
    """Every sample of a shard: usable ones, bad ones, lost stretches; what is passed over goes to notes."""
    return iter(_Reader(source, kind, fields, notes))


class _Reader:
    def __init__(self, source: Source, kind: Kind, fields: Fields, notes: Notes):
        self.source, self.kind, self.fields, self.notes = source, kind, fields, notes
        self.path, self.name = source.path, source.path.name

    def __iter__(self) -> Iterator[Item | Bad]:
        form = self.source.form
        if form == "tar":
            return self._tar()
        if form == "loose":
            return {"texts": self._texts, "images": self._images, "pairs": self._pairs}[self.kind]()
        rows = readers.read_jsonl(self.path) if form == "jsonl" else readers.read_parquet(self.path)
        if self.kind == "texts":
            return self._row_texts(rows)
        return self._embedded(rows) if form == "parquet" else self._listed(rows)

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
                    pass_over_failed(readers.parse_json(self._read_member(members["json"]), where))
            what = "caption without image" if self.kind == "pairs" else "sample without image"
            got = "only " + ", ".join(sorted(member.name for member in members.values()))
            expected = f"{key} with one of {', '.join(IMAGE_SUFFIXES)}"
            raise DataError(what, where=where, got=got, expected=expected, do="add the image or remove the sample")
        item = Item(key, f"{self.name}, member {image.name}, byte offset {image.offset}")
        item.image, item.image_at = self._read_member(image), (image.offset, image.length)
        given: Any = None
        if member := members.get("json"):
            place = f"{self.name}, member {member.name}"
            given = self._take_record(item, self._read_member(member), place, member.offset)
        if given is None and (member := members.get("txt")):
            given = _lines(self._read_member(member), f"{self.name}, member {member.name}")
        if self.kind == "pairs":
            item.texts = self._captions(given, where)
        return item

    def _read_member(self, member: Member) -> bytes:
        if member.length > MAX_MEMBER_BYTES:
            what, got, expected = "member is too large", f"{member.length} bytes", f"at most {MAX_MEMBER_BYTES} bytes"
            do = "make it smaller or remove the sample"
            raise DataError(what, where=f"{self.name}, member {member.name}", got=got, expected=expected, do=do)
        return read_range(self.path, member.offset, member.length)

    def _take_record(self, item: Item, data: bytes, where: str, offset: int) -> Any:
        """Reads what a JSON object says of an image; returns its captions."""
        values = readers.parse_json(data, where, offset)
        item.record_at, item.record_sha256 = (offset, len(data)), hashlib.sha256(data).digest()
        item.label = self._label(values)
        return first_of(values, self.fields.captions)

    # ---- loose files

    def _images(self) -> Iterator[Item | Bad]:
        for name in self.source.files:
            yield from self._try(printable(name), self._loose, name)

    def _loose(self, name: str) -> Item:
        key = printable(name)
        return Item(key, f"{self.name}/{key}", file=name, image=read_file(self.path / name))

    def _texts(self) -> Iterator[Item | Bad]:
        for name in self.source.files:
            yield from self._try(printable(name), self._text, name)

    def _text(self, name: str) -> Item:
        where = f"{self.name}/{printable(name)}"
        data = read_file(self.path / name, limit=2**40)
        item = Item(printable(name), where, file=name, record_at=(0, len(data)))
        item.record_sha256, item.texts = hashlib.sha256(data).digest(), [_document(data, where, where)]
        return item

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
        item, given = self._loose(name), None
        if record:
            item.record, data = record, read_file(self.path / record)
            given = self._take_record(item, data, f"{self.name}/{printable(record)}", 0)
        if given is None and lines:
            given = _lines(read_file(self.path / lines), f"{self.name}/{printable(lines)}")
        item.texts = self._captions(given, where)
        return item

    # ---- tables

    def _row_texts(self, rows: Rows) -> Iterator[Item | Bad]:
        for row in rows:
            if isinstance(row, DataError):
                yield _bad_row(row)
            else:
                yield from self._try(row.key, self._row_text, row)

    def _row_text(self, row: readers.Row) -> Item:
        name = "/".join(self.fields.text)
        value = first_of(row.values, self.fields.text)
        if value is None:
            raise _missing_field(row, self.fields.text)
        text = _document(readers.checked_text(value, row.where, name), row.where, f"{row.where}, field {name}")
        at = (row.offset, row.length)
        return Item(row.key, row.where, record_at=at, record_sha256=row.sha256, texts=[text])

    def _embedded(self, rows: Rows) -> Iterator[Item | Bad]:
        for row in rows:
            if isinstance(row, DataError):
                yield Bad("", row)
                continue
            key = row.key if row.values.get("key") is None else str(row.values["key"])
            yield from self._try(key, self._embedded_item, key, row)

    def _embedded_item(self, key: str, row: readers.Row) -> Item:
        if embedded_image(first_of(row.values, self.fields.image)) is None:
            pass_over_failed(row.values)
        data = _image_in(row, self.fields.image)
        at = row.offset
        item = Item(key, row.where, image=data, image_at=(at, len(data)), record_at=(at, 1))
        item.label = self._label(row.values)
        if self.kind == "pairs":
            item.texts = self._captions(first_of(row.values, self.fields.captions), row.where)
        return item

    def _listed(self, rows: Rows) -> Iterator[Item | Bad]:
        """Rows that name the same image are one pair with several captions; the row met first is its record."""
        files = FolderNames(self.path.parent)
        found: dict[str, Item] = {}
        for row in rows:
            if isinstance(row, DataError):
                yield _bad_row(row)
                continue
            try:
                self._take_row(row, files, found)
            except PassedOver as reason:
                self.notes.tell(str(reason), row.where)
            except DataError as error:
                yield Bad(row.where, error)
        for name, item in found.items():
            try:
                item.image = read_file(self.path.parent / name)
                yield item
            except DataError as error:
                missing = error.what == "file is missing"
                yield Bad(item.key, files.missing(name, item.where, error) if missing else error)

    def _take_row(self, row: readers.Row, files: FolderNames, found: dict[str, Item]) -> None:
        name = image_name(row, self.fields)
        if name is None:
            pass_over_failed(row.values)
            raise _missing_field(row, self.fields.image)
        name = files.find(name)
        captions = self._captions(first_of(row.values, self.fields.captions), row.where)
        if name in found:
            self.notes.tell("further captions of an image in rows of their own", row.where)
            found[name].texts += captions
            return
        if not os.path.lexists(self.path.parent / name):
            pass_over_failed(row.values)
        key = printable(name)
        at = (row.offset, row.length)
        found[name] = Item(key, f"{row.where}, image {key}", file=name, record_at=at, record_sha256=row.sha256)
        found[name].texts, found[name].label = captions, self._label(row.values)

    # ---- fields

    def _captions(self, given: object, where: str) -> list[str]:
        """One or many captions, stripped; blank ones are dropped and counted."""
        name = "/".join(self.fields.captions)
        what, got, expected = "image without caption", None, f"a field {name}, or lines of .txt"
        given = [given] if isinstance(given, str) else given
        if isinstance(given, list):
            stripped = [readers.checked_text(caption, where, name).strip() for caption in given]
            captions = [caption for caption in stripped if caption]
            self.notes.tell("blank captions", where, count=len(stripped) - len(captions))
            if captions:
                return captions
            got = "only blank captions"
        elif given is not None:
            what, where, got = "wrong type of field", f"{where}, field {name}", type(given).__name__
            expected = "a string or a list of strings"
        do = "add a caption, name another field, or remove the image"
        raise DataError(what, where=where, got=got, expected=expected, do=do)

    def _label(self, values: dict[str, Any]) -> str:
        label = first_of(values, self.fields.label)
        return str(label) if isinstance(label, (str, int)) else ""


def named_images(source: Source, fields: Fields) -> tuple[str, ...]:
    """The files of the images that a .jsonl names, in the order of `walk`, whether they are there or not."""
    files = FolderNames(source.path.parent)
    names = set()
    for row in readers.read_jsonl(source.path):
        with contextlib.suppress(DataError):
            if isinstance(row, readers.Row) and (name := image_name(row, fields)) is not None:
                names.add(files.find(name))
    return tuple(sorted(names, key=walk_order))


def image_name(row: readers.Row, fields: Fields) -> str | None:
    """The path of the image that a row names, below its table's folder and without `./`; None where it names none."""
    value = first_of(row.values, fields.image)
    if value is None:
        return None
    name = readers.checked_text(value, row.where, "/".join(fields.image))
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        expected = "a path relative to the .jsonl, below its folder"
        do = "move the table to a folder above its images and write their paths from there"
        raise DataError("image path leaves the folder", where=row.where, got=name, expected=expected, do=do)
    return path.as_posix()


def pass_over_failed(values: dict[str, Any]) -> None:
    """PassedOver where a record without its image says itself that fetching it failed, as img2dataset's do."""
    status, message = values.get("status"), values.get("error_message")
    if (isinstance(message, str) and message.strip()) or (isinstance(status, str) and _FAILED.match(status)):
        why = f"status {status}" if isinstance(status, str) and status else "with an error_message"
        raise PassedOver(f"records without an image that are named as failed, {why[:60]}")


_FAILED = re.compile(r"(?i)fail|error")


def _bad_row(error: DataError) -> Bad:
    return Bad("" if readers.ends_the_file(error) else str(error.where), error)


def _document(data: bytes | str, where: str, place: str) -> str:
    text = readers.decode_utf8(data, where) if isinstance(data, bytes) else data
    if not text.strip():
        raise DataError("document is empty", where=place, expected="text", do="remove the file or the record")
    return text


def _lines(data: bytes, where: str) -> list[str]:
    return readers.split_lines(readers.decode_utf8(data, where))


def embedded_image(value: object) -> bytes | None:
    """Image bytes of a table cell: plain, or the {bytes, path} record of Hugging Face datasets."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _image_in(row: readers.Row, names: Sequence[str]) -> bytes:
    name = next((name for name in names if row.values.get(name) is not None), None)
    if name is None:
        raise _missing_field(row, names, "bytes of an image")
    value = row.values[name]
    data = embedded_image(value)
    if data is not None:
        return data
    path = value.get("path") if isinstance(value, dict) else value
    got = f"only the path {path}" if isinstance(path, str) else type(value).__name__
    expected = "the bytes of an image file, or {bytes, path} with bytes"
    do = "write the table with its images embedded, or give the folder of images with a .jsonl beside it"
    raise DataError("image is not in the table", where=f"{row.where}, field {name}", got=got, expected=expected, do=do)


def first_of(values: dict[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _missing_field(row: readers.Row, names: Sequence[str], meaning: str = "text") -> DataError:
    got, expected = "fields " + ", ".join(list(row.values)[:8]), f"{meaning} in " + " or ".join(names)
    do = "name the field in Fields, or repair the record"
    return DataError("field is missing", where=row.where, got=got, expected=expected, do=do)
