"""Regions of every picture of a shard, prepared once: written picture by picture, read by memory map (spec unimo §4).

    n pictures of a shard · T rows of all of them · F features · K classes, k of them kept

A sidecar `SHARD.KIND.regions.safetensors` holds arrays that any reader of safetensors understands:

    offsets (n + 1,) int64    rows of picture i are [offsets[i], offsets[i + 1]), [IMG] first; none if it is bad
    boxes (T, 5) float32      corners and area as shares of the picture
    features (T, F) float16, or int8 with scales (T,) float32
    classes (T, K) float16, or the k likeliest (T, k) with class_ids (T, k) uint16, or absent
    keys_blob, keys_offsets   the pictures' names, as `shards.pack_strings` makes them

and a header that says of which pictures (a fingerprint of their keys and bytes), by which source and settings, and
which pictures are bad and why. While it is made, `SIDECAR.partial/` holds one growing file for each table and a journal
of whole pictures: a run that is killed loses the picture it was at, and its successor writes the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from unimo.data import shards
from unimo.data.regions import PictureRegions
from unimo.data.shards import offsets_of, pack_strings
from unimo.data.sources import Corpus
from unimo.errors import DataError, ResourceError, UnimoError, UsageError

FORMAT, VERSION = "unimo-regions", "1"
SUFFIX = ".regions.safetensors"
SUM_TOLERANCE = 0.01  # by which probabilities may miss 1: a detector may have stored them in float16
Precision = Literal["float16", "int8"]

_DTYPES = {"I64": np.int64, "F32": np.float32, "F16": np.float16, "U16": np.uint16, "I8": np.int8, "U8": np.uint8}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 2**28  # bytes; larger is damage


# ---- one picture


@dataclass(frozen=True)
class RowFormat:
    """How rows are stored. features: F; classes: K, 0 for none; top: likeliest classes kept of each row, 0 for all."""

    features: int
    classes: int
    precision: Precision = "float16"
    top: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("float16", "int8"):
            raise UsageError("unknown precision", got=self.precision, expected="float16 or int8")
        if self.features < 1 or not 0 <= self.top <= self.classes < 2**16:
            raise UsageError("impossible rows", got=asdict(self), expected="features >= 1, top <= classes < 65536")

    @property
    def columns(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """name -> (dtype, shape of a row) of every table, widest dtype first so that each is aligned in the file."""
        table: dict[str, tuple[Any, tuple[int, ...]]] = {"boxes": (np.float32, (5,))}
        if self.precision == "int8":
            table["scales"] = (np.float32, ())
        table["features"] = (np.int8 if self.precision == "int8" else np.float16, (self.features,))
        if self.classes:
            table["classes"] = (np.float16, (self.top or self.classes,))
        if self.top:
            table["class_ids"] = (np.uint16, (self.top,))
        found = {name: (np.dtype(dtype), shape) for name, (dtype, shape) in table.items()}
        return dict(sorted(found.items(), key=lambda column: -column[1][0].itemsize))

    def encode(self, picture: PictureRegions, *, where: object = "this picture") -> dict[str, np.ndarray]:
        """Rows as they are stored. Raises DataError for other sizes than F and K, and for what float16 cannot hold."""
        width = 0 if picture.classes is None else picture.classes.shape[1]
        for name, got, expected in (
            ("features", picture.features.shape[1], self.features),
            ("classes", width, self.classes),
        ):
            if got != expected:
                raise DataError(
                    f"Another number of {name} than the other pictures have", where=where, got=got, expected=expected
                )
        rows: dict[str, np.ndarray] = {"boxes": picture.boxes.astype(np.float32)}
        if self.precision == "int8":
            largest = np.abs(picture.features).max(axis=1)
            rows["scales"] = np.where(largest > 0, largest / 127, 1).astype(np.float32)
            rows["features"] = np.rint(picture.features / rows["scales"][:, None]).astype(np.int8)
        else:
            if (largest := np.abs(picture.features).max()) > np.finfo(np.float16).max:
                raise DataError("A feature is too large for float16", where=where, got=largest, do="store as int8")
            rows["features"] = picture.features.astype(np.float16)
        if picture.classes is not None:
            kept = picture.classes
            if self.top:
                rows["class_ids"] = np.argsort(-kept, axis=1, kind="stable")[:, : self.top].astype(np.uint16)
                kept = np.take_along_axis(kept, rows["class_ids"].astype(np.int64), axis=1)
            rows["classes"] = kept.astype(np.float16)
        return rows

    def decode(self, rows: Mapping[str, np.ndarray]) -> PictureRegions:
        """float32 again, probabilities summing to one; those not kept share evenly what the kept ones leave."""
        features = rows["features"].astype(np.float32)
        if self.precision == "int8":
            features *= rows["scales"][:, None]
        if not self.classes:
            return PictureRegions(features, np.array(rows["boxes"]))
        classes = rows["classes"].astype(np.float32)
        if self.top:
            others = max(self.classes - self.top, 1)
            left = (1 - classes.sum(axis=1, keepdims=True)).clip(0) / others
            dense = np.repeat(left, self.classes, axis=1)
            np.put_along_axis(dense, rows["class_ids"].astype(np.int64), classes, axis=1)
            classes = dense
        return PictureRegions(features, np.array(rows["boxes"]), classes / classes.sum(axis=1, keepdims=True))


def check_distributions(classes: np.ndarray, *, where: object = "this picture") -> None:
    """(R, K) probabilities of each region. Raises DataError for a negative one, and for rows that do not sum to one."""
    sums = classes.sum(axis=1)
    for wrong, what, values, expected in (
        ((classes < 0).any(axis=1), "A class probability is negative", classes.min(axis=1), "0 or more"),
        (np.abs(sums - 1) > SUM_TOLERANCE, "Class probabilities do not sum to one", sums, f"1 within {SUM_TOLERANCE}"),
    ):
        if wrong.any():
            i = int(wrong.argmax())
            raise DataError(what, where=f"{where}, region {i}", got=f"{values[i]:.4g}", expected=expected)


# ---- which pictures


def spans(corpus: Corpus) -> list[tuple[Path, int, int]]:
    """Every shard with the range [first, end) of its items."""
    return [(path, int(a), int(b)) for (path, _), (a, b) in zip(corpus.shards, pairwise(corpus._first))]


def fingerprint(corpus: Corpus, first: int, end: int) -> str:
    """SHA-256 over keys and contents of the pictures [first, end), in order: whatever file or kind they come from."""
    digest = hashlib.sha256(json.dumps([corpus.keys[i] for i in range(first, end)]).encode())
    digest.update(np.ascontiguousarray(corpus._image_sha256[first:end]).tobytes())
    return digest.hexdigest()


def sidecar_path(shard: Path, kind: str, folder: Path | None = None) -> Path:
    """Where the shard's index would lie: beside it, in `folder`, or in the user's cache."""
    name = shards.index_path(shard, kind, folder)
    return name.with_name(name.name.removesuffix(".index.safetensors") + SUFFIX)


# ---- writing


class SidecarWriter:
    """Writes a sidecar one picture after the other, going on where an earlier process was stopped.

    header: what decides the content (see `open_header`); a partial sidecar under another header is thrown away.
    errors: what was written of each picture so far, None or the parts of its error; `len(errors)` is the next picture's
    number. Raises ResourceError when the disk refuses, or another process is at it.
    """

    def __init__(self, place: Path, header: Mapping[str, str], keys: Sequence[str], rows: RowFormat):
        self.place, self.header, self.keys, self.rows = place, dict(header), list(keys), rows
        self.partial = place.with_name(place.name + ".partial")
        self.errors: list[dict[str, str] | None] = []
        self.counts: list[int] = []
        with _disk(self.partial):
            self.partial.mkdir(parents=True, exist_ok=True)
            self._journal = self._open("journal.jsonl")
            try:
                fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._journal.close()
                raise ResourceError(
                    "another process is writing these regions", where=self.partial, do="wait for it, or stop it"
                ) from None
            self._tables = {name: self._open(f"{name}.raw") for name in rows.columns}
            self._resume()

    def add(self, picture: PictureRegions | UnimoError) -> None:
        """The next picture's rows, or why it has none. Raises what `RowFormat.encode` raises, and then adds nothing."""
        key = self.keys[len(self.errors)]
        if isinstance(picture, UnimoError):
            entry: dict[str, Any] = {"key": key, "rows": 0, "error": picture.parts()}
            data: dict[str, bytes] = {}
        else:
            stored = self.rows.encode(picture, where=key)
            data = {name: np.ascontiguousarray(stored[name]).tobytes() for name in self.rows.columns}
            entry = {"key": key, "rows": len(picture), "crc": _checksum(data.values())}
        with _disk(self.partial):
            for name, rows in data.items():
                self._tables[name].write(rows)
            # A picture counts from its line in the journal on: what a kill leaves behind the last line is cut off.
            self._journal.write(json.dumps(entry).encode() + b"\n")
        self._note(entry)

    def finish(self) -> Path:
        """Joins header and tables into the sidecar, which appears whole or not at all."""
        if len(self.errors) != len(self.keys):
            raise UnimoError("not every picture was added", got=len(self.errors), expected=len(self.keys))
        blob, key_offsets = pack_strings(self.keys)
        small = {"offsets": offsets_of(self.counts), "keys_offsets": key_offsets, "keys_blob": blob}
        total = sum(self.counts)
        shapes = {name: (value.dtype, value.shape) for name, value in small.items()}
        shapes |= {name: (dtype, (total, *shape)) for name, (dtype, shape) in self.rows.columns.items()}
        order = sorted(shapes, key=lambda name: -shapes[name][0].itemsize)
        bad = [{"key": key, **error} for key, error in zip(self.keys, self.errors) if error is not None]
        header = {
            **self.header,
            "counts": json.dumps(
                {"offered": len(self.keys), "used": len(self.keys) - len(bad), "quarantined": len(bad)}
            ),
            "quarantined": json.dumps(bad),
        }
        with _disk(self.place):
            header["content_sha256"] = self._content_hash()
            header["self_sha256"] = _self_hash(header, small)
            written = self.partial / "sidecar"
            with written.open("wb") as out:
                out.write(_safetensors_header(header, {name: shapes[name] for name in order}))
                for name in order:
                    if name in small:
                        out.write(np.ascontiguousarray(small[name]).tobytes())
                    else:
                        with (self.partial / f"{name}.raw").open("rb") as table:
                            shutil.copyfileobj(table, out, 2**22)
                out.flush()
                os.fsync(out.fileno())
            written.replace(self.place)
            shutil.rmtree(self.partial)
        return self.place

    def close(self) -> None:
        for file in (*self._tables.values(), self._journal):
            file.close()

    def __enter__(self) -> SidecarWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, name: str) -> BinaryIO:
        path = self.partial / name
        path.touch()
        return path.open("rb+", buffering=0)

    def _resume(self) -> None:
        """Reads the journal as far as it and the tables agree, and cuts everything off behind."""
        first = json.dumps(self.header, sort_keys=True).encode() + b"\n"
        lines = self._journal.read().splitlines(keepends=True)
        kept = len(first)
        if not lines or lines[0] != first:
            self._journal.truncate(0)
            self._journal.seek(0)
            self._journal.write(first)
            lines = []
        for line in lines[1:]:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else {}
                sizes = {name: entry["rows"] * _row_bytes(column) for name, column in self.rows.columns.items()}
                sound = entry["key"] == self.keys[len(self.errors)]
            except (ValueError, KeyError, TypeError, IndexError):
                break
            data = [file.read(sizes[name]) for name, file in self._tables.items()]
            if not sound or (entry["rows"] and _checksum(data) != entry["crc"]):
                break
            self._note(entry)
            kept += len(line)
        self._journal.truncate(kept)
        self._journal.seek(kept)
        for name, file in self._tables.items():
            at = sum(self.counts) * _row_bytes(self.rows.columns[name])
            file.truncate(at)
            file.seek(at)

    def _note(self, entry: Mapping[str, Any]) -> None:
        self.errors.append(entry.get("error"))
        self.counts.append(entry["rows"])

    def _content_hash(self) -> str:
        return hashlib.sha256(
            "".join(shards.hash_file(self.partial / f"{name}.raw") for name in sorted(self.rows.columns)).encode()
        ).hexdigest()


