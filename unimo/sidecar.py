"""Sidecar files: what is prepared from a corpus once and read at every start (its index, regions, rewrites,
neighbours).

The container is safetensors. Its arrays are read by range, so regions larger than memory need no index of their own;
every library of the field opens it; and nothing in it can be executed. NPZ unpacks whole arrays and may hold pickles,
HDF5 is a large library for what is a header and flat arrays, and lines of JSON are a third larger than the same text as
bytes with offsets. One entry of its metadata, "unimo", is JSON:

    {"format": ..., "version": ..., "header": {...}, "arrays": {name: [dtype, shape, SHA-256]}, "sha256": of all this}

The header names the data, the settings and the weights that the arrays were made from; equal headers and arrays are
equal bytes. A sidecar of items (`SidecarWriter`) has, besides its columns,

    offsets (n + 1,) int64       rows of item i are [offsets[i], offsets[i + 1])
    keys_blob, keys_offsets      names of the items, as `pack_strings` makes them
    header["notes"]              {item: note}, why an item has no rows
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from unimo.disk import disk_error, locked, replacing, sync_folder
from unimo.errors import DataError, ResourceError, UnimoError
from unimo.ragged import Strings, offsets_of, pack_strings
from unimo.safetensors_files import DTYPE_NAMES, safetensors_header

BLOCK = 64  # items written together; a kill loses at most these
Columns = Mapping[str, tuple[np.dtype, tuple[int, ...]]]  # name -> dtype and shape of a row
_ENTRY = "unimo"
_PIECE = 2**24  # bytes hashed at once


class Format(NamedTuple):
    """A kind of sidecar. name: plural, as messages say it. version: raised when old files can no longer be read."""

    name: str
    version: int
    command: str  # that writes it


class Sidecar:
    """An opened sidecar; arrays are read when wanted, so that it can be handed to worker processes.

    Raises DataError where there is no such file, or one of another format or version, or a damaged one.
    """

    def __init__(self, path: Path, form: Format):
        self.path, self.form = path, form
        if not path.is_file():
            raise self._refused(f"no {form.name} here", "no file")
        try:
            self._stored = safe_open(path, framework="numpy")
            entry = json.loads((self._stored.metadata() or {}).get(_ENTRY, "null"))
            if entry is None:
                raise ValueError("a file of another program, or of an older version of unimo")
            if (entry["format"], entry["version"]) != (form.name, form.version):
                raise ValueError(f"{entry['format']}, version {entry['version']}")
            self.sha256: str = entry.pop("sha256")
            self.header: dict[str, Any] = entry["header"]
            self._arrays: dict[str, list] = entry["arrays"]
            if self.sha256 != _json_sha256(entry):
                raise ValueError("a header that is not as it was written")
            slices = {name: self._stored.get_slice(name) for name in self._stored.keys()}  # noqa: SIM118 - no mapping
            found = {name: [one.get_dtype(), one.get_shape()] for name, one in slices.items()}
            if found != {name: parts[:2] for name, parts in self._arrays.items()}:
                raise ValueError("other arrays than were written")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
            raise self._damaged(fault if isinstance(fault, ValueError) else repr(fault)) from fault

    def __reduce__(self):
        return Sidecar, (self.path, self.form)

    def array(self, name: str) -> np.ndarray:
        """A whole array, compared with its digest."""
        try:
            value = self._stored.get_tensor(name)
        except SafetensorError as fault:
            raise self._damaged(fault) from fault
        if _array_sha256(value.dtype, value.shape, [value]) != self._arrays[name][2]:
            raise self._damaged(f"other bytes of {name} than were written")
        return value

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, compared with their digests."""
        return {name: self.array(name) for name in sorted(self._arrays)}

    def rows(self, name: str, first: int, end: int) -> np.ndarray:
        """Rows [first, end) of an array, as they are on the disk."""
        if first < end:
            return self._stored.get_slice(name)[first:end]
        short, shape, _ = self._arrays[name]
        return np.zeros((0, *shape[1:]), next(name for name, other in DTYPE_NAMES.items() if other == short))

    def verify(self) -> None:
        """Reads every byte. Raises DataError if one is not what was written."""
        for name, (_, shape, digest) in self._arrays.items():
            sample = self.rows(name, 0, 0)
            step = max(1, _PIECE // max(1, sample.dtype.itemsize * int(np.prod(shape[1:]))))
            pieces = (self.rows(name, i, min(i + step, shape[0])) for i in range(0, shape[0], step))
            if _array_sha256(sample.dtype, shape, pieces) != digest:
                raise self._damaged(f"other bytes of {name} than were written")

    # ---- of items

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def offsets(self) -> np.ndarray:
        return self.array("offsets")

    @cached_property
    def keys(self) -> Strings:
        return Strings(self.array("keys_blob"), self.array("keys_offsets"))

    @property
    def notes(self) -> dict[int, Any]:
        return {int(item): note for item, note in self.header["notes"].items()}

    def item(self, i: int, columns: Iterable[str]) -> dict[str, np.ndarray]:
        """The rows of item i in some columns."""
        first, end = self.offsets[i : i + 2].tolist()
        return {name: self.rows(name, first, end) for name in columns}

    def _damaged(self, got: object) -> DataError:
        return self._refused(f"not a file of {self.form.name} that this version reads", got)

    def _refused(self, what: str, got: object) -> DataError:
        expected = f"a file of `{self.form.command}`, version {self.form.version}, unchanged"
        do = f"run `{self.form.command}` (again), or name the folder it wrote to"
        return DataError(what, where=self.path, got=got, expected=expected, do=do)


def standing(path: Path, form: Format, header: Mapping[str, Any], *, verify: bool = False) -> Sidecar | None:
    """The sidecar at `path` if it was made from exactly this header; None where it must be made (again).

    verify: read every byte, and take a damaged one for none.
    """
    try:
        found = Sidecar(path, form)
        if {name: found.header.get(name) for name in header} != plain(header):
            return None
        if verify:
            found.verify()
    except DataError:
        return None
    shutil.rmtree(_partial(path), ignore_errors=True)  # a kill between renaming and clearing up
    return found


def write_sidecar(path: Path, form: Format, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """A sidecar from arrays in memory, whole or not at all. Raises ResourceError when the disk refuses."""
    _write(path, form, header, {name: _Table.of(array) for name, array in arrays.items()})


@contextlib.contextmanager
def workspace(place: Path) -> Iterator[Path]:
    """The folder `PLACE.partial` for what is not whole yet, held by this process alone.

    It is removed behind the body, and stays for a successor if that raises. Raises ResourceError where another process
    holds it.
    """
    folder = _partial(place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise disk_error(fault, folder) from fault
    with locked(folder / "lock"):
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def _partial(place: Path) -> Path:
    return place.with_name(place.name + ".partial")


class SidecarWriter:
    """Writes a sidecar item after item; started again after a kill it goes on, and leaves the same bytes.

        with SidecarWriter(place, form, header, keys, columns) as writer:
            for i in range(len(writer), len(keys)):
                writer.add(rows_of(i))

    Blocks of items wait in a `workspace` as small sidecars; those of another header, and damaged ones, are made again.
    The sidecar appears, whole, behind the body. Raises ResourceError when the disk refuses or another process is at it.
    """

    def __init__(self, place: Path, form: Format, header: Mapping[str, Any], keys: Sequence[str], columns: Columns):
        self.place, self.form, self.header, self.keys, self.columns = place, form, plain(header), keys, columns
        self.notes: list[Any] = []
        self._counts: list[int] = []
        self._blocks: list[Sidecar] = []
        self._waiting: list[Mapping[str, np.ndarray]] = []

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, rows: Mapping[str, np.ndarray] | None, note: Any = None) -> None:
        """The next item: its rows in every column, or None and a note (JSON) that says why it has none."""
        rows = (
            {name: np.zeros((0, *shape), dtype) for name, (dtype, shape) in self.columns.items()}
            if rows is None
            else rows
        )
        self._waiting.append(rows)
        self._counts.append(len(next(iter(rows.values()))))
        self.notes.append(note)
        if len(self._waiting) >= BLOCK:
            self._flush()

    def __enter__(self) -> SidecarWriter:
        self._stack = contextlib.ExitStack()
        self._folder = self._stack.enter_context(workspace(self.place))
        self._resume()
        return self

    def __exit__(self, kind, error, trace) -> None:
        with self._stack:
            if not isinstance(error, ResourceError):
                self._flush()  # what is done is kept, also where the body raised
            if error is not None:
                raise error
            self._finish()

    def _resume(self) -> None:
        for path in sorted(self._folder.glob("*.safetensors")):
            block = standing(path, self.form, {**self.header, "first": len(self)}, verify=True)
            if block is None:
                path.unlink()
                continue
            self._blocks.append(block)
            self._counts += block.array("counts").tolist()
            self.notes += block.header["notes"]

    def _flush(self) -> None:
        if not self._waiting:
            return
        first = len(self) - len(self._waiting)
        path = self._folder / f"{first:09d}.safetensors"
        arrays = {name: np.concatenate([rows[name] for rows in self._waiting]) for name in self.columns}
        header = {**self.header, "first": first, "notes": self.notes[first:]}
        write_sidecar(path, self.form, header, {**arrays, "counts": np.array(self._counts[first:], np.int64)})
        self._blocks.append(Sidecar(path, self.form))
        self._waiting = []

    def _finish(self) -> None:
        """Joins the blocks."""
        if len(self) != len(self.keys):
            raise UnimoError("not every item was written", where=self.place, got=len(self), expected=len(self.keys))
        blob, key_offsets = pack_strings(self.keys)
        small = {"offsets": offsets_of(self._counts), "keys_offsets": key_offsets, "keys_blob": blob}
        tables = {name: _Table.of(array) for name, array in small.items()}
        total = sum(self._counts)
        for name, (dtype, shape) in self.columns.items():
            tables[name] = _Table(dtype, (total, *shape), partial(self._pieces, name))
        notes = {i: note for i, note in enumerate(self.notes) if note is not None}
        whole = self._folder / "whole"
        _write(whole, self.form, {**self.header, "notes": notes}, tables)
        try:
            whole.replace(self.place)
            sync_folder(self.place.parent)
        except OSError as fault:
            raise disk_error(fault, self.place) from fault

    def _pieces(self, name: str) -> Iterator[np.ndarray]:
        return (block.rows(name, 0, int(block.array("counts").sum())) for block in self._blocks)


class _Table(NamedTuple):
    """An array to be written, in pieces that follow each other; they are iterated twice."""

    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[np.ndarray]]

    @classmethod
    def of(cls, array: np.ndarray) -> _Table:
        return cls(array.dtype, array.shape, lambda: [array])


def _write(path: Path, form: Format, header: Mapping[str, Any], tables: Mapping[str, _Table]) -> None:
    order = sorted(tables, key=lambda name: (-tables[name].dtype.itemsize, name))  # so that each is aligned
    digests: dict[str, list[Any]] = {
        name: [DTYPE_NAMES[dtype.name], list(shape), _array_sha256(dtype, shape, pieces())]
        for name, (dtype, shape, pieces) in tables.items()
    }
    entry = plain({"format": form.name, "version": form.version, "header": header, "arrays": digests})
    sizes = {name: math.prod(shape) * dtype.itemsize for name, (dtype, shape, _) in tables.items()}
    entries = ((name, digests[name][0], digests[name][1], sizes[name]) for name in order)
    text = safetensors_header(entries, {_ENTRY: _json({**entry, "sha256": _json_sha256(entry)})})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise disk_error(fault, path) from fault
    with replacing(path) as file:
        file.write(text)
        for name in order:
            for piece in tables[name].pieces():
                file.write(np.ascontiguousarray(piece).tobytes())


def _array_sha256(dtype: np.dtype, shape: Sequence[int], pieces: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256(f"{DTYPE_NAMES[dtype.name]} {list(shape)}".encode())
    for piece in pieces:
        digest.update(np.ascontiguousarray(piece).tobytes())
    return digest.hexdigest()


def _json_sha256(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples are lists, keys are texts."""
    return json.loads(json.dumps(value))
