"""The sidecar index of one shard: built by reading everything once, reused while the shard stays the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from unimo.corpus.bad_samples import Notes
from unimo.corpus.finding import Fields, Kind, Source, Verify
from unimo.corpus.index_file import Index, index_path, load_index, save_index
from unimo.corpus.items import Bad, Item, Lost, items, named_images
from unimo.corpus.walking import printable
from unimo.data.images import image_size, load_rgb
from unimo.errors import DataError, UsageError
from unimo.file_access import Unread, forget, hash_file, read_file
from unimo.ragged import Strings, offsets_of, pack_strings

IDENTITY = (
    "sha256",
    "tokenizer",
    "fields",
    "verify",
    "form",
)  # what decides which samples and tokens come out
_TOKENIZE_CHARACTERS = 2**21  # texts are handed to the tokenizer in batches of about this size


def index_of(
    source: Source,
    kind: Kind,
    tokenizer,
    fields: Fields,
    verify: Verify,
    index_dir: Path | None,
    recheck: bool,
) -> tuple[Index, bool]:
    """The shard's index and whether it was built anew: where there was none of its content, or where what could not be
    read can be by now."""
    place = index_path(source.path, kind, index_dir)
    stored = load_index(place)
    if stored is not None and stored.header["kind"] == kind:
        wanted = {
            "form": source.form,
            "fields": _fields_text(fields),
            "tokenizer": _tokenizer_text(kind, tokenizer),
        }
        known = replace(source, files=tuple(strings(stored.arrays, "named"))) if _is_listed(source, kind) else source
        same = all(stored.header[name] == value for name, value in wanted.items())
        same = same and stored.header["signature"] == _signature(known)
        same = same and (verify == "header" or stored.header["verify"] == "decode")
        same = same and not any(_readable(_base(source) / name) for name in json.loads(stored.header["unread"]))
        if same and (not recheck or stored.header["sha256"] == _content_hash(known)):
            return stored, False
    index = build_index(source, kind, tokenizer=tokenizer, fields=fields, verify=verify, earlier=stored)
    save_index(place, index)
    return index, True


def build_index(
    source: Source,
    kind: Kind,
    *,
    tokenizer,
    fields: Fields,
    verify: Verify = "decode",
    earlier: Index | None = None,
) -> Index:
    """Read a shard once, check every sample, tokenise. earlier: its former index, which knows what damage
    swallowed.

    Arrays of the index, n samples and m texts:
      keys_blob, keys_offsets (n + 1) · files_… relative paths of loose files, else empty · labels_…
      records_… relative paths of the .json beside loose images · named_… (k) images that a .jsonl names
      image_at (n, 2) int64 offset, length · image_sha256 (n, 32) uint8 · sizes (n, 2) int32 width, height
      record_at (n, 2) int64 offset (-1: none) and length of the JSON member, line or text; the row of a table
      record_sha256 (n, 32) uint8 · token_ids uint16 · token_offsets (m + 1) int64
      caption_offsets (n + 1) int64 and captions_blob, captions_offsets (m + 1): pairs only
    """
    forget(source.path)
    if _is_listed(source, kind):
        source = replace(source, files=named_images(source, fields))
    signature = _signature(source)
    content = _content_hash(source)
    notes = Notes()
    kept: list[Item] = []
    bad: list[dict[str, str]] = []
    seen: set[str] = set()
    sizes: list[tuple[int, int]] = []
    tokens = _Tokens(tokenizer)
    offered = 0
    damaged = False
    unread: list[str] = []  # files to be tried again when the index is opened

    def quarantine(key: str, error: DataError) -> None:
        bad.append({"key": key, **error.parts()})
        if isinstance(error, Unread):
            unread.append(os.path.relpath(str(error.where), _base(source)))

    for found in items(source, kind, fields, notes):
        offered += 1
        if isinstance(found, Lost):
            damaged = True
            quarantine("", found.error)
            continue
        if isinstance(found, Bad):
            quarantine(found.key, found.error)
            seen.add(found.key)
            continue
        try:
            if found.key in seen:
                raise DataError(
                    "key appears twice",
                    where=found.where,
                    got=found.key,
                    expected="one sample per key",
                    do="rename or remove one",
                )
            sizes.append(_image_size(found, verify) if kind != "texts" else (0, 0))
        except DataError as error:
            quarantine(found.key, error)
            seen.add(found.key)
            continue
        seen.add(found.key)
        tokens.add(found.texts)
        found.forget_bytes(keep_texts=kind == "pairs")
        kept.append(found)
    if offered == 0:
        notes.tell("shards that hold no samples", printable(source.path.name))
    if earlier is not None and earlier.header["kind"] == kind and damaged:
        for key in strings(earlier.arrays, "keys"):
            if key not in seen:  # the shard is damaged and once held this key: lost, and now by name
                offered += 1
                quarantine(
                    key,
                    DataError(
                        "sample lost in a damaged stretch",
                        where=f"{source.path.name}, key {key}",
                        expected="the sample, as in the shard's former index",
                        do="fetch the shard again",
                    ),
                )
    if signature != _signature(source):
        raise DataError(
            "shard changed while it was being indexed",
            where=source.path,
            expected="a shard that nobody writes to",
            do="wait until it is written, then start again",
        )
    arrays = {
        "image_at": np.array([item.image_at for item in kept], np.int64).reshape(len(kept), 2),
        "image_sha256": _hashes(item.image_sha256 for item in kept),
        "sizes": np.array(sizes, np.int32).reshape(len(kept), 2),
        "record_at": np.array([item.record_at for item in kept], np.int64).reshape(len(kept), 2),
        "record_sha256": _hashes(item.record_sha256 for item in kept),
        **tokens.arrays(),
    }
    columns = {
        "keys": [i.key for i in kept],
        "files": [i.file for i in kept],
        "labels": [i.label for i in kept],
        "records": [i.record for i in kept],
        "named": source.files if _is_listed(source, kind) else (),
    }
    if kind == "pairs":
        columns["captions"] = [caption for item in kept for caption in item.texts]
        arrays["caption_offsets"] = offsets_of([len(item.texts) for item in kept])
    for name, values in columns.items():
        arrays[f"{name}_blob"], arrays[f"{name}_offsets"] = pack_strings(values)
    header = {
        "kind": kind,
        "form": source.form,
        "shard": printable(source.path.name),
        "size": str(0 if source.form == "loose" else source.path.stat().st_size),
        "signature": signature,
        "sha256": content,
        "tokenizer": _tokenizer_text(kind, tokenizer),
        "fields": _fields_text(fields),
        "verify": verify,
        "counts": json.dumps({"offered": offered, "used": len(kept), "quarantined": len(bad)}),
        "notes": json.dumps(notes.to_json()),
        "quarantined": json.dumps(bad),
        "unread": json.dumps(unread),
    }
    return Index(header, arrays)


class _Tokens:
    """Token ids of many texts, encoded in batches."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.waiting: list[str] = []
        self.waiting_characters = 0
        self.ids: list[np.ndarray] = [np.zeros(0, np.uint16)]
        self.counts: list[int] = []

    def add(self, texts: list[str]) -> None:
        self.waiting += texts
        self.waiting_characters += sum(len(text) for text in texts)
        if self.waiting_characters >= _TOKENIZE_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            encoded = self.tokenizer.encode_batch(self.waiting)
            self.counts += [len(ids) for ids in encoded]
            flat = np.fromiter((i for ids in encoded for i in ids), np.int64)
            if flat.size and flat.max() > np.iinfo(np.uint16).max:
                raise UsageError(
                    "vocabulary is too large for the index",
                    where="tokenizer",
                    got=int(flat.max()),
                    expected="ids below 65536",
                    do="take a tokenizer with a smaller vocabulary",
                )
            self.ids.append(flat.astype(np.uint16))
        self.waiting, self.waiting_characters = [], 0

    def arrays(self) -> dict[str, np.ndarray]:
        self.flush()
        return {"token_ids": np.concatenate(self.ids), "token_offsets": offsets_of(self.counts)}


