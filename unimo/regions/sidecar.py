"""Regions of every image of a shard, prepared once and read by memory map (spec unimo §4).

    n images of a shard · T rows of all of them · F features · K classes, k of them kept

A sidecar `SHARD.KIND.regions.safetensors` holds arrays that any reader of safetensors understands:

    offsets (n + 1,) int64    rows of image i are [offsets[i], offsets[i + 1]), [IMG] first; none if it is bad
    boxes (T, 5) float32      corners and area as shares of the image
    features (T, F) float16, or int8 with scales (T,) float32
    classes (T, K) float16, or the k likeliest (T, k) with class_ids (T, k) uint16, or absent
    keys_blob, keys_offsets   the images' names, as `pack_strings` makes them

and a header that says of which images (a fingerprint of their keys and bytes), by which source and settings, and
which images are bad and why. `unimo.regions.writer` writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.corpus.index_file import index_path
from unimo.data.regions import ImageRegions
from unimo.errors import DataError
from unimo.file_access import stat_regular
from unimo.ragged import Strings
from unimo.regions.rows import RowFormat

FORMAT, VERSION = "unimo-regions", "1"
SUFFIX = ".regions.safetensors"

_DTYPES = {"I64": np.int64, "F32": np.float32, "F16": np.float16, "U16": np.uint16, "I8": np.int8, "U8": np.uint8}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 2**28  # bytes; larger is damage


# ---- which images


def spans(corpus: Corpus) -> list[tuple[Path, int, int]]:
    """Every shard with the range [first, end) of its items."""
    return [(path, int(a), int(b)) for (path, _), (a, b) in zip(corpus.shards, pairwise(corpus._first))]


def fingerprint(corpus: Corpus, first: int, end: int) -> str:
    """SHA-256 over keys and contents of the images [first, end), in order: whatever file or kind they come from."""
    digest = hashlib.sha256(json.dumps([corpus.keys[i] for i in range(first, end)]).encode())
    digest.update(np.ascontiguousarray(corpus._image_sha256[first:end]).tobytes())
    return digest.hexdigest()


def sidecar_path(shard: Path, kind: str, folder: Path | None = None) -> Path:
    """Where the shard's index would lie: beside it, in `folder`, or in the user's cache."""
    name = index_path(shard, kind, folder)
    return name.with_name(name.name.removesuffix(".index.safetensors") + SUFFIX)


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
            if self.header.pop("self_sha256") != self_hash(self.header, small):
                raise ValueError("its header is not as it was written")
            settings = json.loads(self.header["settings"])
            self.most = settings.pop("most")
            self.rows = RowFormat(**settings)
            self.offsets = small["offsets"]
            self.keys = Strings(small["keys_blob"], small["keys_offsets"])
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

    def image(self, i: int) -> ImageRegions:
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


# ---- the header


def safetensors_header(header: Mapping[str, str], shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> bytes:
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
    size = stat_regular(path).st_size
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


def self_hash(header: Mapping[str, str], small: Mapping[str, np.ndarray]) -> str:
    """Of everything but the large tables, which `content_sha256` covers: checked at every start."""
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(small):
        digest.update(np.ascontiguousarray(small[name]).tobytes())
    return digest.hexdigest()


def _damaged(path: Path, got: object) -> DataError:
    expected = f"{FORMAT}, version {VERSION}, whole and unchanged"
    return DataError("not a sidecar of regions", where=path, got=got, expected=expected, do="unimo prepare regions")
