"""Reads the variables of Paddle 1.x: one file each, or all of them one after the other in one file.

    a folder          one file per variable, named like it (spec unimo §9.2, unimo2 §8.4)
    a combined file   what `save_params(filename=...)` writes: the same bytes of each variable end to end, without
                      their names; these are given beside it, one a line, in the order of the file

Every size is checked against the file before memory is asked for. All errors are WeightsError and say where: the file,
the variable, the byte.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unimo.errors import WeightsError

ELEMENTS = {1: "<i2", 2: "<i4", 3: "<i8", 4: "<f2", 5: "<f4", 6: "<f8", 20: "u1", 21: "i1"}  # VarType of the descriptor
MOST_DIMENSIONS, MOST_LEVELS, LONGEST_DESCRIPTOR = 8, 16, 1024
NAME_LISTS = ("names.txt", "__names__")  # where the names of a combined file are looked for, in its folder
LONGEST_LIST = 4 << 20  # bytes of a list of names


def read_folder(folder: str | Path) -> dict[str, np.ndarray]:
    """Every variable of a Paddle 1.x checkpoint folder, by name, in the order of names; a combined file where a list of
    names lies beside it.

    Entries that are no plain files are refused, as are files that are not variables: a weight folder holds weights, and
    perhaps a .json configuration, which is not read here.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise WeightsError("no such folder", where=folder, expected="a folder with one file per variable")
    lists = [folder / name for name in NAME_LISTS if (folder / name).exists()]
    if len(lists) > 1:
        raise WeightsError(
            "two lists of names", where=folder, got=", ".join(NAME_LISTS), expected="one", do="name it: --names FILE"
        )
    if lists:
        return read_combined(combined_in(folder, lists[0]), lists[0])
    found = {path.name: read_variable(path) for path in _files(folder)}
    if not found:
        raise WeightsError("empty folder", where=folder, expected="one file per variable")
    return found


def combined_in(folder: Path, names: Path) -> Path:
    """The one file of a folder that is no list of names and no configuration."""
    found = [path for path in _files(folder) if path.name not in NAME_LISTS and path.resolve() != names.resolve()]
    if len(found) != 1:
        raise WeightsError(
            "a list of names is for one combined file",
            where=folder,
            got=f"{len(found)} files beside it: {', '.join(path.name for path in found[:4]) or 'none'}",
            expected="one",
            do=f"with one file per variable, move {names.name} away; else name the file itself",
        )
    return found[0]