def _image_size(item: Item, verify: Verify) -> tuple[int, int]:
    item.image_sha256 = hashlib.sha256(item.image).digest()
    if verify == "header":
        return image_size(item.image, where=item.where)
    return load_rgb(item.image, where=item.where).size


def _is_listed(source: Source, kind: Kind) -> bool:
    """Whether the shard is a table that names its images: those alone belong to it."""
    return kind == "pairs" and source.form == "jsonl"


def _base(source: Source) -> Path:
    """The folder that names of the shard's files are relative to."""
    return source.path if source.form == "loose" else source.path.parent


def _readable(path: Path) -> bool:
    """Whether what could not be read can be by now."""
    try:
        read_file(path)
    except Unread:
        return False
    except DataError:
        return True
    return True


def _signature(source: Source) -> str:
    """Sizes and times of change: cheap to read at every start, enough to notice ordinary edits."""
    names = [source.path] if source.form != "loose" else []
    base = _base(source)
    lines = [_stamp(path) for path in names]
    lines += [f"{name} {_stamp(base / name)}" for name in source.files]
    return (
        lines[0]
        if len(lines) == 1 and names
        else hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()
    )


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def _content_hash(source: Source) -> str:
    """SHA-256 of the shard's file; of names and hashes of all files, where it is a folder."""
    if not source.files:
        return hash_file(source.path)
    loose = source.form == "loose"
    digest = hashlib.sha256(b"" if loose else hash_file(source.path).encode())
    for name in source.files:
        path = _base(source) / name
        if not loose and not os.path.lexists(path):
            continue  # named by a table, and a bad sample
        try:
            content = hash_file(path)
        except DataError as error:
            content = error.what
        digest.update(f"{name}\0{content}\0".encode("utf-8", "replace"))
    return digest.hexdigest()


def _fields_text(fields: Fields) -> str:
    return json.dumps(asdict(fields), sort_keys=True)


def _tokenizer_text(kind: Kind, tokenizer) -> str:
    return "" if kind == "images" else tokenizer.fingerprint


def _hashes(digests: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def strings(arrays: dict[str, np.ndarray], name: str) -> Strings:
    return Strings(arrays[f"{name}_blob"], arrays[f"{name}_offsets"])
