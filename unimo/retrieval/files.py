"""The folder of an index: what is written, and what is checked before any of it is believed.

    n rows of a part (a passage, a caption or an image each) · D width · i their numbers

    MANIFEST.json            format, version, size and SHA-256 of every other file, and a seal over itself
    index.json               what the index was made from, and its parts in order
    part-00000.safetensors   embeddings (n, D) float16 or float32, of length 1
                             keys, texts   UTF-8 end to end in _blob (b,), cut at _offsets (n + 1,)
                             items, captions (n,) where a row comes from: item of its corpus, caption of that item
                             sources, places (n,) the file's number in index.json, and the byte it begins at there or -1
                             begins, ends (n,) characters of the document that the passage is

Files are read as arrays mapped into memory, never executed or unpickled; a folder may come from anyone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from unimo.disk import write_atomic
from unimo.errors import DataError
from unimo.file_access import hash_file, stat_regular
from unimo.json_files import json_bytes, load_json
from unimo.ragged import pack_strings

FORMAT, VERSION = "unimo-retrieval-index", 1
MANIFEST, INDEX = "MANIFEST.json", "index.json"
Kind = Literal["text", "image"]
KINDS: tuple[Kind, ...] = ("text", "image")
PRECISIONS: dict[str, np.dtype] = {"float16": np.dtype(np.float16), "float32": np.dtype(np.float32)}
ROWS_AT_ONCE = 1024  # converted and multiplied together: what stays in a processor's cache

_HEADER = "unimo-retrieval-part"
_NUMBERS = ("items", "captions", "sources", "places", "begins", "ends")
_FILE = re.compile(r"index\.json|part-\d{5,}\.safetensors")
_UNIT_TOLERANCE = 0.01  # float16 moves a length by 0.001 at most


@dataclass(frozen=True)
class Row:
    """Where one row comes from, and its text ("" for an image)."""

    key: str
    text: str
    item: int  # from here on in the order of _NUMBERS
    caption: int = 0
    source: int = 0
    place: int = -1
    begin: int = 0
    end: int = 0


def part_name(number: int) -> str:
    return f"part-{number:05d}.safetensors"


def write_part(path: Path, header: Mapping[str, Any], embeddings: np.ndarray, rows: list[Row]) -> None:
    """One part, whole or not at all. The same header, embeddings (n, D) and rows give the same bytes."""
    arrays = {"embeddings": np.ascontiguousarray(embeddings)}
    for name, strings in (("keys", [row.key for row in rows]), ("texts", [row.text for row in rows])):
        arrays[f"{name}_blob"], arrays[f"{name}_offsets"] = pack_strings(strings)
    for name in _NUMBERS:
        arrays[name] = np.array([getattr(row, name[:-1]) for row in rows], np.int64)
    # One entry: safetensors writes several in an order that changes from run to run.
    text = json.dumps({**header, "content": content_hash(arrays)}, sort_keys=True)
    write_atomic(path, save(arrays, metadata={_HEADER: text}))


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


class Part:
    """One file of rows, mapped into memory. header: as it was written.

    Raises DataError if it is missing, cut short, no part of an index, or its arrays do not fit each other.
    """

    def __init__(self, path: Path):
        self.path = path
        stat_regular(path)
        try:
            with safe_open(path, framework="numpy") as stored:  # the library checks sizes and places of all arrays
                self.header: dict[str, Any] = json.loads((stored.metadata() or {})[_HEADER])
            raw = np.memmap(path, np.uint8, "r")
            begin = 8 + int.from_bytes(raw[:8].tobytes(), "little")
            tables = json.loads(raw[8:begin].tobytes())
            del tables["__metadata__"]
            dtypes = {"F16": np.float16, "F32": np.float32, "I64": np.int64, "U8": np.uint8}
            self.arrays = {}
            for name, table in tables.items():
                first, last = (begin + at for at in table["data_offsets"])
                flat = raw[first:last].view(np.ndarray)
                self.arrays[name] = flat.view(dtypes[table["dtype"]]).reshape(table["shape"])
            self._check()
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as fault:
            raise _unusable(path, f"{type(fault).__name__}: {fault}", "a part of an index, whole") from fault

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def embeddings(self) -> np.ndarray:
        """(n, D) as they are stored."""
        return self.arrays["embeddings"]

    def blocks(self) -> Iterator[np.ndarray]:
        """The embeddings as float64, some rows at a time."""
        for first in range(0, len(self), ROWS_AT_ONCE):
            # torch widens float16 several times faster than numpy; it wants to be told that it will not write
            some = torch.from_numpy(np.array(self.embeddings[first : first + ROWS_AT_ONCE]))
            yield some.double().numpy()

    def row(self, i: int) -> Row:
        """Row i. Raises DataError if its strings are not UTF-8."""
        texts: dict[str, str] = {}
        for name in ("keys", "texts"):
            a, b = self.arrays[f"{name}_offsets"][i : i + 2]
            try:
                texts[name[:-1]] = self.arrays[f"{name}_blob"][a:b].tobytes().decode()
            except UnicodeDecodeError as fault:
                raise _unusable(f"{self.path}, row {i}", fault, f"{name} in UTF-8") from fault
        return Row(texts["key"], texts["text"], *(int(self.arrays[name][i]) for name in _NUMBERS))

    def verify(self) -> None:
        """Reads every embedding. Raises DataError if one is not finite or not of length 1."""
        first = 0
        for block in self.blocks():
            lengths = np.linalg.norm(block, axis=1)
            wrong = ~(np.abs(lengths - 1) <= _UNIT_TOLERANCE)  # also true of NaN
            if wrong.any():
                i = int(wrong.argmax())
                got = f"length {lengths[i]:.4g}"
                raise _unusable(f"{self.path}, row {first + i}", got, "finite embeddings of length 1")
            first += len(block)

    def _check(self) -> None:
        n = len(self.embeddings)
        fitting = self.embeddings.ndim == 2 and self.embeddings.dtype in PRECISIONS.values()
        for name in _NUMBERS:
            fitting &= self.arrays[name].shape == (n,) and self.arrays[name].dtype == np.int64
        for name in ("keys", "texts"):
            offsets, blob = self.arrays[f"{name}_offsets"], self.arrays[f"{name}_blob"]
            fitting &= offsets.shape == (n + 1,) and offsets.dtype == np.int64 and blob.dtype == np.uint8
            fitting &= int(offsets[0]) == 0 and int(offsets[-1]) == len(blob) and bool((np.diff(offsets) >= 0).all())
        if not fitting or not isinstance(self.header, dict):
            raise ValueError("its arrays do not fit each other")


# ---- the folder


def seal(folder: Path, index: Mapping[str, Any]) -> None:
    """Writes index.json, then the manifest over it and every part it names. `verify_folder` is the other half."""
    write_atomic(folder / INDEX, json_bytes(dict(index), where=folder / INDEX))
    names = [INDEX, *(part["file"] for part in index["parts"])]
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)} for name in sorted(names)
    }
    write_atomic(folder / MANIFEST, _sealed({"format": FORMAT, "version": VERSION, "files": files}))


def read_folder(folder: Path, *, hashes: bool = True) -> dict[str, Any]:
    """index.json, after the manifest and the sizes (and hashes) of all files were found right.

    Raises DataError, naming the file, for a folder that is unfinished, damaged, or no index.
    """
    where = folder / MANIFEST
    if not where.is_file():
        begun = folder.with_name(folder.name + ".partial").is_dir()
        raise DataError(
            "not a finished index" if begun else "not an index",
            where=folder,
            got=f"no {MANIFEST}",
            expected="a folder that `unimo index` wrote",
            do="run the same `unimo index` again: it goes on where it stopped" if begun else None,
        )
    manifest = load_json(where)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _unusable(where, "the manifest of something else", f'"format": "{FORMAT}"')
    if type(manifest.get("version")) is not int or manifest["version"] != VERSION:
        raise _unusable(where, f"version {manifest.get('version')}", f"version {VERSION}")
    manifest.pop("seal", None)
    if _sealed(manifest) != where.read_bytes():
        raise _unusable(where, "a manifest that was changed", "its seal over its own words")
    files = manifest.get("files")
    if not isinstance(files, dict) or INDEX not in files:
        raise _unusable(where, "no list of files", f"size and SHA-256 of {INDEX} and of every part")
    for name, entry in files.items():
        if not _FILE.fullmatch(name) or not isinstance(entry, dict):
            raise _unusable(where, f"file {name!r}", "plain names of the files of an index")
        _check_file(folder / name, entry, hashes or name == INDEX)
    index = load_json(folder / INDEX, max_bytes=1 << 28)
    try:
        _check_index(index, files)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise _unusable(folder / INDEX, f"{type(fault).__name__}: {fault}", "what `unimo index` writes") from fault
    return index


def open_parts(folder: Path, index: Mapping[str, Any]) -> list[Part]:
    """The parts of a folder that `read_folder` found right. Raises DataError where one is not what index.json says."""
    parts = []
    for entry in index["parts"]:
        part = Part(folder / entry["file"])
        shape, dtype = part.embeddings.shape, part.embeddings.dtype
        expected = (entry["rows"], index["width"]), PRECISIONS[index["precision"]]
        if (shape, dtype) != expected:
            raise _unusable(part.path, f"embeddings {shape} {dtype}", f"{expected[0]} {expected[1]}")
        for name, limit in (("sources", len(index["sources"])), ("items", index["corpora"][entry["corpus"]]["items"])):
            numbers = part.arrays[name]
            if len(part) and not 0 <= numbers.min() <= numbers.max() < limit:
                got = f"{name} {numbers.min()} to {numbers.max()}"
                raise _unusable(part.path, got, f"numbers from 0 to {limit - 1}")
        parts.append(part)
    return parts


def _check_index(index: Any, files: Mapping[str, Any]) -> None:
    if type(index["width"]) is not int or index["width"] < 1 or index["precision"] not in PRECISIONS:
        raise ValueError("unknown width or precision")
    if not all(isinstance(source["path"], str) and isinstance(source["form"], str) for source in index["sources"]):
        raise ValueError("a source that is no path")
    if not isinstance(index["model"]["source"], str) or not isinstance(index["made_from"]["model"], dict):
        raise ValueError("no model")
    for corpus in index["corpora"]:
        known = corpus["kind"] in ("texts", "images", "pairs") and type(corpus["items"]) is int
        if not known or not isinstance(corpus["fingerprint"], str) or not isinstance(corpus["paths"], list):
            raise ValueError("an unknown corpus")
    names = [part["file"] for part in index["parts"]]
    if sorted([INDEX, *names]) != sorted(files):
        raise ValueError("other parts than in the manifest")
    for part in index["parts"]:
        known = part["kind"] in KINDS and type(part["rows"]) is int and type(part["corpus"]) is int
        if not known or not 0 <= part["corpus"] < len(index["corpora"]):
            raise ValueError(f"part {part['file']}")


def _check_file(path: Path, entry: Mapping[str, Any], hashes: bool) -> None:
    size = stat_regular(path).st_size
    if size != entry.get("bytes"):
        raise _unusable(path, f"{size} bytes", f"{entry.get('bytes')} bytes")
    if hashes and (found := hash_file(path)) != entry.get("sha256"):
        raise _unusable(path, f"sha256 {found}", f"sha256 {entry.get('sha256')}")


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    return json_bytes({**manifest, "seal": hashlib.sha256(json_bytes(dict(manifest))).hexdigest()})


def _unusable(where: object, got: object, expected: str) -> DataError:
    do = "restore a copy, or remove the folder and run `unimo index` again"
    return DataError("cannot use this index", where=where, got=got, expected=expected, do=do)
