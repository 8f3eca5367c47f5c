"""JSON as the package reads and writes it: strict reading of files that may come from anyone, atomic writing."""

from __future__ import annotations

import json
import math
import typing
from pathlib import Path
from typing import Any

from unimo.errors import DataError, UnimoError


def load_json(
    path: str | Path, *, max_bytes: int = 16 << 20, max_depth: int = 64, error: type[UnimoError] = DataError
) -> Any:
    """The value in a JSON file that may come from anyone.

    Raises `error` for a file that is missing, too large or not UTF-8, and for syntax errors, duplicate keys,
    numbers that are not finite, lone surrogates and deep nesting: all things that Python's reader would let
    through or crash on.
    """
    path = Path(path)
    if not path.is_file():  # a pipe or a device would block or never end
        raise error("no such file", where=path, expected="a JSON file")
    try:
        with path.open("rb") as file:
            pieces, left = [], max_bytes + 1  # a limit is no reason to ask for that much memory
            while left > 0 and (piece := file.read(min(left, 1 << 20))):
                pieces.append(piece)
                left -= len(piece)
            data = b"".join(pieces)
    except OSError as fault:
        raise error("cannot read file", where=path, got=fault.strerror) from fault
    if len(data) > max_bytes:
        raise error(
            "JSON file too large",
            where=path,
            got=f"more than {max_bytes} bytes",
            expected=f"at most {max_bytes}",
        )
    return parse_json(data, where=path, max_depth=max_depth, error=error)


def parse_json(data: bytes | str, *, where: object, max_depth: int = 64, error: type[UnimoError] = DataError) -> Any:
    """As `load_json`, from bytes or text at hand."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError as fault:
        raise error("JSON nested too deeply", where=where, expected=f"at most {max_depth} levels") from fault
    except ValueError as fault:  # also UnicodeDecodeError, JSONDecodeError and integers of absurd length
        raise error("not valid JSON", where=where, got=fault, do="restore the file or correct it by hand") from fault
    check_json(value, where=where, max_depth=max_depth, error=error)
    return value


def check_json(value: Any, *, where: object = None, max_depth: int = 64, error: type[UnimoError] = DataError) -> None:
    """Refuses what would not come back from JSON exactly as it is: NaN, tuples, keys that are not text,
    objects."""
    # A place, (place of the container, key), becomes text only in a message: long keys would cost squares.
    todo: list[tuple[tuple[Any, object] | None, Any, int]] = [(None, value, 1)]
    while todo:
        place, item, level = todo.pop()
        fault: tuple[object, str] | None = None
        if isinstance(item, (dict, list)) and level > max_depth:
            fault = ("deeper nesting", f"at most {max_depth} levels")
        elif isinstance(item, dict):
            if any(not isinstance(name, str) for name in item):
                fault = ("a key that is not text", "keys that are text")
            else:
                todo += [((place, name), child, level + 1) for name, child in item.items()]
                todo += [((place, "(a key)"), name, level + 1) for name in item]
        elif isinstance(item, list):
            todo += [((place, i), child, level + 1) for i, child in enumerate(item)]
        elif isinstance(item, str):
            if not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item):
                fault = ("text with a lone surrogate", "valid Unicode")
        elif isinstance(item, float):
            if not math.isfinite(item):
                fault = (item, "a finite number")
        elif item is not None and not isinstance(item, (bool, int)):
            fault = (type(item).__name__, "null, true, false, a number, text, a list or a dictionary")
        if fault:
            keys: list[str] = []
            while place is not None:
                place, key = place
                keys.insert(0, str(key))
            located = ": ".join(str(part) for part in (where, ".".join(keys)) if part)
            what = "a value JSON cannot hold exactly"
            raise error(what, where=located or None, got=fault[0], expected=fault[1])


def json_bytes(value: Any, *, where: object = None) -> bytes:
    """Indented JSON in UTF-8; floats are written by `repr`, so that every bit comes back. DataError as
    `check_json`."""
    check_json(value, where=where)
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all. Raises as `json_bytes` and `unimo.disk.write_atomic` do."""
    from unimo.disk import write_atomic  # most readers of JSON never write any

    write_atomic(path, json_bytes(value, where=path))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {key[:80]!r} occurs twice")
        values[key] = value
    return values


def _no_constant(name: str) -> typing.NoReturn:
    raise ValueError(f"{name} is not a JSON number")
