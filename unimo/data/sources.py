"""Folders, globs and files of the user become one indexed corpus.

    texts    .txt · .jsonl(.gz) · .parquet                     one document each
    images   image files in folders · WebDataset .tar · .parquet
    pairs    WebDataset .tar (img2dataset's too) · .parquet with an image column · .jsonl beside its images

Each file (each folder, for loose images and .txt) is a shard with a sidecar index. Building the index reads
everything once, checks every sample, names the bad ones, and tokenises; afterwards a corpus is arrays and
paths, and any sample is one positioned read away.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unimo.data import shards
from unimo.data import text as readers
from unimo.data.images import image_size, load_rgb
from unimo.data.ledger import Ledger
from unimo.data.sample import Sample
from unimo.data.shards import Index, Member, Oddity, Strings, offsets_of, pack_strings
from unimo.errors import DataError, UsageError, nearest

Kind = Literal["texts", "images", "pairs"]
Verify = Literal["decode", "header"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TEXT_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
EXPECTED = {
    "texts": "files ending in " + ", ".join(TEXT_SUFFIXES),
    "images": f"image files ({', '.join(IMAGE_SUFFIXES)}), WebDataset .tar or .parquet files",
    "pairs": "WebDataset .tar files, .parquet files with an image column, or a .jsonl beside its images",
}


@dataclass(frozen=True)
class Fields:
    """Names of JSON fields and table columns; the first that a record has is taken."""

    text: tuple[str, ...] = ("text",)  # a document
    image: tuple[str, ...] = (
        "image",
        "image_path",
        "file_name",
        "jpg",
        "jpeg",
        "png",
        "webp",
    )  # path, or bytes
    captions: tuple[str, ...] = ("captions", "caption", "text")  # a string or a list of strings
    label: tuple[str, ...] = ("label_name", "label")  # class of an image


@dataclass(frozen=True)
class Source:
    """One shard: a file, or a folder with the names of its loose files. form: tar, jsonl, parquet, loose."""

    path: Path
    form: str
    files: tuple[str, ...] = ()


def open_corpus(
    kind: Kind,
    paths: str | Path | Sequence[str | Path],
    *,
    tokenizer=None,
    fields: Fields | None = None,
    ledger: Ledger | None = None,
    index_dir: str | Path | None = None,
    verify: Verify = "decode",
    max_bad_share: float = 0.01,
    recheck: bool = False,
    on_shard: Callable[[dict], None] | None = None,
) -> Corpus:
    """Find the shards, build or reuse their indexes, and join them in sorted order.

    paths: a file, a folder (searched recursively), a glob, or a list of these. tokenizer: needed for texts
    and pairs. verify: "decode" decodes every image once while indexing, "header" reads only sizes. recheck:
    hash every shard again instead of trusting size and time of change. on_shard: called with a summary row
    after each shard.

    Raises DataError (nothing found, too many bad samples, unreadable shard) or UsageError (not a path, wrong
    kind).
    """
    if kind not in EXPECTED:
        raise UsageError(
            "unknown kind of data", got=kind, expected=", ".join(EXPECTED), do=_did_you_mean(kind, EXPECTED)
        )
    if verify not in ("decode", "header"):
        raise UsageError("unknown level of verification", got=verify, expected="decode or header")
    if kind != "images" and tokenizer is None:
        raise UsageError(f"{kind} need a tokenizer", where="open_corpus", expected="tokenizer=Tokenizer.default()")
    fields = fields or Fields()
    ledger = Ledger() if ledger is None else ledger
    own = Ledger()  # this corpus is judged alone, whatever else the run's ledger already holds
    sources = find_sources(kind, paths)
    indexes: list[Index] = []
    for source in sources:
        started = time.monotonic()
        index, built = _index_of(
            source,
            kind,
            tokenizer,
            fields,
            verify,
            None if index_dir is None else Path(index_dir),
            recheck,
        )
        for book in (own, ledger):
            book.offer(index.counts["offered"])
            book.use(index.counts["used"])
            for note, count in json.loads(index.header["notes"]).items():
                book.note(note, count)
            for entry in index.quarantined:
                parts = {name: value for name, value in entry.items() if name != "key"}
                book.add(DataError(**parts), key=entry["key"], shard=source.path)
        indexes.append(index)
        if on_shard is not None:
            on_shard(_row(source, index, built, time.monotonic() - started))
    _refuse_copies(sources, indexes)
    if own.used == 0:
        raise DataError(
            f"no usable sample among the {kind}",
            where=ledger.path or ", ".join(str(source.path) for source in sources[:3]),
            got="; ".join(f"{n} x {reason}" for reason, n in own.summary()["reasons"].items()) or "empty files",
            expected=EXPECTED[kind],
            do="look at the reasons, or point to other data",
        )
    own.check(max_bad_share, report=ledger.path)
    return Corpus(kind, sources, indexes)


class Corpus:
    """An indexed set of documents, images or pairs; n items. Only arrays and paths: safe to hand to workers.

    keys            list-like of n strings
    sizes           (n, 2) int32, width and height of the upright images; (n, 2) zeros for texts
    token_counts    texts: (n,) int64; pairs: (m,) int64 of all captions, flat; images: (0,)
    caption_offsets pairs: (n + 1,) int64, captions of item i are [o[i], o[i + 1]); else None
    labels          images whose JSON names a class: n strings or None each; None when no item has one
    fingerprint     SHA-256 over kind, contents of the shards, tokenizer and field names
    """

    def __init__(self, kind: Kind, sources: Sequence[Source], indexes: Sequence[Index]):
        self.kind = kind
        self.shards = [(source.path, source.form) for source in sources]
        parts = [index.arrays for index in indexes]
        self._first = offsets_of([len(part["keys_offsets"]) - 1 for part in parts])
        self.keys = _join_strings(parts, "keys")
        self._files = _join_strings(parts, "files")
        self.sizes = np.concatenate([part["sizes"] for part in parts])
        self._image_at = np.concatenate([part["image_at"] for part in parts])
        self._image_sha256 = np.concatenate([part["image_sha256"] for part in parts])
        self._record_at = np.concatenate([part["record_at"] for part in parts])
        self._record_sha256 = np.concatenate([part["record_sha256"] for part in parts])
        self._token_ids = np.concatenate([part["token_ids"] for part in parts])
        self._token_offsets = _join_offsets([part["token_offsets"] for part in parts])
        self.token_counts = np.diff(self._token_offsets)
        self._captions = _join_strings(parts, "captions") if kind == "pairs" else None
        self.caption_offsets = _join_offsets([part["caption_offsets"] for part in parts]) if kind == "pairs" else None
        names = _join_strings(parts, "labels")
        self.labels = [name or None for name in names] if len(names.blob) else None
        self._text_fields = tuple(json.loads(indexes[0].header["fields"])["text"])
        self._image_fields = tuple(json.loads(indexes[0].header["fields"])["image"])
        self.fingerprint = hashlib.sha256(
            json.dumps(
                [kind, [[index.header[name] for name in _IDENTITY] for index in indexes]], sort_keys=True
            ).encode()
        ).hexdigest()

    def __len__(self) -> int:
        return int(self._first[-1])

    def tokens(self, i: int, j: int = 0) -> np.ndarray:
        """uint16 ids of document i, or of caption j of pair i; no special ids."""
        row = self._text_row(i, j)
        return self._token_ids[self._token_offsets[row] : self._token_offsets[row + 1]]

    def vocabulary(self) -> np.ndarray:
        """(k,) int64, the sorted ids that occur in the texts or captions."""
        return np.unique(self._token_ids).astype(np.int64)

    def text(self, i: int, j: int = 0) -> str:
        """Document i as it stands in its file, or caption j of pair i."""
        row = self._text_row(i, j)
        if self._captions is not None:
            return self._captions[row]
        if self._shard(i)[1] == "loose":
            return readers.decode_utf8(self._record(i), self.where(i))
        values = self._values(i)
        return next(values[name] for name in self._text_fields if values.get(name) is not None)

    def image_bytes(self, i: int) -> bytes:
        """The encoded image of item i; DataError when it is not what was indexed."""
        self._check(i)
        if self.kind == "texts":
            raise UsageError("texts hold no images", where="Corpus.image_bytes")
        path, form = self._shard(i)
        if form == "tar":
            offset, length = (int(value) for value in self._image_at[i])
            data = shards.read_range(path, offset, length)
        elif form == "parquet":
            row = readers.read_parquet_at(path, int(self._image_at[i, 0]))
            data = _embedded_image(_first_of(row, self._image_fields)) or b""
        else:
            data = shards.read_file((path if form == "loose" else path.parent) / self._files[i])
        self._compare(i, data, self._image_sha256[i])
        return data

    def meta(self, i: int) -> dict:
        """The JSON object (or the other columns) of item i; empty where there is none."""
        self._check(i)
        if self._record_at[i, 0] < 0 or self._shard(i)[1] == "loose":
            return {}
        hidden = self._text_fields if self.kind == "texts" else ()
        values = self._values(i)
        return {k: v for k, v in values.items() if k not in hidden and _embedded_image(v) is None}

    def sample(self, i: int) -> Sample:
        """Item i, whole."""
        self._check(i)
        if self.kind == "texts":
            return Sample(self.keys[i], None, (self.text(i),), self.meta(i))
        texts: tuple[str, ...] = ()
        if self.caption_offsets is not None:
            texts = tuple(self.text(i, j) for j in range(int(np.diff(self.caption_offsets[i : i + 2])[0])))
        return Sample(self.keys[i], self.image_bytes(i), texts, self.meta(i))

    def where(self, i: int) -> str:
        """Item i in words, for messages."""
        path, form = self._shard(i)
        place = f", byte offset {self._image_at[i, 0]}" if form == "tar" else ""
        return f"{path}, key {self.keys[i]}{place}"

    def shard_of(self, i: int) -> Path:
        """The file or folder that holds item i (what a ledger names)."""
        return self._shard(i)[0]

    def _shard(self, i: int) -> tuple[Path, str]:
        return self.shards[int(np.searchsorted(self._first, i, side="right")) - 1]

    def _check(self, i: int) -> None:
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")

    def _text_row(self, i: int, j: int) -> int:
        self._check(i)
        if self.kind == "images":
            raise UsageError("images hold no texts", where="Corpus.text")
        if self.caption_offsets is None:
            row, end = i + j, i + 1
        else:
            row, end = int(self.caption_offsets[i]) + j, int(self.caption_offsets[i + 1])
        if not j >= 0 or row >= end:
            raise IndexError(f"text {j} of item {i}")
        return row

    def _record(self, i: int) -> bytes:
        """The bytes of the JSON member, line or text file of item i, checked."""
        path, form = self._shard(i)
        offset, length = (int(value) for value in self._record_at[i])
        if form == "loose":
            data = shards.read_file(path / self._files[i], limit=2**40)
        elif form == "jsonl":
            data = readers.read_jsonl_at(path, offset, length)
        else:
            data = shards.read_range(path, offset, length)
        self._compare(i, data, self._record_sha256[i])
        return data

    def _values(self, i: int) -> dict[str, Any]:
        path, form = self._shard(i)
        if form == "parquet":
            return readers.read_parquet_at(path, int(self._record_at[i, 0]))
        return readers.parse_json(self._record(i), self.where(i))

    def _compare(self, i: int, data: bytes, expected: np.ndarray) -> None:
        found = hashlib.sha256(data).digest()
        if found != expected.tobytes():
            raise DataError(
                "sample changed since it was indexed",
                where=self.where(i),
                got=f"{len(data)} bytes, sha256 {found.hex()[:16]}…",
                expected=f"sha256 {expected.tobytes().hex()[:16]}…",
                do="restore the file, or run `unimo prepare index` again",
            )


# --- finding --------------------------------------------------------------------------------------


def find_sources(kind: Kind, paths: str | Path | Sequence[str | Path]) -> list[Source]:
    """The shards behind what the user named, sorted; DataError when a path is missing or holds nothing of
    this kind."""
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise UsageError(f"no path given for {kind}", expected="a file, a folder, a glob or a list of these")
    found: list[Source] = []
    for entry in given:
        found += _sources_at(kind, entry)
    found.sort(key=lambda source: os.fspath(source.path))
    for earlier, later in pairwise(found):
        if earlier.path.resolve() == later.path.resolve() and set(later.files) <= set(earlier.files):
            raise DataError(
                "the same shard is named twice",
                where=later.path,
                got=", ".join(map(str, given)),
                do="name it once",
            )
    return found


def _sources_at(kind: Kind, entry: str | Path) -> list[Source]:
    name = os.fspath(entry)
    if re.match(r"pipe:|[A-Za-z][A-Za-z0-9+.-]*://", name) or "\0" in name:
        raise UsageError(
            "not a path",
            got=name,
            expected="a local file, folder or glob",
            do="fetch the data first; nothing is fetched or run here",
        )
    path = Path(name).expanduser()
    if path.is_dir():
        sources = _in_folder(kind, path)
    elif path.exists() or path.is_symlink():
        sources = _among(kind, path.parent, [path])
    elif matches := sorted(glob.glob(os.fspath(path), recursive=True)):  # noqa: PTH207
        files = [Path(match) for match in matches if not Path(match).is_dir()]
        folders = [Path(match) for match in matches if Path(match).is_dir()]
        root = Path(os.path.commonpath([file.parent for file in files])) if files else path.parent
        sources = _among(kind, root, files) + [s for folder in folders for s in _in_folder(kind, folder)]
    else:
        raise DataError(f"path of {kind} does not exist", where=path, expected=EXPECTED[kind], do=_missing_hint(path))
    if not sources:
        raise DataError(
            f"no {kind} found",
            where=path,
            got=_what_is_there(path),
            expected=EXPECTED[kind],
            do="correct the path, or convert the files",
        )
    return sources


def _in_folder(kind: Kind, folder: Path) -> list[Source]:
    sources = _among(kind, folder, list(_walk(folder)))
    if kind != "pairs":
        return sources
    # tars and tables are often accompanied by .parquet or .jsonl files that only repeat their captions
    for form in ("tar", "parquet", "jsonl"):
        chosen = [source for source in sources if source.form == form]
        if chosen:
            return chosen
    return []


def _among(kind: Kind, root: Path, files: list[Path]) -> list[Source]:
    """Shards among files of one folder or glob; loose images and .txt files together are one shard, rooted
    at root."""
    sources: list[Source] = []
    loose: list[str] = []
    loose_suffixes = {"texts": (".txt",), "images": IMAGE_SUFFIXES, "pairs": ()}[kind]
    for path in files:
        name = path.name.lower()
        if name.endswith(loose_suffixes):
            loose.append(path.relative_to(root).as_posix())
        elif name.endswith(".tar") and kind != "texts":
            sources.append(Source(path, "tar"))
        elif name.endswith((".jsonl", ".jsonl.gz")) and kind != "images":
            images = _walk(path.parent) if kind == "pairs" else ()
            listed = (p.relative_to(path.parent).as_posix() for p in images if p.name.lower().endswith(IMAGE_SUFFIXES))
            sources.append(Source(path, "jsonl", tuple(listed)))
        elif name.endswith(".parquet"):
            sources.append(Source(path, "parquet"))
    if kind == "images" and any(source.form == "tar" for source in sources):
        sources = [source for source in sources if source.form != "parquet"]  # img2dataset's statistics beside its tars
    return sources + ([Source(root, "loose", tuple(sorted(loose)))] if loose else [])


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder in sorted order, links followed (once), hidden names passed over."""
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _what_is_there(path: Path) -> str:
    if not path.is_dir():
        return f"a file ending in {path.suffix or 'nothing'}"
    endings = Counter(file.suffix.lower() or "no ending" for file in _walk(path))
    listed = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
    return f"files: {listed}" if listed else "an empty folder"


