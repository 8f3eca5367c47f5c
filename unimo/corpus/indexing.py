"""Building the sidecar index of one shard by reading everything once; reused while the shard stays the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from unimo.corpus.bad_samples import Notes
from unimo.corpus.finding import Kind, Source, Verify, printable
from unimo.corpus.index_file import FORMAT, Index, index_path, load_index
from unimo.corpus.items import Bad, Item, items, named_images
from unimo.data.images import image_size, load_rgb
from unimo.errors import DataError, UsageError
from unimo.file_access import Unread, forget, hash_file, held, read_file
from unimo.formats.columns import Fields
from unimo.ragged import offsets_of, pack_strings
from unimo.sidecar import write_sidecar

IDENTITY = ("sha256", "tokenizer", "fields", "verify", "form")  # what decides which samples and tokens come out
_TOKENIZE_CHARACTERS = 2**21  # texts are handed to the tokenizer in batches of about this size


def index_of(
    kind: Kind, tokenizer, fields: Fields, verify: Verify, index_dir: Path | None, recheck: bool, source: Source
) -> tuple[Index, bool]:
    """The shard's index, and if it was built anew: none was of its content, or what was unreadable can be read."""
    place = index_path(source.path, kind, index_dir)
    stored = load_index(place)
    if stored is not None and stored.header["kind"] == kind:
        header = stored.header
        wanted = {"form": source.form, **_reading(kind, tokenizer, fields)}
        known = replace(source, files=tuple(stored.strings("named"))) if source.listed else source
        if (
            all(header[name] == value for name, value in wanted.items())
            and header["signature"] == _signature(known)
            and (verify == "header" or header["verify"] == "decode")
            and not any(_readable(source.base / name) for name in json.loads(header["unread"]))
            and (not recheck or header["sha256"] == _content_hash(known))
        ):
            return stored, False
    with held(source.path):
        index = build_index(source, kind, tokenizer=tokenizer, fields=fields, verify=verify, earlier=stored)
    write_sidecar(place, FORMAT, index.header, index.arrays)
    return index, True


def build_index(
    source: Source, kind: Kind, *, tokenizer, fields: Fields, verify: Verify = "decode", earlier: Index | None = None
) -> Index:
    """Read a shard once, check every sample, tokenize. earlier: its former index, which knows what damage swallowed.

    Arrays of the index, n samples and m texts:
      keys_blob, keys_offsets (n + 1) · files_… relative paths of loose files, else empty · labels_…
      records_… relative paths of the .json beside loose images · named_… (k) images that a table names
      image_at (n, 2) int64 offset, length · image_sha256 (n, 32) uint8 · sizes (n, 2) int32 width, height
      record_at (n, 2) int64 offset (-1: none) and length of the JSON member, line or text; the row of a table
      metas_… (n) JSON of the other columns, of rows that cannot be read alone
      record_sha256 (n, 32) uint8 · validation (n,) uint8 · token_ids uint16 · token_offsets (m + 1) int64
      captions_… (m) of pairs, and texts that cannot be read again by themselves · caption_offsets (n + 1): pairs only
    """
    forget(source.path)
    if source.listed:
        source = replace(source, files=named_images(source, fields))
    signature, content = _signature(source), _content_hash(source)
    notes, shard = Notes(), _Shard(source, kind, tokenizer, verify)
    for found in items(source, kind, fields, notes):
        shard.take(found)
    if shard.offered == 0:
        notes.tell("shards that hold no samples", printable(source.path.name))
    if earlier is not None and earlier.header["kind"] == kind and shard.damaged:
        shard.take_lost(earlier)
    if signature != _signature(source):
        what, expected = "shard changed while it was being indexed", "a shard that nobody writes to"
        raise DataError(what, where=source.path, expected=expected, do="wait until it is written, then start again")
    counts = {"offered": shard.offered, "used": len(shard.kept), "quarantined": len(shard.bad)}
    header = {
        "kind": kind,
        "form": source.form,
        "described": source.described,
        "shard": printable(source.path.name),
        "signature": signature,
        "sha256": content,
        "verify": verify,
        **_reading(kind, tokenizer, fields),
        "counts": json.dumps(counts),
        "notes": json.dumps(notes.to_json()),
        "quarantined": json.dumps(shard.bad),
        "unread": json.dumps(shard.unread),
    }
    return Index(header, shard.arrays())


