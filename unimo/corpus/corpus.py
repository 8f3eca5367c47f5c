"""Folders, globs and files of the user become one indexed corpus.

    texts    .txt .md · tables (.csv .tsv .jsonl .json .parquet .arrow) with a column of texts
    images   image files in folders · WebDataset .tar · .parquet and .arrow with images
    pairs    tables that name images or hold them · WebDataset .tar · images with a .txt or .json of the same name

Each file (each folder, for loose images and .txt) is a shard with a sidecar index. Building the index reads
everything once, checks every sample, names the bad ones, and tokenises; afterwards a corpus is arrays and
paths, and any sample is one positioned read away.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unimo.corpus.bad_samples import BadSamples, Notes, check_fraction
from unimo.corpus.finding import EXPECTED, IMAGE_SUFFIXES, Kind, Source, Verify, find, printable, walk
from unimo.corpus.index_file import Index
from unimo.corpus.indexing import IDENTITY, index_of
from unimo.data.sample import Sample
from unimo.errors import DataError, UsageError, did_you_mean
from unimo.file_access import Unread, read_file, read_range
from unimo.formats.arrow import embedded_image, read_arrow_at
from unimo.formats.columns import Fields, first_of, without
from unimo.formats.text import decode_utf8, line_sha256, parse_json, read_jsonl_at
from unimo.paths import user_path
from unimo.ragged import Strings, offsets_of


def open_corpus(
    kind: Kind,
    paths: str | Path | Sequence[str | Path],
    *,
    tokenizer=None,
    fields: Fields | None = None,
    bad_samples: BadSamples | None = None,
    index_dir: str | Path | None = None,
    verify: Verify = "decode",
    max_bad_fraction: float = 0.01,
    recheck: bool = False,
    on_shard: Callable[[dict], None] | None = None,
    run: Callable[..., Iterable[Any]] = map,
) -> Corpus:
    """Find the shards, build or reuse their indexes, and join them in sorted order.

    paths: a file, a folder (searched recursively), a pattern (*, **, {000..012}, {a,b}), or a list of these.
    tokenizer: of texts and captions; None: ours. verify: "decode" decodes every image once while indexing, "header"
    reads only sizes. recheck: hash every shard again instead of trusting size and time of change. on_shard: called with
    a summary row after each shard. run: who indexes shards.

    Offered samples are used, or bad and named in the report. What lies there and is no sample of this kind (other
    files, members, images that no table names) is counted in the report's notes. A folder that may not be listed is
    one bad sample, for nobody knows how many it holds.

    Raises DataError (nothing found, too many bad samples, unreadable shard) or UsageError (not a path, wrong
    kind, a fraction that is none).
    """
    _check_arguments(kind, verify, max_bad_fraction)
    if tokenizer is None and kind != "images":
        from unimo.tokenizer import Tokenizer  # images need no vocabulary in memory

        tokenizer = Tokenizer.default()
    fields = fields or Fields()
    bad_samples = BadSamples() if bad_samples is None else bad_samples
    own = BadSamples()  # this corpus is judged alone, whatever else the run's report already holds
    place = None if index_dir is None else user_path(index_dir, "index_dir")
    found, indexes, started = find(kind, paths, fields), list[Index](), time.monotonic()
    work = partial(index_of, kind, tokenizer, fields, verify, place, recheck)
    for source, (index, built) in zip(found.sources, run(work, found.sources)):
        for report in (own, bad_samples):
            report.offer(index.counts["offered"])
            report.use(index.counts["used"])
            report.notes.join(Notes(json.loads(index.header["notes"])))
            for entry in index.quarantined:
                report.add(_error(entry), key=entry["key"], shard=source.path)
        indexes.append(index)
        if on_shard is not None:
            on_shard(_row(source, index, built, time.monotonic() - started))
        started = time.monotonic()
    found.notes.join(_not_named(kind, found.sources, indexes))
    for report in (own, bad_samples):
        report.notes.join(found.notes)
        for error in found.failed:
            report.offer()
            report.add(error, key=str(error.where), shard=error.where)
    _refuse_copies(found.sources, indexes)
    if own.used == 0:
        raise _nothing_usable(kind, own, bad_samples.path, found.sources, indexes)
    own.check(max_bad_fraction, report=bad_samples.path)
    folders = [f"what folder {error.where} holds: {error.what}, {error.got}" for error in found.failed]
    return Corpus(kind, found.sources, indexes, (*folders, *found.notes.lines()))


def _check_arguments(kind: Kind, verify: Verify, max_bad_fraction: float) -> None:
    check_fraction(max_bad_fraction)
    if kind not in EXPECTED:
        do = did_you_mean(kind, EXPECTED) or "say which of these the data are"
        expected = ", ".join(EXPECTED)
        raise UsageError("unknown kind of data", where="open_corpus", got=kind, expected=expected, do=do)
    if verify not in ("decode", "header"):
        what, do = "unknown level of verification", "decode reads every image once, header only its size"
        raise UsageError(what, where="verify", got=verify, expected="decode or header", do=do)


class Corpus:
    """An indexed set of documents, images or pairs; n items. Only arrays and paths: safe to hand to workers.

    keys            list-like of n strings
    image_sha256    (n, 32) uint8, of the bytes of the images
    sizes           (n, 2) int32, width and height of the upright images; (n, 2) zeros for texts
    token_counts    texts: (n,) int64; pairs: (m,) int64 of all captions, flat; images: (0,)
    caption_offsets pairs: (n + 1,) int64, captions of item i are [o[i], o[i + 1]); else None
    fields          names of the fields that are read
    labels          images whose JSON names a class: n strings or None each; None when no item has one
    validation      (n,) bool, items of the data's own validation split (Karpathy's val), which is not trained on
    unreadable      key -> what is wrong with it, of the samples that were left out
    fingerprint     SHA-256 over kind, contents of the shards, tokenizer and field names
    passed_over     what lies beside the shards and is not read, a line for each reason
    """

    def __init__(
        self, kind: Kind, sources: Sequence[Source], indexes: Sequence[Index], passed_over: Sequence[str] = ()
    ):
        self.kind = kind
        self.passed_over = tuple(passed_over)
        self.shards = [(source.path, source.form) for source in sources]
        parts = [index.arrays for index in indexes]
        self._first = offsets_of([len(part["keys_offsets"]) - 1 for part in parts])
        self.keys, self._files, self._records, self._metas, names = (
            _join_strings(parts, name) for name in ("keys", "files", "records", "metas", "labels")
        )
        self.labels = [name or None for name in names] if len(names.blob) else None
        self.sizes, self._image_at, self.image_sha256, self._record_at, self._record_sha256, self._token_ids = (
            np.concatenate([part[name] for part in parts])
            for name in ("sizes", "image_at", "image_sha256", "record_at", "record_sha256", "token_ids")
        )
        self.validation = np.concatenate([part["validation"] for part in parts]).astype(bool)
        self._token_offsets = _join_offsets([part["token_offsets"] for part in parts])
        self.token_counts = np.diff(self._token_offsets)
        self._captions = _join_strings(parts, "captions") if kind != "images" else None
        self.caption_offsets = _join_offsets([part["caption_offsets"] for part in parts]) if kind == "pairs" else None
        self._described = [index.header["described"] for index in indexes]
        self.unreadable: dict[str, dict[str, str]] = {}
        for index in indexes:
            for entry in index.quarantined:
                self.unreadable.setdefault(entry["key"], _error(entry).parts())
        self.fields = Fields(**{name: tuple(names) for name, names in json.loads(indexes[0].header["fields"]).items()})
        identity = [kind, [[index.header[name] for name in IDENTITY] for index in indexes]]
        self.fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return int(self._first[-1])

    def formats(self) -> list[str]:
        """What the shards are, for people, with how many there are of a format: 3 x WebDataset tar."""
        counts = Counter(self._described)
        return [f"{count} x {name}" if count > 1 else name for name, count in counts.items()]

    def tokens(self, i: int, j: int = 0) -> np.ndarray:
        """uint16 ids of document i, or of caption j of pair i; no special ids."""
        row = self._text_row(i, j)
        return self._token_ids[self._token_offsets[row] : self._token_offsets[row + 1]]

    def word_counts(self, vocab_size: int) -> np.ndarray:
        """(V,) int64, how often each id occurs in the texts or captions."""
        return np.bincount(self._token_ids, minlength=vocab_size)

    def text(self, i: int, j: int = 0) -> str:
        """Document i as it stands in its file, or caption j of pair i."""
        row = self._text_row(i, j)
        assert self._captions is not None
        if self.kind == "pairs" or self._captions[row]:
            return self._captions[row]
        if self._shard(i)[1] == "loose":
            return decode_utf8(self._record(i), self.where(i))
        return first_of(self._values(i), self.fields.text)

    def captions(self, i: int) -> list[str]:
        """All captions of pair i."""
        assert self.caption_offsets is not None, "only pairs have captions"
        return [self.text(i, j) for j in range(int(self.caption_offsets[i + 1] - self.caption_offsets[i]))]

    def image_bytes(self, i: int) -> bytes:
        """The encoded image of item i; DataError when it is not what was indexed."""
        self._check(i)
        if self.kind == "texts":
            what, expected = "texts hold no images", "images or pairs"
            raise UsageError(what, where="Corpus.image_bytes", expected=expected, do="open one of these")
        path, form = self._shard(i)
        if (file := self.file_of(i)) is not None:
            data = read_file(file)
        elif form == "tar":
            data = self._range(i, self._image_at[i])
        else:
            row = read_arrow_at(path, int(self._image_at[i, 0]))
            data = next(filter(None, (embedded_image(row.get(name)) for name in self.fields.image)), b"")
        self._compare(i, data, self.image_sha256[i])
        return data

    def meta(self, i: int) -> dict:
        """The JSON object or row of item i, of texts and of tables that are read as a whole (.csv, .json) without what
        the sample itself is made of; empty where there is none."""
        self._check(i)
        if self._metas[i]:
            return parse_json(self._metas[i].encode(), self.where(i))
        if self._record_at[i, 0] < 0 or (self._shard(i)[1] == "loose" and self.kind != "pairs"):
            return {}
        values = self._values(i)
        if self.kind == "texts":
            values = without(values, self.fields.parts(self.kind))
        return {name: value for name, value in values.items() if embedded_image(value) is None}

    def sample(self, i: int) -> Sample:
        """Item i, whole."""
        self._check(i)
        if self.kind == "texts":
            return Sample(self.keys[i], None, (self.text(i),), self.meta(i))
        texts = tuple(self.captions(i)) if self.kind == "pairs" else ()
        return Sample(self.keys[i], self.image_bytes(i), texts, self.meta(i))

    def where(self, i: int) -> str:
        """Item i in words, for messages."""
        path, form = self._shard(i)
        place = f", byte offset {self._image_at[i, 0]}" if form == "tar" else ""
        return f"{path}, key {self.keys[i]}{place}"

    def shard_of(self, i: int) -> Path:
        """The file or folder that holds item i (what a report of bad samples names)."""
        return self._shard(i)[0]

    def ranges(self) -> list[tuple[Path, range]]:
        """Every shard with its items; shards without any are left out."""
        parts = zip(self.shards, self._first, self._first[1:])
        return [(path, range(int(first), int(end))) for (path, _), first, end in parts if first < end]

    def images_sha256(self, items: range) -> str:
        """SHA-256 over keys and contents of some images, in order: whatever file or kind they come from."""
        digest = hashlib.sha256(json.dumps([self.keys[i] for i in items]).encode())
        digest.update(np.ascontiguousarray(self.image_sha256[items.start : items.stop]).tobytes())
        return digest.hexdigest()

    def file_of(self, i: int) -> Path | None:
        """The image file of item i; None where it lies inside another file."""
        path, form = self._shard(i)
        return (path if form == "loose" else path.parent) / self._files[i] if self._files[i] else None

    def _shard(self, i: int) -> tuple[Path, str]:
        return self.shards[int(np.searchsorted(self._first, i, side="right")) - 1]

    def _check(self, i: int) -> None:
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")

    def _text_row(self, i: int, j: int) -> int:
        self._check(i)
        if self.kind == "images":
            what, expected = "images hold no texts", "texts or pairs"
            raise UsageError(what, where="Corpus.text", expected=expected, do="open them as pairs")
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
        found = None
        if form == "loose":
            data = read_file(path / (self._records[i] or self._files[i]), limit=2**40)
        elif form == "jsonl":
            data = read_jsonl_at(path, offset, length)
            found = line_sha256(data)
        else:
            data = self._range(i, self._record_at[i])
        self._compare(i, data, self._record_sha256[i], found)
        return data

    def _range(self, i: int, at: np.ndarray) -> bytes:
        """Bytes of item i inside its shard; where they cannot be read, the item is named too."""
        try:
            return read_range(self._shard(i)[0], int(at[0]), int(at[1]))
        except Unread as error:
            error.where = f"{error.where}, key {self.keys[i]}"
            raise

    def _values(self, i: int) -> dict[str, Any]:
        path, form = self._shard(i)
        if form in ("parquet", "arrow"):
            return read_arrow_at(path, int(self._record_at[i, 0]))
        return parse_json(self._record(i), self.where(i))

    def _compare(self, i: int, data: bytes, expected: np.ndarray, found: bytes | None = None) -> None:
        found = found or hashlib.sha256(data).digest()
        if found != expected.tobytes():
            raise DataError(
                "sample changed since it was indexed",
                where=self.where(i),
                got=f"{len(data)} bytes, sha256 {found.hex()[:16]}…",
                expected=f"sha256 {expected.tobytes().hex()[:16]}…",
                do="restore the file, or run `unimo data check` again",
            )


def _refuse_copies(sources: Sequence[Source], indexes: Sequence[Index]) -> None:
    first: dict[str, Path] = {}
    for source, index in zip(sources, indexes):
        content = index.header["sha256"]
        if content in first and index.counts["used"]:  # empty or broken ones may well be alike
            what, got = "two shards have the same content", f"a copy of {first[content]}"
            raise DataError(what, where=source.path, got=got, expected="each shard once", do="remove one of them")
        first[content] = source.path


def _not_named(kind: Kind, sources: Sequence[Source], indexes: Sequence[Index]) -> Notes:
    """Images below the folders of tables that none of them names: no samples, and no fault."""
    notes = Notes()
    tables = [(source.base, index) for source, index in zip(sources, indexes) if source.listed]
    named = {os.path.normpath(base / name) for base, index in tables for name in index.strings("named")}
    folders = {base for base, _ in tables} if kind == "pairs" else set()
    for top in sorted(folders):
        if folders & set(top.parents):
            continue
        for path in walk(top):
            if path.name.lower().endswith(IMAGE_SUFFIXES) and os.path.normpath(path) not in named:
                notes.tell("images that no table names", printable(path.relative_to(top).as_posix()))
    return notes


def _nothing_usable(
    kind: Kind, report: BadSamples, file: Path | None, sources: Sequence[Source], indexes: Sequence[Index]
) -> DataError:
    """Every sample is bad: what the first one lacks, and how many there are of each fault. file: names all of them."""
    reasons = ", ".join(f"{n} x {reason}" for reason, n in report.summary()["reasons"].items())
    what = f"no usable sample among the {kind}" + (f": {reasons}" if reasons else "")
    first = next((_error(entry) for index in indexes for entry in index.quarantined), None)
    if first is not None:
        where = f"{first.where}; all of them: {file}" if file else first.where
        expected = first.expected or EXPECTED[kind]
        return DataError(what, where=where, got=first.got, expected=expected, do=first.do or "repair it")
    where, got = ", ".join(str(source.path) for source in sources[:3]), "; ".join(report.notes.lines())
    return DataError(what, where=where, got=got or "empty files", expected=EXPECTED[kind], do="point to other data")


def _error(entry: dict[str, str]) -> DataError:
    return DataError(**{name: value for name, value in entry.items() if name != "key"})


def _row(source: Source, index: Index, built: bool, seconds: float) -> dict:
    reasons = Counter(entry["what"] for entry in index.quarantined)
    paths = [] if source.form == "loose" else [source.path]
    paths += [source.base / name for name in (*source.files, *index.strings("named"))]
    notes = Notes(json.loads(index.header["notes"]))
    return {
        "shard": printable(source.path),
        "form": source.form,
        "described": index.header["described"],
        "built": built,
        **index.counts,
        "texts": len(index.arrays["token_offsets"]) - 1,
        "tokens": len(index.arrays["token_ids"]),
        "bytes": sum(path.stat().st_size for path in paths if path.exists()),
        "seconds": round(seconds, 3),
        "reasons": dict(reasons.most_common()),
        "notes": dict(notes),
        "passed_over": notes.lines(),
    }


def _join_offsets(pieces: Sequence[np.ndarray]) -> np.ndarray:
    return offsets_of(np.concatenate([np.diff(piece) for piece in pieces]))


def _join_strings(parts: Sequence[dict[str, np.ndarray]], name: str) -> Strings:
    blob = np.concatenate([part[f"{name}_blob"] for part in parts])
    return Strings(blob, _join_offsets([part[f"{name}_offsets"] for part in parts]))