def _missing_hint(path: Path) -> str:
    if glob.has_magic(os.fspath(path)):
        return "no file matches the pattern; check it (quoted, so that the shell leaves it alone)"
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    return f"did you mean {path.parent / near}?" if near else "correct the path"


def _did_you_mean(name: str, names: Iterable[str]) -> str | None:
    near = nearest(name, names)
    return None if near is None else f"did you mean {near}?"


# --- indexing -------------------------------------------------------------------------------------

_IDENTITY = (
    "sha256",
    "tokenizer",
    "fields",
    "verify",
    "form",
)  # what decides which samples and tokens come out
_TOKENIZE_CHARACTERS = 2**21  # texts are handed to the tokenizer in batches of about this size


def _index_of(
    source: Source,
    kind: Kind,
    tokenizer,
    fields: Fields,
    verify: Verify,
    index_dir: Path | None,
    recheck: bool,
) -> tuple[Index, bool]:
    """The shard's index and whether it was built anew."""
    place = shards.index_path(source.path, kind, index_dir)
    stored = shards.load_index(place)
    if stored is not None and stored.header["kind"] == kind:
        wanted = {
            "form": source.form,
            "fields": _fields_text(fields),
            "tokenizer": _tokenizer_text(kind, tokenizer),
        }
        same = all(stored.header[name] == value for name, value in wanted.items())
        same = same and stored.header["signature"] == _signature(source)
        same = same and (verify == "header" or stored.header["verify"] == "decode")
        if same and (not recheck or stored.header["sha256"] == _content_hash(source)):
            return stored, False
    index = build_index(source, kind, tokenizer=tokenizer, fields=fields, verify=verify, earlier=stored)
    shards.save_index(place, index)
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
      image_at (n, 2) int64 offset, length · image_sha256 (n, 32) uint8 · sizes (n, 2) int32 width, height
      record_at (n, 2) int64 offset (-1: none) and length of the JSON member, line or text; the row of a table
      record_sha256 (n, 32) uint8 · token_ids uint16 · token_offsets (m + 1) int64
      caption_offsets (n + 1) int64 and captions_blob, captions_offsets (m + 1): pairs only
    """
    signature = _signature(source)
    shards.forget(source.path)
    content = _content_hash(source)
    notes: Counter[str] = Counter()
    kept: list[_Item] = []
    bad: list[dict[str, str]] = []
    seen: set[str] = set()
    sizes: list[tuple[int, int]] = []
    tokens = _Tokens(tokenizer)
    offered = 0
    damaged = False

    def quarantine(key: str, error: DataError) -> None:
        bad.append({"key": key, **error.parts()})

    for found in _items(source, kind, fields, notes):
        offered += 1
        if isinstance(found, _Lost):
            damaged = True
            quarantine("", found.error)
            continue
        if isinstance(found, _Bad):
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
    if offered == 0 and not notes["empty"]:
        offered += 1
        quarantine("", DataError("shard holds no samples", where=source.path.name, expected=EXPECTED[kind]))
    if earlier is not None and earlier.header["kind"] == kind and damaged:
        for key in _strings(earlier.arrays, "keys"):
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
    }
    if kind == "pairs":
        columns["captions"] = [caption for item in kept for caption in item.texts]
        arrays["caption_offsets"] = offsets_of([len(item.texts) for item in kept])
    for name, values in columns.items():
        arrays[f"{name}_blob"], arrays[f"{name}_offsets"] = pack_strings(values)
    header = {
        "kind": kind,
        "form": source.form,
        "shard": source.path.name,
        "size": str(0 if source.form == "loose" else source.path.stat().st_size),
        "signature": signature,
        "sha256": content,
        "tokenizer": _tokenizer_text(kind, tokenizer),
        "fields": _fields_text(fields),
        "verify": verify,
        "counts": json.dumps({"offered": offered, "used": len(kept), "quarantined": len(bad)}),
        "notes": json.dumps({name: count for name, count in sorted(notes.items()) if count}),
        "quarantined": json.dumps(bad),
    }
    return Index(header, arrays)


@dataclass
class _Item:
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
class _Bad:
    """A sample that cannot be used."""

    key: str
    error: DataError


@dataclass
class _Lost:
    """A stretch of a shard that cannot be read: it may have held any number of samples."""

    error: DataError


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
                    "vocabulary is too large for the index", got=int(flat.max()), expected="ids below 65536"
                )
            self.ids.append(flat.astype(np.uint16))
        self.waiting, self.waiting_characters = [], 0

    def arrays(self) -> dict[str, np.ndarray]:
        self.flush()
        return {"token_ids": np.concatenate(self.ids), "token_offsets": offsets_of(self.counts)}


def _image_size(item: _Item, verify: Verify) -> tuple[int, int]:
    item.image_sha256 = hashlib.sha256(item.image).digest()
    if verify == "header":
        return image_size(item.image, where=item.where)
    return load_rgb(item.image, where=item.where).size


_Found = Iterator["_Item | _Bad | _Lost"]


def _items(source: Source, kind: Kind, fields: Fields, notes: Counter) -> _Found:
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


def _tar_items(path: Path, kind: Kind, fields: Fields, notes: Counter) -> _Found:
    """Members sharing a name up to its first dot are one sample (WebDataset); they need not be neighbours."""
    samples: dict[tuple[str, int], dict[str, Member]] = {}
    copies: Counter[str] = Counter()  # how often a key began anew
    for entry in shards.scan_tar(path):
        if isinstance(entry, DataError):
            yield _Lost(entry)
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
            yield _Bad(key, error)


def _tar_item(
    path: Path, key: str, where: str, members: dict[str, Member], kind: Kind, fields: Fields, notes: Counter
) -> _Item:
    image = members.get("image")
    if image is None:
        raise DataError(
            "caption without image" if kind == "pairs" else "sample without image",
            where=where,
            got="only " + ", ".join(sorted(member.name for member in members.values())),
            expected=f"{key} with one of {', '.join(IMAGE_SUFFIXES)}",
            do="add the image or remove the sample",
        )
    item = _Item(key, f"{path.name}, member {image.name}, byte offset {image.offset}")
    item.image, item.image_at = _read_member(path, image), (image.offset, image.length)
    values: dict[str, Any] = {}
    if "json" in members:
        member = members["json"]
        data = _read_member(path, member)
        values = readers.parse_json(data, f"{path.name}, member {member.name}", member.offset)
        item.record_at, item.record_sha256 = (member.offset, member.length), hashlib.sha256(data).digest()
    item.label = _label(values, fields)
    if kind == "pairs":
        given = _first_of(values, fields.captions)
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


def _loose_images(source: Source) -> _Found:
    for name in source.files:
        try:
            yield _Item(name, f"{source.path.name}/{name}", file=name, image=shards.read_file(source.path / name))
        except DataError as error:
            yield _Bad(name, error)


def _loose_texts(source: Source) -> _Found:
    for name in source.files:
        where = f"{source.path.name}/{name}"
        try:
            data = shards.read_file(source.path / name, limit=2**40)
            text = readers.decode_utf8(data, where)
            if not text.strip():
                raise DataError("document is empty", where=where, do="remove the file")
            digest = hashlib.sha256(data).digest()
            yield _Item(name, where, file=name, record_at=(0, len(data)), record_sha256=digest, texts=[text])
        except DataError as error:
            yield _Bad(name, error)


def _row_texts(source: Source, rows: Iterable[readers.Row | DataError], fields: Fields) -> _Found:
    for row in rows:
        if isinstance(row, DataError):
            yield _lost_or_bad(source, row)
            continue
        key = row.where.replace(", line ", ":").replace(", row ", ":")
        try:
            value = _first_of(row.values, fields.text)
            if value is None:
                raise _missing_field(row, fields.text)
            text = readers.checked_text(value, row.where, "/".join(fields.text))
            if not text.strip():
                raise DataError("document is empty", where=row.where, do="remove the record")
            item = _Item(key, row.where, record_at=(row.offset, row.length), texts=[text])
            item.record_sha256 = row.sha256
            yield item
        except DataError as error:
            yield _Bad(key, error)


def _table_images(rows: Iterable[readers.Row | DataError], kind: Kind, fields: Fields, notes: Counter) -> _Found:
    for row in rows:
        if isinstance(row, DataError):
            yield _Lost(row)
            continue
        key = row.values.get("key")
        key = row.where.replace(", row ", ":") if key is None else str(key)
        try:
            data = _embedded_image(_first_of(row.values, fields.image))
            if data is None:
                raise _missing_field(row, fields.image, "bytes of an image")
            item = _Item(key, row.where, image=data, image_at=(row.offset, len(data)), record_at=(row.offset, 1))
            item.label = _label(row.values, fields)
            if kind == "pairs":
                item.texts = _captions(_first_of(row.values, fields.captions), row.where, fields, notes)
            yield item
        except DataError as error:
            yield _Bad(key, error)


def _listed_pairs(source: Source, rows: Iterable[readers.Row | DataError], fields: Fields, notes: Counter) -> _Found:
    """Rows that name the same image are one pair with several captions; the row met first is its record."""
    items: dict[str, _Item] = {}
    for row in rows:
        if isinstance(row, DataError):
            yield _lost_or_bad(source, row)
            continue
        try:
            name = _first_of(row.values, fields.image)
            if name is None:
                raise _missing_field(row, fields.image)
            name = _inside(readers.checked_text(name, row.where, "/".join(fields.image)), row.where)
            captions = _captions(_first_of(row.values, fields.captions), row.where, fields, notes)
            if name not in items:
                item = _Item(name, f"{row.where}, image {name}", file=name, record_at=(row.offset, row.length))
                item.record_sha256, item.label = row.sha256, _label(row.values, fields)
                items[name] = item
            else:
                notes["further captions of an image in rows of their own"] += 1
            items[name].texts += captions
        except DataError as error:
            yield _Bad(row.where, error)
    for name, item in items.items():
        try:
            item.image = shards.read_file(source.path.parent / name)
            yield item
        except DataError as error:
            yield _Bad(name, error)
    for name in source.files:
        if name not in items:
            yield _Bad(
                name,
                DataError(
                    "image without caption",
                    where=f"{source.path.parent.name}/{name}",
                    expected=f"a row of {source.path.name} that names it",
                    do="add a caption or move the image away",
                ),
            )


def _lost_or_bad(source: Source, error: DataError) -> _Bad | _Lost:
    lost = error.what.startswith(("cannot unpack", "cannot read"))
    return _Lost(error) if lost else _Bad(str(error.where), error)


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
    label = _first_of(values, fields.label)
    return str(label) if isinstance(label, (str, int)) else ""


def _embedded_image(value: object) -> bytes | None:
    """Image bytes of a table cell: plain, or the {bytes, path} record of Hugging Face datasets."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _first_of(values: dict[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _missing_field(row: readers.Row, names: Sequence[str], meaning: str = "text") -> DataError:
    return DataError(
        "field is missing",
        where=row.where,
        got="fields " + ", ".join(list(row.values)[:8]),
        expected=f"{meaning} in " + " or ".join(names),
        do="name the field in Fields, or repair the record",
    )


