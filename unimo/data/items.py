"""Reading a shard once, sample by sample: whole ones, bad ones, and stretches that are lost."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimo.data import shards
from unimo.data import text as readers
from unimo.data.finding import IMAGE_SUFFIXES, Fields, Kind, Source
from unimo.data.shards import Member, Oddity
from unimo.errors import DataError


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


def items(source: Source, kind: Kind, fields: Fields, notes: Counter) -> Found:
    if source.form == "tar":
        return _tar_items(source.path, kind, fields, notes)
    if source.form == "loose":
        return _loose_texts(source) if kind == "texts" else _loose_images(source)
    rows = readers.read_jsonl(source.path) if source.form == "jsonl" else readers.read_parquet(source.path)
    if kind == "texts":
        return _row_texts(source, rows, fields)
    if source.form == "parquet":
        return _table_images(rows, kind, fields, notes)
    return _listed_pairs(source, rows, fields, notes)


def _tar_items(path: Path, kind: Kind, fields: Fields, notes: Counter) -> Found:
    """Members sharing a name up to its first dot are one sample (WebDataset); they need not be neighbours."""
    samples: dict[tuple[str, int], dict[str, Member]] = {}
    copies: Counter[str] = Counter()  # how often a key began anew
    for entry in shards.scan_tar(path):
        if isinstance(entry, DataError):
            yield Lost(entry)
            continue
        folder, _, name = entry.name.rpartition("/")
        stem, _, ending = name.partition(".")
        slot = "image" if f".{ending.lower()}" in IMAGE_SUFFIXES else ending.lower()
        if isinstance(entry, Oddity) or slot not in (
            ("image", "json", "txt") if kind == "pairs" else ("image", "json")
        ):
            notes["extra members"] += 1
            continue
        key = f"{folder}/{stem}" if folder else stem
        if slot in samples.get((key, copies[key]), {}):
            copies[key] += 1
        samples.setdefault((key, copies[key]), {})[slot] = entry
    for (key, _), members in samples.items():
        where = f"{path.name}, key {key}"
        try:
            yield _tar_item(path, key, where, members, kind, fields, notes)
        except DataError as error:
            yield Bad(key, error)


def _tar_item(
    path: Path, key: str, where: str, members: dict[str, Member], kind: Kind, fields: Fields, notes: Counter
) -> Item:
    image = members.get("image")
    if image is None:
        raise DataError(
            "caption without image" if kind == "pairs" else "sample without image",
            where=where,
            got="only " + ", ".join(sorted(member.name for member in members.values())),
            expected=f"{key} with one of {', '.join(IMAGE_SUFFIXES)}",
            do="add the image or remove the sample",
        )
    item = Item(key, f"{path.name}, member {image.name}, byte offset {image.offset}")
    item.image, item.image_at = _read_member(path, image), (image.offset, image.length)
    values: dict[str, Any] = {}
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
            given = given.splitlines()
        item.texts = _captions(given, where, fields, notes)
    return item


def _read_member(path: Path, member: Member) -> bytes:
    if member.length > shards.MAX_MEMBER_BYTES:
        raise DataError(
            "member is too large",
            where=f"{path.name}, member {member.name}",
            got=f"{member.length} bytes",
            expected=f"at most {shards.MAX_MEMBER_BYTES} bytes",
        )
    return shards.read_range(path, member.offset, member.length)


def _loose_images(source: Source) -> Found:
    for name in source.files:
        try:
            yield Item(name, f"{source.path.name}/{name}", file=name, image=shards.read_file(source.path / name))
        except DataError as error:
            yield Bad(name, error)


def _loose_texts(source: Source) -> Found:
    for name in source.files:
        where = f"{source.path.name}/{name}"
        try:
            data = shards.read_file(source.path / name, limit=2**40)
            text = readers.decode_utf8(data, where)
            if not text.strip():
                raise DataError("document is empty", where=where, do="remove the file")
            digest = hashlib.sha256(data).digest()
            yield Item(name, where, file=name, record_at=(0, len(data)), record_sha256=digest, texts=[text])
        except DataError as error:
            yield Bad(name, error)


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
                raise DataError("document is empty", where=row.where, do="remove the record")
            item = Item(key, row.where, record_at=(row.offset, row.length), texts=[text])
            item.record_sha256 = row.sha256
            yield item
        except DataError as error:
            yield Bad(key, error)


def _table_images(rows: Iterable[readers.Row | DataError], kind: Kind, fields: Fields, notes: Counter) -> Found:
    for row in rows:
        if isinstance(row, DataError):
            yield Lost(row)
            continue
        key = row.values.get("key")
        key = row.where.replace(", row ", ":") if key is None else str(key)
        try:
            data = embedded_image(first_of(row.values, fields.image))
            if data is None:
                raise _missing_field(row, fields.image, "bytes of an image")
            item = Item(key, row.where, image=data, image_at=(row.offset, len(data)), record_at=(row.offset, 1))
            item.label = _label(row.values, fields)
            if kind == "pairs":
                item.texts = _captions(first_of(row.values, fields.captions), row.where, fields, notes)
            yield item
        except DataError as error:
            yield Bad(key, error)


def _listed_pairs(source: Source, rows: Iterable[readers.Row | DataError], fields: Fields, notes: Counter) -> Found:
    """Rows that name the same image are one pair with several captions; the row met first is its record."""
    items: dict[str, Item] = {}
    for row in rows:
        if isinstance(row, DataError):
            yield _lost_or_bad(source, row)
            continue
        try:
            name = first_of(row.values, fields.image)
            if name is None:
                raise _missing_field(row, fields.image)
            name = _inside(readers.checked_text(name, row.where, "/".join(fields.image)), row.where)
            captions = _captions(first_of(row.values, fields.captions), row.where, fields, notes)
            if name not in items:
                item = Item(name, f"{row.where}, image {name}", file=name, record_at=(row.offset, row.length))
                item.record_sha256, item.label = row.sha256, _label(row.values, fields)
                items[name] = item
            else:
                notes["further captions of an image in rows of their own"] += 1
            items[name].texts += captions
        except DataError as error:
            yield Bad(row.where, error)
    for name, item in items.items():
        try:
            item.image = shards.read_file(source.path.parent / name)
            yield item
        except DataError as error:
            yield Bad(name, error)
    for name in source.files:
        if name not in items:
            yield Bad(
                name,
                DataError(
                    "image without caption",
                    where=f"{source.path.parent.name}/{name}",
                    expected=f"a row of {source.path.name} that names it",
                    do="add a caption or move the image away",
                ),
            )


def _lost_or_bad(source: Source, error: DataError) -> Bad | Lost:
    lost = error.what.startswith(("cannot unpack", "cannot read"))
    return Lost(error) if lost else Bad(str(error.where), error)


def _inside(name: str, where: str) -> str:
    """A relative image path that stays in its folder, without `./` and doubled slashes."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise DataError("image path leaves the folder", where=where, got=name, expected="a path relative to the .jsonl")
    return path.as_posix()


def _captions(given: object, where: str, fields: Fields, notes: Counter) -> list[str]:
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
        )
    stripped = [readers.checked_text(caption, where, name).strip() for caption in given]
    captions = [caption for caption in stripped if caption]
    notes["blank captions"] += len(stripped) - len(captions)
    if not captions:
        raise DataError(
            "image without caption",
            where=where,
            got="only blank captions",
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
