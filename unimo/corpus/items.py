"""Reading a shard once, sample by sample: whole ones, bad ones, and stretches that are lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimo.corpus import text as readers
from unimo.corpus.bad_samples import Notes
from unimo.corpus.finding import IMAGE_SUFFIXES, Fields, Kind, Source
from unimo.corpus.names import FolderNames
from unimo.corpus.tar import Member, scan_tar
from unimo.corpus.tar_members import TarMembers
from unimo.corpus.walking import printable, walk_order
from unimo.errors import DataError
from unimo.file_access import MAX_MEMBER_BYTES, read_file, read_range


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

    def forget_bytes(self, keep_texts: bool) -> None:
        self.image = b""
        if not keep_texts:
            self.texts = []


@dataclass
class Bad:
    """A sample that cannot be used."""

    key: str
    error: DataError


@dataclass
class Lost:
    """A stretch of a shard that cannot be read: it may have held any number of samples."""

    error: DataError


Found = Iterator["Item | Bad | Lost"]


def items(source: Source, kind: Kind, fields: Fields, notes: Notes) -> Found:
    """Every sample of a shard: usable ones, bad ones, lost stretches; what is passed over goes to notes."""
    if source.form == "tar":
        return _tar_items(source.path, kind, fields, notes)
    if source.form == "loose":
        if kind == "pairs":
            return _loose_pairs(source, fields, notes)
        return _loose_texts(source) if kind == "texts" else _loose_images(source)
    rows = readers.read_jsonl(source.path) if source.form == "jsonl" else readers.read_parquet(source.path)
    if kind == "texts":
        return _row_texts(source, rows, fields)
    if source.form == "parquet":
        return _table_images(rows, kind, fields, notes)
    return _listed_pairs(source, rows, fields, notes)


def _tar_items(path: Path, kind: Kind, fields: Fields, notes: Notes) -> Found:
    """Members sharing a name up to its first dot are one sample (WebDataset); they need not be neighbours."""
    members = TarMembers(kind, notes)
    for entry in scan_tar(path):
        if isinstance(entry, DataError):
            yield Lost(entry)
        else:
            members.take(entry)
    for key, parts in members.samples(path.name):
        if isinstance(parts, DataError):
            yield Bad(key, parts)
            continue
        try:
            yield _tar_item(path, key, f"{path.name}, key {key}", parts, kind, fields, notes)
        except PassedOver as failed:
            notes.tell(str(failed), key)
        except DataError as error:
            yield Bad(key, error)


def _tar_item(
    path: Path, key: str, where: str, members: dict[str, Member], kind: Kind, fields: Fields, notes: Notes
) -> Item:
    values: dict[str, Any] = {}
    image = members.get("image")
    if image is None:
        if "json" in members:
            with contextlib.suppress(DataError):
                values = readers.parse_json(_read_member(path, members["json"]), where)
        pass_over_failed(values)
        raise DataError(
            "caption without image" if kind == "pairs" else "sample without image",
            where=where,
            got="only " + ", ".join(sorted(member.name for member in members.values())),
            expected=f"{key} with one of {', '.join(IMAGE_SUFFIXES)}",
            do="add the image or remove the sample",
        )
    item = Item(key, f"{path.name}, member {image.name}, byte offset {image.offset}")
    item.image, item.image_at = _read_member(path, image), (image.offset, image.length)
    if "json" in members:
        member = members["json"]
        data = _read_member(path, member)
        values = readers.parse_json(data, f"{path.name}, member {member.name}", member.offset)
        item.record_at, item.record_sha256 = (member.offset, member.length), hashlib.sha256(data).digest()
    item.label = _label(values, fields)
    if kind == "pairs":
        given = first_of(values, fields.captions)
        if given is None and "txt" in members:
            given = readers.decode_utf8(
                _read_member(path, members["txt"]), f"{path.name}, member {members['txt'].name}"
            )
            given = readers.split_lines(given)
        item.texts = _captions(given, where, fields, notes)
    return item


def _read_member(path: Path, member: Member) -> bytes:
    if member.length > MAX_MEMBER_BYTES:
        raise DataError(
            "member is too large",
            where=f"{path.name}, member {member.name}",
            got=f"{member.length} bytes",
            expected=f"at most {MAX_MEMBER_BYTES} bytes",
            do="make it smaller or remove the sample",
        )
    return read_range(path, member.offset, member.length)


def _loose_images(source: Source) -> Found:
    for name in source.files:
        key = printable(name)
        try:
            yield Item(key, f"{source.path.name}/{key}", file=name, image=read_file(source.path / name))
        except DataError as error:
            yield Bad(key, error)


def _loose_texts(source: Source) -> Found:
    for name in source.files:
        key = printable(name)
        where = f"{source.path.name}/{key}"
        try:
            data = read_file(source.path / name, limit=2**40)
            text = readers.decode_utf8(data, where)
            if not text.strip():
                raise DataError("document is empty", where=where, expected="text", do="remove the file")
            digest = hashlib.sha256(data).digest()
            yield Item(key, where, file=name, record_at=(0, len(data)), record_sha256=digest, texts=[text])
        except DataError as error:
            yield Bad(key, error)


def _loose_pairs(source: Source, fields: Fields, notes: Notes) -> Found:
    """Images with NAME.json or NAME.txt beside them, as img2dataset writes folders; the .json goes first."""
    images: dict[str, list[str]] = {}  # name without its ending -> images
    for name in source.files:
        if name.lower().endswith(IMAGE_SUFFIXES):
            images.setdefault(name.rpartition(".")[0], []).append(name)
    sides: dict[tuple[str, str], str] = {}  # (name without its ending, ending) -> file
    for name in source.files:
        stem, _, ending = name.rpartition(".")
        sides[stem, ending.lower()] = name
    for stem, names in images.items():
        for name in names:
            key = printable(name)
            where = f"{source.path.name}/{key}"
            beside = {each: sides.get((stem, each)) or sides.get((name, each)) for each in ("json", "txt")}
            try:
                if len(names) > 1 and any((stem, each) in sides for each in beside):
                    raise DataError(
                        "several images share one caption",
                        where=where,
                        got=", ".join(map(printable, names[:3])),
                        expected="one image for each .txt or .json",
                        do="rename one with a caption of its own, or move it away",
                    )
                item = Item(key, where, file=name, image=read_file(source.path / name))
                given = None
                if record := beside["json"]:
                    data = read_file(source.path / record)
                    values = readers.parse_json(data, f"{source.path.name}/{printable(record)}")
                    item.record, item.record_at = record, (0, len(data))
                    item.record_sha256, item.label = hashlib.sha256(data).digest(), _label(values, fields)
                    given = first_of(values, fields.captions)
                if given is None and (text := beside["txt"]):
                    data = read_file(source.path / text)
                    given = readers.split_lines(readers.decode_utf8(data, f"{source.path.name}/{printable(text)}"))
                item.texts = _captions(given, where, fields, notes)
                yield item
            except DataError as error:
                yield Bad(key, error)


def _row_texts(source: Source, rows: Iterable[readers.Row | DataError], fields: Fields) -> Found:
    for row in rows:
        if isinstance(row, DataError):
            yield _lost_or_bad(source, row)
            continue
        key = row.where.replace(", line ", ":").replace(", row ", ":")
        try:
            value = first_of(row.values, fields.text)
            if value is None:
                raise _missing_field(row, fields.text)
            text = readers.checked_text(value, row.where, "/".join(fields.text))
            if not text.strip():
                raise DataError(
                    "document is empty",
                    where=f"{row.where}, field {'/'.join(fields.text)}",
                    expected="text",
                    do="remove the record",
                )
            item = Item(key, row.where, record_at=(row.offset, row.length), texts=[text])
            item.record_sha256 = row.sha256
            yield item
        except DataError as error:
            yield Bad(key, error)


def _table_images(rows: Iterable[readers.Row | DataError], kind: Kind, fields: Fields, notes: Notes) -> Found:
    for row in rows:
        if isinstance(row, DataError):
            yield Lost(row)
            continue
        key = row.values.get("key")
        key = row.where.replace(", row ", ":") if key is None else str(key)
        try:
            if embedded_image(first_of(row.values, fields.image)) is None:
                pass_over_failed(row.values)
            data = _image_in(row, fields.image)
            item = Item(key, row.where, image=data, image_at=(row.offset, len(data)), record_at=(row.offset, 1))
            item.label = _label(row.values, fields)
            if kind == "pairs":
                item.texts = _captions(first_of(row.values, fields.captions), row.where, fields, notes)
            yield item
        except PassedOver as failed:
            notes.tell(str(failed), key)
        except DataError as error:
            yield Bad(key, error)


def _listed_pairs(source: Source, rows: Iterable[readers.Row | DataError], fields: Fields, notes: Notes) -> Found:
    """Rows that name the same image are one pair with several captions; the row met first is its record."""
    folder = source.path.parent
    files = FolderNames(folder)
    items: dict[str, Item] = {}
    for row in rows:
        if isinstance(row, DataError):
            yield _lost_or_bad(source, row)
            continue
        try:
            name = image_name(row, fields)
            if name is None:
                pass_over_failed(row.values)
                raise _missing_field(row, fields.image)
            name = files.find(name)
            captions = _captions(first_of(row.values, fields.captions), row.where, fields, notes)
            if name not in items:
                if not os.path.lexists(folder / name):
                    pass_over_failed(row.values)
                key = printable(name)
                item = Item(key, f"{row.where}, image {key}", file=name, record_at=(row.offset, row.length))
                item.record_sha256, item.label = row.sha256, _label(row.values, fields)
                items[name] = item
            else:
                notes.tell("further captions of an image in rows of their own", row.where)
            items[name].texts += captions
        except PassedOver as failed:
            notes.tell(str(failed), row.where)
        except DataError as error:
            yield Bad(row.where, error)
    for name, item in items.items():
        try:
            item.image = read_file(folder / name)
            yield item
        except DataError as error:
            if error.what == "file is missing":
                error = files.missing(name, item.where, error)
            yield Bad(item.key, error)


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
    """The path of the image that a row names, relative to its table; None where it names none."""
    name = first_of(row.values, fields.image)
    return None if name is None else _inside(readers.checked_text(name, row.where, "/".join(fields.image)), row.where)


class PassedOver(Exception):
    """What is neither a sample nor a bad one, with the reason."""


def pass_over_failed(values: dict[str, Any]) -> None:
    """PassedOver where a record without its image says itself that fetching it failed, as img2dataset's do."""
    status, message = values.get("status"), values.get("error_message")
    if (isinstance(message, str) and message.strip()) or (isinstance(status, str) and _FAILED.match(status)):
        said = f"status {status}" if isinstance(status, str) and status else "with an error_message"
        raise PassedOver(f"records without an image that are named as failed, {said[:60]}")