def _files(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise WeightsError("not a plain file", where=path, expected="one file per variable")
        if path.suffix != ".json":
            found.append(path)
    return found


def read_variable(path: str | Path) -> np.ndarray:
    """The variable that is a whole file."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        array = _next(file, size, str(path))
        more = size - file.tell()
        expect(not more, path, "the data do not fit the shape", f"{more} bytes more", array.shape)
    return array


def read_combined(path: str | Path, names: str | Path) -> dict[str, np.ndarray]:
    """The variables of a combined file by their names, in its order. names: the file with the list.

    Which name a variable has is not written in the file: only its shape tells whether the list is in the right order,
    and only where shapes differ. `save_params` itself writes in the order of sorted names. Refused: names that are too
    few or too many, or stand twice.
    """
    path, names = Path(path), Path(names)
    listed = read_names(names)
    if path.is_symlink() or not path.is_file():
        raise WeightsError("not a plain file", where=path, expected="variables one after the other")
    size = path.stat().st_size
    found: dict[str, np.ndarray] = {}
    with path.open("rb") as file:
        for number, name in enumerate(listed, start=1):
            if file.tell() == size:
                raise WeightsError(
                    "more names than variables",
                    where=f"{names}, name {number}, {name}",
                    got=f"{len(found)} variables in {path.name}",
                    expected=f"{len(listed)}, one a name",
                    do="give the list that this file was written with",
                )
            found[name] = _next(file, size, f"{path}, {name}")
        if file.tell() != size:
            raise WeightsError(
                "bytes behind the last named variable",
                where=f"{path}, byte {file.tell()}",
                got=f"{size - file.tell()} bytes more than the {len(listed)} names of {names.name} stand for",
                expected="as many names as variables",
                do="give the list that this file was written with",
            )
    return found


def read_names(path: str | Path) -> Sequence[str]:
    """The names in a list, one a line, blank lines apart. WeightsError for one that stands twice, and for none."""
    path = Path(path)
    if path.is_symlink() or not path.is_file():
        raise WeightsError("no such list of names", where=path, expected="a text file with one name a line")
    size = path.stat().st_size
    expect(size <= LONGEST_LIST, path, "too long a list of names", f"{size} bytes", f"at most {LONGEST_LIST}")
    data = path.read_bytes()
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as fault:
        raise WeightsError("a list of names that is no text", where=path, got=fault, expected="UTF-8") from fault
    seen: dict[str, int] = {}
    for number, name in enumerate(lines, start=1):
        if not name:
            continue
        expect(name.isprintable(), f"{path}, line {number}", "not a name", name, "printable characters")
        expect(
            name not in seen,
            f"{path}, line {number}",
            "a name twice",
            name,
            f"once; it stands in line {seen.get(name)}",
        )
        seen[name] = number
    expect(bool(seen), path, "an empty list of names", "no name", "one name a line")
    return list(seen)


def _next(file: BinaryIO, size: int, where: str) -> np.ndarray:
    """The variable that begins here: version · levels · version · descriptor (protobuf) · little-endian data."""
    begin = file.tell()

    def take(count: int, what: str) -> bytes:
        if count < 0 or count > size - file.tell():
            raise WeightsError(
                "truncated variable",
                where=f"{where}, {what}, byte {file.tell()}",
                got=f"{size - file.tell()} bytes",
                expected=count,
            )
        return file.read(count)

    def number(form: str, what: str) -> int:
        return struct.unpack(form, take(struct.calcsize(form), what))[0]

    there = f"{where}, byte {begin}"
    expect(number("<I", "version") == 0, there, "not a variable of version 0")
    levels = number("<Q", "number of levels")
    expect(levels <= MOST_LEVELS, there, "too many levels", levels, f"at most {MOST_LEVELS}")
    for _ in range(levels):
        take(number("<Q", "size of a level"), "a level")
    expect(number("<I", "version of the tensor") == 0, there, "not a tensor of version 0")
    length = number("<i", "length of the descriptor")
    expect(0 <= length <= LONGEST_DESCRIPTOR, there, "impossible descriptor", f"{length} bytes")
    element, shape = _descriptor(take(length, "descriptor"), there)
    wanted, left = math.prod(shape) * np.dtype(element).itemsize, size - file.tell()
    expect(wanted <= left, there, "the data do not fit the shape", f"{left} bytes", f"{wanted}: {shape}")
    return finite(np.fromfile(file, element, math.prod(shape)).reshape(shape), where)


def _descriptor(data: bytes, where: str) -> tuple[str, tuple[int, ...]]:
    """Field 1: element type, field 2: dimensions, repeated or packed; all varints."""
    element, shape, at = None, [], 0

    def varint() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            expect(at < len(data), where, "truncated descriptor")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise WeightsError("a number of the descriptor never ends", where=where)

    while at < len(data):
        tag = varint()
        if tag == 0x08:
            element = varint()
        elif tag == 0x10:
            shape.append(varint())
        elif tag == 0x12:
            end = varint() + at
            expect(end <= len(data), where, "truncated descriptor")
            while at < end:
                shape.append(varint())
        else:
            raise WeightsError(
                "unknown field in the descriptor", where=where, got=tag, expected="element type, dimensions"
            )
    if element not in ELEMENTS:
        raise WeightsError("unknown element type", where=where, got=element, expected=f"one of {sorted(ELEMENTS)}")
    # A negative dimension is a varint beyond 2^63.
    fits = len(shape) <= MOST_DIMENSIONS and math.prod(side or 1 for side in shape) < 2**60
    expect(fits, where, "impossible shape", shape)
    return ELEMENTS[element], tuple(shape)


def finite(array: np.ndarray, where: object) -> np.ndarray:
    """The array. WeightsError where a value is NaN or infinite."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise WeightsError("values that are not finite", where=where, got=f"{bad} of {array.size}", expected="none")
    return array


def expect(holds: bool, where: object, what: str, got: object = None, expected: object = None) -> None:
    """WeightsError unless it holds."""
    if not holds:
        raise WeightsError(what, where=where, got=got, expected=expected)