# --- identity -------------------------------------------------------------------------------------


def _signature(source: Source) -> str:
    """Sizes and times of change: cheap to read at every start, enough to notice ordinary edits."""
    names = [source.path] if source.form != "loose" else []
    base = source.path if source.form == "loose" else source.path.parent
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
        return shards.hash_file(source.path)
    loose = source.form == "loose"
    digest = hashlib.sha256(b"" if loose else shards.hash_file(source.path).encode())
    for name in source.files:
        try:
            content = shards.hash_file((source.path if loose else source.path.parent) / name)
        except DataError as error:
            content = error.what
        digest.update(f"{name}\0{content}\0".encode("utf-8", "replace"))
    return digest.hexdigest()


def _refuse_copies(sources: Sequence[Source], indexes: Sequence[Index]) -> None:
    first: dict[str, Path] = {}
    for source, index in zip(sources, indexes):
        content = index.header["sha256"]
        if content in first:
            raise DataError(
                "two shards have the same content",
                where=source.path,
                got=f"a copy of {first[content]}",
                expected="each shard once",
                do="remove one of them",
            )
        first[content] = source.path


def _fields_text(fields: Fields) -> str:
    return json.dumps(asdict(fields), sort_keys=True)


def _tokenizer_text(kind: Kind, tokenizer) -> str:
    return "" if kind == "images" else tokenizer.fingerprint