def open_header(
    corpus: Corpus, first: int, end: int, source: Mapping[str, Any], rows: RowFormat, most: int
) -> dict[str, str]:
    """What decides the content of a sidecar. source: JSON values that tell one source from another."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint(corpus, first, end),
        "source": json.dumps(source, sort_keys=True),
        "settings": json.dumps({**asdict(rows), "most": most}, sort_keys=True),
    }


# ---- reading


class Sidecar:
    """The regions of one shard. Raises DataError if the file is no sidecar, damaged or cut short."""

    def __init__(self, path: Path):
        self.path = path
        self.header, tables, begin = _read_header(path)
        self._map = np.memmap(path, np.uint8, "r")
        try:
            arrays = {name: self._array(entry, begin) for name, entry in tables.items()}
            small = {name: np.array(arrays.pop(name)) for name in ("offsets", "keys_blob", "keys_offsets")}
            if self.header.pop("self_sha256") != _self_hash(self.header, small):
                raise ValueError("its header is not as it was written")
            settings = json.loads(self.header["settings"])
            self.most = settings.pop("most")
            self.rows = RowFormat(**settings)
            self.offsets = small["offsets"]
            self.keys = shards.Strings(small["keys_blob"], small["keys_offsets"])
            self.tables = {name: arrays[name] for name in self.rows.columns}
            for name, (dtype, shape) in self.rows.columns.items():
                if (arrays[name].dtype, arrays[name].shape) != (dtype, (self.offsets[-1], *shape)):
                    raise ValueError(f"its table of {name} has another shape")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as fault:
            raise _damaged(path, f"{type(fault).__name__}: {fault}") from fault

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self):
        return Sidecar, (self.path,)  # a worker maps the file itself

    @property
    def quarantined(self) -> list[dict[str, str]]:
        return json.loads(self.header["quarantined"])

    def picture(self, i: int) -> PictureRegions:
        a, b = self.offsets[i : i + 2]
        return self.rows.decode({name: table[a:b] for name, table in self.tables.items()})

    def verify(self) -> None:
        """Reads every byte. Raises DataError if one is not what was written."""
        tables = (self.tables[name].reshape(-1).view(np.uint8) for name in sorted(self.tables))
        hashes = "".join(hashlib.sha256(table.data).hexdigest() for table in tables)
        if hashlib.sha256(hashes.encode()).hexdigest() != self.header["content_sha256"]:
            raise _damaged(self.path, "bytes that were not written so")

    def _array(self, entry: Mapping[str, Any], begin: int) -> np.ndarray:
        a, b = entry["data_offsets"]
        if not 0 <= a <= b <= len(self._map) - begin:
            raise ValueError("a table reaches beyond the file's end")
        return self._map[begin + a : begin + b].view(np.ndarray).view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])


class RegionStore:
    """The regions of a corpus, by item. lengths: (n,) rows of each item, 0 where its picture is bad.

    feature_size, classes: F and K of every picture.
    """

    def __init__(self, sidecars: Sequence[Sidecar]):
        self.sidecars = list(sidecars)
        self.feature_size, self.classes = sidecars[0].rows.features, sidecars[0].rows.classes
        self._first = offsets_of([len(sidecar) for sidecar in sidecars])
        self.lengths = np.concatenate([np.diff(sidecar.offsets) for sidecar in sidecars])
        self.fingerprint = hashlib.sha256(
            "".join(sidecar.header["content_sha256"] + sidecar.header["fingerprint"] for sidecar in sidecars).encode()
        ).hexdigest()

    @classmethod
    def open(
        cls, paths: str | Path | Sequence[str | Path] | None, corpus: Corpus, *, verify: bool = False
    ) -> RegionStore:
        """The sidecars of every shard of `corpus`, whatever their names.

        paths: sidecars, or folders that hold them; None: where `unimo prepare regions` puts them by itself. verify:
        read every byte. Raises DataError where a shard has none or a file is damaged, UsageError where they come from
        different sources or settings.
        """
        if corpus.kind == "texts":
            raise UsageError("texts have no regions", where="RegionStore.open", expected="images or pairs")
        known = {}
        for path in _sidecars_at(paths, corpus):
            sidecar = Sidecar(path)
            known[sidecar.header["fingerprint"]] = sidecar
        chosen: list[Sidecar] = []
        for shard, first, end in spans(corpus):
            pictures = fingerprint(corpus, first, end)
            if pictures not in known:
                raise DataError(
                    "no regions fit this shard",
                    where=shard,
                    got=", ".join(str(other.path) for other in list(known.values())[:3]) or "no sidecar",
                    expected=f"a {SUFFIX} made of these {end - first} pictures as they are now",
                    do="unimo prepare regions",
                )
            sidecar = known[pictures]
            if chosen and _made_by(sidecar) != _made_by(chosen[0]):
                raise UsageError(
                    "regions of different sources or settings",
                    where=sidecar.path,
                    got=" ".join(_made_by(sidecar)),
                    expected=f"{' '.join(_made_by(chosen[0]))}, as in {chosen[0].path}",
                    do="prepare all shards in the same way",
                )
            if verify:
                sidecar.verify()
            chosen.append(sidecar)
        return cls(chosen)

    def __len__(self) -> int:
        return int(self._first[-1])

    def has(self, i: int) -> bool:
        return bool(self.lengths[i])

    def picture(self, i: int) -> PictureRegions:
        """The regions of item i, [IMG] first. Raises DataError, with the reason, where its picture is bad."""
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        s = int(np.searchsorted(self._first, i, side="right")) - 1
        sidecar, j = self.sidecars[s], i - int(self._first[s])
        if not self.lengths[i]:
            parts: dict[str, Any] = next(bad for bad in sidecar.quarantined if bad["key"] == sidecar.keys[j])
            raise DataError(**{name: value for name, value in parts.items() if name != "key"})
        return sidecar.picture(j)


def _sidecars_at(paths: str | Path | Sequence[str | Path] | None, corpus: Corpus) -> Iterator[Path]:
    if paths is None:
        places = (sidecar_path(shard, corpus.kind) for shard, _, _ in spans(corpus))
        yield from (place for place in places if place.is_file())
        return
    for path in map(Path, [paths] if isinstance(paths, (str, Path)) else paths):
        if path.is_dir():
            yield from sorted(path.glob(f"*{SUFFIX}"))
            yield from sorted(path.glob(f".unimo-*{SUFFIX}"))
        else:
            yield path


def _made_by(sidecar: Sidecar) -> tuple[str, str]:
    return sidecar.header["source"], sidecar.header["settings"]


# ---- the file


def _safetensors_header(header: Mapping[str, str], shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> bytes:
    """Length and JSON, filled up with blanks so that the tables behind are aligned (the format's own rule)."""
    entries: dict[str, Any] = {"__metadata__": dict(sorted(header.items()))}
    at = 0
    for name, (dtype, shape) in shapes.items():
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, Any], int]:
    """(metadata, tables, where the tables begin)."""
    size = shards.stat_regular(path).st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError("it does not begin with a header")
            entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__")
        if metadata["format"] != FORMAT or metadata["version"] != VERSION:
            raise ValueError(f"{metadata['format']}, version {metadata['version']}")
        end = max(entry["data_offsets"][1] for entry in entries.values())
        if size != 8 + length + end:
            raise ValueError(f"{size} bytes, where its header says {8 + length + end}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as fault:
        raise _damaged(path, fault) from fault
    return metadata, entries, 8 + length


def _damaged(path: Path, got: object) -> DataError:
    expected = f"{FORMAT}, version {VERSION}, whole and unchanged"
    return DataError("not a sidecar of regions", where=path, got=got, expected=expected, do="unimo prepare regions")


def _self_hash(header: Mapping[str, str], small: Mapping[str, np.ndarray]) -> str:
    """Of everything but the large tables, which `content_sha256` covers: checked at every start."""
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(small):
        digest.update(np.ascontiguousarray(small[name]).tobytes())
    return digest.hexdigest()


def _checksum(pieces: Any) -> int:
    crc = 0
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
    return crc


def _row_bytes(column: tuple[np.dtype, tuple[int, ...]]) -> int:
    dtype, shape = column
    return dtype.itemsize * int(np.prod(shape, dtype=np.int64))


@contextmanager
def _disk(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            "cannot write regions",
            where=place,
            got=error.strerror or str(error),
            expected="room and permission for the tables",
            do="free disk space, or choose another folder (--out), then start again: what is written is kept",
        ) from error
