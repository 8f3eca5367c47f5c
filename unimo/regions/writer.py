"""A sidecar of regions (`unimo.regions.sidecar`) written image by image.

While it is made, `SIDECAR.partial/` holds one growing file for each table and a journal of whole images: a run that
is killed loses the image it was at, and its successor writes the same bytes.
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
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unimo.data.regions import ImageRegions
from unimo.errors import ResourceError, UnimoError
from unimo.file_access import hash_file
from unimo.ragged import offsets_of, pack_strings
from unimo.regions.rows import RowFormat
from unimo.regions.sidecar import safetensors_header, self_hash


class SidecarWriter:
    """Writes a sidecar one image after the other, going on where an earlier process was stopped.

    header: what decides the content (see `open_header`); a partial sidecar under another header is thrown away.
    errors: what was written of each image so far, None or the parts of its error; `len(errors)` is the next image's
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

    def add(self, image: ImageRegions | UnimoError) -> None:
        """The next image's rows, or why it has none. Raises what `RowFormat.encode` raises, and then adds nothing."""
        key = self.keys[len(self.errors)]
        if isinstance(image, UnimoError):
            entry: dict[str, Any] = {"key": key, "rows": 0, "error": image.parts()}
            data: dict[str, bytes] = {}
        else:
            stored = self.rows.encode(image, where=key)
            data = {name: np.ascontiguousarray(stored[name]).tobytes() for name in self.rows.columns}
            entry = {"key": key, "rows": len(image), "crc": _checksum(data.values())}
        with _disk(self.partial):
            for name, rows in data.items():
                self._tables[name].write(rows)
            # An image counts from its line in the journal on: what a kill leaves behind the last line is cut off.
            self._journal.write(json.dumps(entry).encode() + b"\n")
        self._note(entry)

    def finish(self) -> Path:
        """Joins header and tables into the sidecar, which appears whole or not at all."""
        if len(self.errors) != len(self.keys):
            raise UnimoError("not every image was added", got=len(self.errors), expected=len(self.keys))
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
            header["self_sha256"] = self_hash(header, small)
            written = self.partial / "sidecar"
            with written.open("wb") as out:
                out.write(safetensors_header(header, {name: shapes[name] for name in order}))
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
            "".join(hash_file(self.partial / f"{name}.raw") for name in sorted(self.rows.columns)).encode()
        ).hexdigest()


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
