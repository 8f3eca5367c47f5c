"""Reads the pickles of the framework the authors used, without it and without running anything in them.

A .pdparams of Paddle 2.x is a pickle of name -> array, protocol 2 to 4. (Paddle 1.x: `unimo.weights.paddle_variables`.)
A pickle is a program for a stack machine. The machine here knows only the instructions a dictionary of arrays needs,
and for it the names in the file are words, never functions. Every size is checked against the file before memory is
asked for. All errors are WeightsError and say where.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unimo.errors import WeightsError
from unimo.weights.paddle_variables import MOST_DIMENSIONS, expect, finite


@dataclass(frozen=True)
class _Name:
    """A global the file names."""

    text: str


@dataclass
class _Made:
    """What calling a name would have made, waiting for its state: an array or an element type."""

    kind: str
    arguments: tuple
    state: Any = None


@dataclass
class _Mark:
    pass


@dataclass
class _Machine:
    """Stack and memo. encoded: bytes made from text so far, which may not exceed the file."""

    size: int
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    encoded: int = 0

    def pop(self, kind: type | tuple[type, ...] = object) -> Any:
        if not self.stack or (isinstance(self.stack[-1], _Mark) and kind is not _Mark):
            raise ValueError("the stack is empty")
        value = self.stack.pop()
        if not isinstance(value, kind):
            raise ValueError(f"a {type(value).__name__} where something else belongs")
        return value

    def pop_to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[place], _Mark):
                values = self.stack[place + 1 :]
                del self.stack[place:]
                return values
        raise ValueError("no mark on the stack")

    def set_items(self, values: list[Any]) -> None:
        if not self.stack or not isinstance(self.stack[-1], dict) or len(values) % 2:
            raise ValueError("items without a dictionary")
        for key, value in zip(values[::2], values[1::2]):
            if not isinstance(key, str):
                raise ValueError("a key that is not text")
            if key in self.stack[-1]:
                raise ValueError("a key twice")
            self.stack[-1][key] = value

    def reduce(self) -> Any:
        arguments, name = self.pop(tuple), self.pop(_Name)
        if name.text in ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"):
            return _Made("array", arguments)
        if name.text == "numpy.dtype":
            return _Made("dtype", arguments)
        if name.text == "_codecs.encode" and arguments[1:] == ("latin1",) and isinstance(arguments[0], str):
            self.encoded += len(arguments[0])
            if self.encoded > self.size:
                raise ValueError("more text is turned into bytes than the file holds")
            return arguments[0].encode("latin1")
        if (
            name.text in ("builtins.tuple", "__builtin__.tuple")
            and len(arguments) == 1
            and isinstance(arguments[0], list)
        ):
            return tuple(arguments[0])
        if name.text in ("builtins.bytes", "__builtin__.bytes") and not arguments:
            return b""
        raise ValueError(f"the file wants to call {name.text}")

    def build(self) -> None:
        state = self.pop()
        if not self.stack or not isinstance(self.stack[-1], _Made) or self.stack[-1].state is not None:
            raise ValueError("a state for nothing")
        self.stack[-1].state = state


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(value)


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def make(machine: _Machine, _: Any) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(values)))

    return make


def _put(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo) if argument is None else argument] = machine.stack[-1]


def _get(machine: _Machine, argument: Any) -> None:
    machine.stack.append(machine.memo[argument])


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(str), machine.pop(str)
    machine.stack.append(_Name(f"{module}.{name}"))


def _append(machine: _Machine, values: list[Any]) -> None:
    if not machine.stack or not isinstance(machine.stack[-1], list):
        raise ValueError("values without a list")
    machine.stack[-1] += values


_PUSHED = (
    "BININT BININT1 BININT2 LONG1 BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BINFLOAT"
)
INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_PUSHED.split(), _push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "MARK": lambda machine, _: machine.stack.append(_Mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine.stack.append(_Name(argument.replace(" ", "."))),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda machine, _: machine.stack.append(machine.reduce()),
    "BUILD": lambda machine, _: machine.build(),
}


class _Bounded:
    """A file that never makes room for more than it holds, whatever length is asked for."""

    def __init__(self, file, size: int):
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size - self.file.tell()))

    def readline(self) -> bytes:
        return self.file.readline(4096)

    def tell(self) -> int:
        return self.file.tell()


def read_pdparams(path: str | Path) -> dict[str, np.ndarray]:
    """Name -> array of a Paddle 2.x file. Entries that are not arrays (`StructuredToParameterName@@`) are left out."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError("no such file", where=path, expected="a .pdparams file")
    size = path.stat().st_size
    machine, at, ended = _Machine(size), 0, False
    with path.open("rb") as file:
        try:
            for opcode, argument, place in pickletools.genops(_Bounded(file, size)):  # type: ignore[arg-type]
                at = place or 0
                if opcode.name == "STOP":
                    ended = True
                elif opcode.name in INSTRUCTIONS:
                    INSTRUCTIONS[opcode.name](machine, argument)
                else:
                    raise ValueError(f"instruction {opcode.name}, which no dictionary of arrays needs")
            content = machine.pop(dict)
            if not ended or machine.stack:
                raise ValueError("the file ends in the middle")
        except (ValueError, KeyError, IndexError, UnicodeError, OverflowError) as fault:
            raise WeightsError(
                "not a plain dictionary of arrays",
                where=f"{path}, byte {at}",
                got=fault,
                expected="names and arrays, nothing else",
                do="ask for the weights as safetensors, or fetch the file again",
            ) from fault
    found = {}
    for name, value in content.items():
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            value = value[1]  # (name, array)
        if isinstance(value, _Made):
            found[name] = _array(value, f"{path}, {name}")
        elif not isinstance(value, (dict, str, int, float, list, tuple, type(None))):
            raise WeightsError("an entry that is no array", where=f"{path}, {name}", got=type(value).__name__)
    if not found:
        raise WeightsError("no arrays in the file", where=path, expected="name -> array")
    return found


def _array(made: _Made, where: str) -> np.ndarray:
    match made:
        case _Made(
            "array", _, (int(), tuple(shape), _Made("dtype", (str(code), *_), state), bool(fortran), bytes(data))
        ):
            order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
            known = code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "b1") and order in (
                "<",
                ">",
                "|",
                "=",
            )
            expect(known, where, "unknown element type", got=f"{order}{code}")
            element = np.dtype(f"{order}{code}")
            real = all(type(side) is int and 0 <= side < 2**40 for side in shape) and len(shape) <= MOST_DIMENSIONS
            expect(real, where, "impossible shape", got=shape)
            wanted = math.prod(shape) * element.itemsize
            expect(
                wanted == len(data), where, "the data do not fit the shape", got=f"{len(data)} bytes", expected=wanted
            )
            array = np.frombuffer(data, element).reshape(shape, order="F" if fortran else "C")
            return finite(array, where)
    raise WeightsError("not an array as numpy writes it", where=where)
