"""Readers of the files of Paddle, the framework the papers used, without it and without running anything in them.

    NAME.pdparams     Paddle 2.x: a pickle of name -> array, protocol 2 to 4
    a folder          Paddle 1.x: one file per variable, named like it (spec unimo §9.2, unimo2 §8.4)
    a combined file   Paddle 1.x, `save_params(filename=...)`: the variables' bytes end to end, without their names;
                      these are given beside it, one a line, in the order of the file

Every size is checked against the file before memory is asked for. All errors are WeightsError and say where: the file,
the variable, the byte.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unimo.errors import WeightsError
from unimo.safetensors_files import expect

ELEMENTS = {1: "<i2", 2: "<i4", 3: "<i8", 4: "<f2", 5: "<f4", 6: "<f8", 20: "u1", 21: "i1"}  # VarType of the descriptor
PICKLED = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1")
MAX_DIMENSIONS, MAX_LEVELS, MAX_DESCRIPTOR, MAX_NAMES = 8, 16, 1024, 4 << 20
NAME_LISTS = ("names.txt", "__names__")  # where the names of a combined file are looked for, in its folder


# ---- pickles --------------------------------------------------------------------------------------------------------


def check_pickle(file: Any, size: int, where: object, *, torch_calls: re.Pattern[str] | None = None) -> None:
    """Reads a pickle's instructions without running them; WeightsError for a program that could exhaust memory.

    Python's own unpickler makes room for whatever frame or memo number a program claims, and an object costs up to
    eighty times the byte that makes it. size: bytes of the file, which bound the number of instructions. torch_calls:
    in a program of torch, what it may call ("module name").
    """
    argument: Any
    at, limit = 0, max_description(size)
    try:
        for number, (instruction, argument, place) in enumerate(pickletools.genops(file)):
            at = place or 0
            if number > limit:
                raise ValueError(f"more than {limit} instructions; an array takes about 30")
            if "PUT" in instruction.name and argument > limit:
                raise ValueError(f"memo number {argument}")
            if instruction.name == "FRAME" and argument > size:
                raise ValueError(f"a frame of {argument} bytes")
            if torch_calls and instruction.name == "GLOBAL" and not torch_calls.fullmatch(argument):
                raise ValueError(f"the file wants to call {argument.replace(' ', '.')}")
            if torch_calls and isinstance(argument, str) and "\0" in argument:
                raise ValueError("a name with a zero byte")  # torch's end there: one member would be read many times
    except (ValueError, OverflowError) as fault:
        raise _unfit(f"{where}, byte {at}", str(fault)) from fault


def max_description(size: int) -> int:
    """How long the description of a file of `size` bytes may be: enough for 1,500 tensors, and 20 MiB as objects."""
    return (1 << 18) + size // 128


def _unfit(where: str, fault: object) -> WeightsError:
    what, do = "not a plain dictionary of tensors", "ask for the weights as safetensors, or fetch the file again"
    return WeightsError(what, where=where, got=fault, expected="names and tensors, nothing else", do=do)


class _Array:
    """A pickled array before it is checked. state: version, shape, element type, column order, data."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Element(_Array):
    """A pickled element type, such as "f4". state: version, byte order, ..."""

    def __init__(self, code: Any):
        self.code = code


