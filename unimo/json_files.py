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
        with path.open("rb") as file:  # a limit is no reason to ask for that much memory
            data = file.read(min(max_bytes, path.stat().st_size) + 1)
    except OSError as fault:
        raise error("cannot read file", where=path, got=fault.strerror) from fault
    if len(data) > max_bytes:
        got, expected = f"more than {max_bytes} bytes", f"at most {max_bytes}"
        raise error("JSON file too large", where=path, got=got, expected=expected)
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
    """Refuses what would not come back from JSON exactly as it is: NaN, tuples, keys that are not text, objects."""
    found = _fault(value, max_depth)
    if found is not None:
        keys, got, expected = found
        located = ": ".join(str(part) for part in (where, ".".join(map(str, keys))) if part)
        raise error("a value JSON cannot hold exactly", where=located or None, got=got, expected=expected)


Fault = tuple[list[Any], object, str]  # keys that lead to it, got, expected


def _fault(value: Any, depth: int) -> Fault | None:
    """The first value inside that JSON cannot hold."""
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            return [], "a key that is not text", "keys that are text"
        children = [("(a key)", name) for name in value] + list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    elif isinstance(value, str):
        broken = not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)
        return ([], "text with a lone surrogate", "valid Unicode") if broken else None
    elif isinstance(value, float):
        return None if math.isfinite(value) else ([], value, "a finite number")
    elif value is not None and not isinstance(value, (bool, int)):
        return [], type(value).__name__, "null, true, false, a number, text, a list or a dictionary"
    if depth == 0 and isinstance(value, (dict, list)):
        return [], "deeper nesting", "less nesting"
    for key, child in children:
        found = _fault(child, depth - 1)
        if found is not None:
            found[0].insert(0, key)
            return found
    return None


def json_bytes(value: Any, *, where: object = None) -> bytes:
    """Indented JSON in UTF-8; floats are written by `repr`, so that every bit comes back. DataError as `check_json`."""
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