class _Shard:
    """What one reading of a shard has found so far."""

    def __init__(self, source: Source, kind: Kind, tokenizer, verify: Verify):
        self.source, self.kind, self.verify = source, kind, verify
        self.kept: list[Item] = []
        self.sizes: list[tuple[int, int]] = []
        self.bad: list[dict[str, str]] = []
        self.unread: list[str] = []  # files to be tried again when the index is opened
        self.seen: set[str] = set()
        self.tokens = _Tokens(tokenizer)
        self.offered = 0
        self.damaged = False

    def take(self, found: Item | Bad) -> None:
        self.offered += 1
        if isinstance(found, Bad):
            self.damaged |= not found.key
            self._quarantine(found.key, found.error)
            return
        try:
            if found.key in self.seen:
                expected, do = "one sample per key", "rename or remove one"
                raise DataError("key appears twice", where=found.where, got=found.key, expected=expected, do=do)
            self.sizes.append(self._image_size(found) if self.kind != "texts" else (0, 0))
        except DataError as error:
            self._quarantine(found.key, error)
            return
        self.seen.add(found.key)
        self.tokens.add(found.texts)
        found.image = b""
        if self.kind != "pairs":  # a text that can be read again is not kept
            found.texts = [text if found.record_at[0] < 0 else "" for text in found.texts]
        self.kept.append(found)

    def take_lost(self, earlier: Index) -> None:
        """Of a damaged shard, what it once held is lost by name."""
        for key in earlier.strings("keys"):
            if key not in self.seen:
                self.offered += 1
                where, expected = f"{self.source.path.name}, key {key}", "the sample, as in the shard's former index"
                what, do = "sample lost in a damaged stretch", "fetch the shard again"
                self._quarantine(key, DataError(what, where=where, expected=expected, do=do))

    def arrays(self) -> dict[str, np.ndarray]:
        kept, n = self.kept, len(self.kept)
        found = {
            "image_at": np.array([item.image_at for item in kept], np.int64).reshape(n, 2),
            "image_sha256": _hashes(item.image_sha256 for item in kept),
            "sizes": np.array(self.sizes, np.int32).reshape(n, 2),
            "record_at": np.array([item.record_at for item in kept], np.int64).reshape(n, 2),
            "record_sha256": _hashes(item.record_sha256 for item in kept),
            "validation": np.array([item.validation for item in kept], np.uint8),
            **self.tokens.arrays(),
        }
        columns = {
            "keys": [item.key for item in kept],
            "files": [item.file for item in kept],
            "labels": [item.label for item in kept],
            "records": [item.record for item in kept],
            "metas": [item.meta for item in kept],
            "named": self.source.files if self.source.listed else (),
        }
        if self.kind != "images":
            columns["captions"] = [caption for item in kept for caption in item.texts]
        if self.kind == "pairs":
            found["caption_offsets"] = offsets_of([len(item.texts) for item in kept])
        for name, values in columns.items():
            found[f"{name}_blob"], found[f"{name}_offsets"] = pack_strings(values)
        return found

    def _quarantine(self, key: str, error: DataError) -> None:
        self.bad.append({"key": key, **error.parts()})
        if key:
            self.seen.add(key)
        if isinstance(error, Unread):
            self.unread.append(os.path.relpath(str(error.where), self.source.base))

    def _image_size(self, item: Item) -> tuple[int, int]:
        item.image_sha256 = hashlib.sha256(item.image).digest()
        if self.verify == "header":
            return image_size(item.image, where=item.where)
        return load_rgb(item.image, where=item.where).size


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
        self.waiting_characters += sum(map(len, texts))
        if self.waiting_characters >= _TOKENIZE_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            encoded = self.tokenizer.encode_batch(self.waiting)
            self.counts += [len(ids) for ids in encoded]
            flat = np.fromiter((i for ids in encoded for i in ids), np.int64)
            if flat.size and flat.max() > np.iinfo(np.uint16).max:
                what, do = "vocabulary is too large for the index", "take a tokenizer with a smaller vocabulary"
                raise UsageError(what, where="tokenizer", got=int(flat.max()), expected="ids below 65536", do=do)
            self.ids.append(flat.astype(np.uint16))
        self.waiting, self.waiting_characters = [], 0

    def arrays(self) -> dict[str, np.ndarray]:
        self.flush()
        return {"token_ids": np.concatenate(self.ids), "token_offsets": offsets_of(self.counts)}


def _readable(path: Path) -> bool:
    """Whether what could not be read can be by now."""
    try:
        read_file(path)
    except DataError as error:
        return not isinstance(error, Unread)
    return True


def _signature(source: Source) -> str:
    """Sizes and times of change: cheap to read at every start, enough to notice ordinary edits."""
    lines = [] if source.form == "loose" else [_stamp(source.path)]
    lines += [f"{name} {_stamp(source.base / name)}" for name in source.files]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()


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
        path = source.base / name
        if not loose and not os.path.lexists(path):
            continue  # named by a table, and a bad sample
        try:
            content = hash_file(path)
        except DataError as error:
            content = error.what
        digest.update(f"{name}\0{content}\0".encode("utf-8", "replace"))
    return digest.hexdigest()


def _reading(kind: Kind, tokenizer, fields: Fields) -> dict[str, str]:
    """How a shard is read, beside its form."""
    known = "" if kind == "images" else tokenizer.fingerprint
    return {"tokenizer": known, "fields": json.dumps(asdict(fields), sort_keys=True)}


def _hashes(digests: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