class _Unpickler(pickle.Unpickler):
    """Calls only the five names that a dictionary of arrays needs, and of them only what cannot swell."""

    def __init__(self, file: BinaryIO, size: int):
        super().__init__(file)
        self.left = size  # of bytes that calls may make

    def find_class(self, module: str, name: str) -> Any:
        """Bound methods, so that no state put on what a file names can change this module."""
        calls = {
            "_reconstruct": self._array, "dtype": self._element, "encode": self._encode, "tuple": self._tuple,
            "bytes": self._no_bytes, "ndarray": None,
        }  # fmt: skip
        modules = {"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "_codecs", "builtins", "__builtin__"}
        if module not in modules or name not in calls:
            raise pickle.UnpicklingError(f"the file wants to call {module}.{name}")
        return calls[name]

    def _array(self, *_: Any) -> _Array:
        return _Array()

    def _element(self, code: Any, *_: Any) -> _Element:
        return _Element(code)

    def _no_bytes(self) -> bytes:
        return b""

    def _encode(self, text: str, encoding: str) -> bytes:
        self._spend(len(text))
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes written as {encoding}")
        return text.encode("latin1")

    def _tuple(self, values: Any) -> tuple:
        self._spend(8 * len(values))
        if not isinstance(values, (list, tuple)):
            raise pickle.UnpicklingError(f"a tuple of a {type(values).__name__}")
        return tuple(values)

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise pickle.UnpicklingError("the same text or list again and again: more than the file holds")


def read_pdparams(path: str | Path) -> dict[str, np.ndarray]:
    """Name -> array of a Paddle 2.x file. Entries that are not arrays (`StructuredToParameterName@@`) are left out."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError("no such file", where=path, expected="a .pdparams file")
    size = path.stat().st_size
    expect(size > 0, path, "an empty file")
    with path.open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            check_pickle(content, size, path)
        try:
            entries = _Unpickler(file, size).load()
        except Exception as fault:  # a damaged program fails in as many ways as there are instructions
            raise _unfit(str(path), fault) from fault
    expect(isinstance(entries, dict), path, "not a dictionary", type(entries).__name__, "name -> array")
    found = {}
    for name, value in entries.items():
        expect(isinstance(name, str), f"{path}, {name}", "a name that is not text", type(name).__name__)
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            value = value[1]  # (name, array)
        if isinstance(value, _Array):
            found[name] = _array(value, f"{path}, {name}")
        elif not isinstance(value, (dict, str, int, float, list, tuple, type(None))):
            raise WeightsError("an entry that is no array", where=f"{path}, {name}", got=type(value).__name__)
    expect(bool(found), path, "no arrays in the file", expected="name -> array")
    total = sum(array.nbytes for array in found.values())
    expect(total <= size, path, "the same data under several names", f"{total} bytes of arrays", f"at most {size}")
    return found


def _array(array: _Array, where: str) -> np.ndarray:
    match array.state:
        case (int(), tuple(shape), _Element(code=code, state=(_, "<" | ">" | "|" as order, *_)), fortran, bytes(data)):
            expect(code in PICKLED, where, "unknown element type", f"{order}{code}", ", ".join(PICKLED))
            sides = all(type(side) is int and 0 <= side < 2**40 for side in shape) and len(shape) <= MAX_DIMENSIONS
            expect(sides, where, "impossible shape", shape)
            element = np.dtype(f"{order}{code}")
            needed = math.prod(shape) * element.itemsize
            expect(needed == len(data), where, "the data do not fit the shape", f"{len(data)} bytes", needed)
            return np.frombuffer(data, element).reshape(shape, order="F" if fortran else "C")
    raise WeightsError("not an array as numpy writes it", where=where)


# ---- variables of Paddle 1.x ----------------------------------------------------------------------------------------


def read_folder(folder: str | Path) -> dict[str, np.ndarray]:
    """Every variable of a Paddle 1.x checkpoint folder, sorted by name; a combined file where a list of names is there.

    Entries that are no plain files are refused, as are files that are not variables; a .json configuration is not read.
    """
    folder = Path(folder)
    expect(folder.is_dir(), folder, "no such folder", expected="a folder with one file per variable")
    lists = [folder / name for name in NAME_LISTS if (folder / name).exists()]
    expect(len(lists) < 2, folder, "two lists of names", ", ".join(NAME_LISTS), "one, or --names FILE")
    if lists:
        return read_combined(combined_in(folder, lists[0]), lists[0])
    found: dict[str, np.ndarray] = {}
    for path in _files(folder):
        found |= _variables(path, [path.name], "one variable")
    expect(bool(found), folder, "empty folder", expected="one file per variable")
    return found


def combined_in(folder: Path, names: Path) -> Path:
    """The one file of a folder that is no list of names and no configuration."""
    found = [path for path in _files(folder) if path.name not in NAME_LISTS and path.resolve() != names.resolve()]
    if len(found) != 1:
        what, got = "a list of names is for one combined file", f"{len(found)} files beside it: "
        got += ", ".join(path.name for path in found[:4]) or "none"
        do = f"with one file per variable, move {names.name} away; else name the file itself"
        raise WeightsError(what, where=folder, got=got, expected="one", do=do)
    return found[0]


def _files(folder: Path) -> list[Path]:
    plain = {path: path.is_file() and not path.is_symlink() for path in sorted(folder.iterdir())}
    for path, is_plain in plain.items():
        expect(is_plain, path, "not a plain file", expected="one file per variable")
    return [path for path in plain if path.suffix != ".json"]


def read_combined(path: str | Path, names: str | Path) -> dict[str, np.ndarray]:
    """The variables of a combined file by their names, in its order. names: the file with the list.

    Which name a variable has is not written in the file: only its shape tells whether the list is in the right order,
    and only where shapes differ. `save_params` itself writes in the order of sorted names.
    """
    listed = read_names(names)
    expect(Path(path).is_file() and not Path(path).is_symlink(), path, "not a plain file")
    return _variables(Path(path), listed, f"the {len(listed)} names of {Path(names)}")


def _variables(path: Path, names: Sequence[str], meant: str) -> dict[str, np.ndarray]:
    """As many variables as names, which must be the whole file. meant: the names, for an error."""
    found: dict[str, np.ndarray] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        for number, name in enumerate(names, start=1):
            if file.tell() == size and number > 1:
                where, got = f"{path}, name {number}, {name}", f"{len(found)} variables"
                raise WeightsError("more names than variables", where=where, got=got, expected=meant)
            found[name] = _next_variable(file, size, f"{path}, {name}")
        more = size - file.tell()
        what, got = "bytes behind the last variable", f"{more} bytes more than {meant} stand for"
        expect(not more, f"{path}, byte {file.tell()}", what, got)
    return found


def read_names(path: str | Path) -> Sequence[str]:
    """The names in a list, one a line, blank lines apart. WeightsError for one that stands twice, and for none."""
    path = Path(path)
    plain = path.is_file() and not path.is_symlink()
    expect(plain, path, "no such list of names", expected="a text file with one name a line")
    size = path.stat().st_size
    expect(size <= MAX_NAMES, path, "too long a list of names", f"{size} bytes", f"at most {MAX_NAMES}")
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as fault:
        raise WeightsError("a list of names that is no text", where=path, got=fault, expected="UTF-8") from fault
    seen: dict[str, int] = {}
    for number, name in enumerate(map(str.strip, lines), start=1):
        where = f"{path}, line {number}"
        expect(not name or name.isprintable(), where, "not a name", name, "printable characters")
        expect(name not in seen, where, "a name twice", name, f"once; it stands in line {seen.get(name)}")
        seen |= {name: number} if name else {}
    expect(bool(seen), path, "an empty list of names", "no name", "one name a line")
    return list(seen)


def _next_variable(file: BinaryIO, size: int, where: str) -> np.ndarray:
    """The variable that begins here: version · levels · version · descriptor (protobuf) · little-endian data."""
    there = f"{where}, byte {file.tell()}"

    def take(count: int, what: str) -> bytes:
        left = size - file.tell()
        expect(0 <= count <= left, f"{there}, {what}", "truncated variable", f"{left} bytes", count)
        return file.read(count)

    def number(form: str, what: str) -> int:
        return struct.unpack(form, take(struct.calcsize(form), what))[0]

    expect(number("<I", "version") == 0, there, "not a variable of version 0")
    levels = number("<Q", "number of levels")
    expect(levels <= MAX_LEVELS, there, "too many levels", levels, f"at most {MAX_LEVELS}")
    for _ in range(levels):
        take(number("<Q", "size of a level"), "a level")
    expect(number("<I", "version of the tensor") == 0, there, "not a tensor of version 0")
    length = number("<i", "length of the descriptor")
    expect(0 <= length <= MAX_DESCRIPTOR, there, "impossible descriptor", f"{length} bytes")
    element, shape = _descriptor(take(length, "descriptor"), there)
    needed, left = math.prod(shape) * np.dtype(element).itemsize, size - file.tell()
    expect(needed <= left, there, "the data do not fit the shape", f"{left} bytes", f"{needed}: {shape}")
    return np.fromfile(file, element, math.prod(shape)).reshape(shape)


def _descriptor(data: bytes, where: str) -> tuple[str, tuple[int, ...]]:
    """Element type (field 1) and dimensions (field 2, repeated or packed), all varints of protobuf."""
    numbers, value, shift = [], 0, 0
    for byte in data:
        value, shift = value | (byte & 0x7F) << shift, shift + 7
        expect(shift <= 70, where, "a number of the descriptor never ends")
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    expect(shift == 0, where, "truncated descriptor")
    element, rest = None, iter(numbers)
    shape: list[int] = []
    for tag in rest:
        if tag == 0x12:  # packed: its length in bytes, then nothing but dimensions
            next(rest, None)
            shape += rest
            break
        expect(tag in (0x08, 0x10), where, "unknown field in the descriptor", tag, "element type, dimensions")
        value = next(rest, -1)
        expect(value >= 0, where, "truncated descriptor")
        if tag == 0x08:
            element = value
        else:
            shape.append(value)
    expect(element in ELEMENTS, where, "unknown element type", element, f"one of {sorted(ELEMENTS)}")
    # A negative dimension is a varint beyond 2^63.
    fits = len(shape) <= MAX_DIMENSIONS and math.prod(side or 1 for side in shape) < 2**60
    expect(fits, where, "impossible shape", shape)
    return ELEMENTS[element], tuple(shape)  # type: ignore[index]