def _row(source: Source, index: Index, built: bool, seconds: float) -> dict:
    reasons = Counter(entry["what"] for entry in index.quarantined)
    paths = [source.path] if source.form != "loose" else [source.path / name for name in source.files]
    return {
        "shard": str(source.path),
        "form": source.form,
        "built": built,
        **index.counts,
        "texts": len(index.arrays["token_offsets"]) - 1,
        "tokens": len(index.arrays["token_ids"]),
        "bytes": sum(path.stat().st_size for path in paths if path.exists()),
        "seconds": round(seconds, 3),
        "reasons": dict(reasons.most_common()),
        "notes": json.loads(index.header["notes"]),
    }


def _hashes(digests: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def _strings(arrays: dict[str, np.ndarray], name: str) -> Strings:
    return Strings(arrays[f"{name}_blob"], arrays[f"{name}_offsets"])


def _join_offsets(pieces: Sequence[np.ndarray]) -> np.ndarray:
    return offsets_of(np.concatenate([np.diff(piece) for piece in pieces]))


def _join_strings(parts: Sequence[dict[str, np.ndarray]], name: str) -> Strings:
    blob = np.concatenate([part[f"{name}_blob"] for part in parts])
    return Strings(blob, _join_offsets([part[f"{name}_offsets"] for part in parts]))