_FAILED = re.compile(r"(?i)fail|error")


def _lost_or_bad(source: Source, error: DataError) -> Bad | Lost:
    lost = error.what.startswith(("cannot unpack", "cannot read"))
    return Lost(error) if lost else Bad(str(error.where), error)


def _inside(name: str, where: str) -> str:
    """A relative image path that stays in its folder, without `./` and doubled slashes."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise DataError(
            "image path leaves the folder",
            where=where,
            got=name,
            expected="a path relative to the .jsonl, below its folder",
            do="move the table to a folder above its images and write their paths from there",
        )
    return path.as_posix()


def _captions(given: object, where: str, fields: Fields, notes: Notes) -> list[str]:
    """One or many captions, stripped; blank ones are dropped and counted."""
    name = "/".join(fields.captions)
    if isinstance(given, str):
        given = [given]
    if given is None:
        raise DataError(
            "image without caption",
            where=where,
            expected=f"a field {name}, or lines of .txt",
            do="add a caption or remove the image",
        )
    if not isinstance(given, list):
        raise DataError(
            "wrong type of field",
            where=f"{where}, field {name}",
            got=type(given).__name__,
            expected="a string or a list of strings",
            do="repair or remove this record, or name another field",
        )
    stripped = [readers.checked_text(caption, where, name).strip() for caption in given]
    captions = [caption for caption in stripped if caption]
    notes.tell("blank captions", where, len(stripped) - len(captions))
    if not captions:
        raise DataError(
            "image without caption",
            where=where,
            got="only blank captions",
            expected="a caption of more than blanks",
            do="add a caption or remove the image",
        )
    return captions


def _label(values: dict[str, Any], fields: Fields) -> str:
    label = first_of(values, fields.label)
    return str(label) if isinstance(label, (str, int)) else ""


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
    raise DataError(
        "image is not in the table",
        where=f"{row.where}, field {name}",
        got=f"only the path {path}" if isinstance(path, str) else type(value).__name__,
        expected="the bytes of an image file, or {bytes, path} with bytes",
        do="write the table with its images embedded, or give the folder of images with a .jsonl beside it",
    )


def first_of(values: dict[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _missing_field(row: readers.Row, names: Sequence[str], meaning: str = "text") -> DataError:
    return DataError(
        "field is missing",
        where=row.where,
        got="fields " + ", ".join(list(row.values)[:8]),
        expected=f"{meaning} in " + " or ".join(names),
        do="name the field in Fields, or repair the record",
    )
