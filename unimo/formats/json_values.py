"""Taking JSON apart: a value of the right type, or an error that says where another one stands."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from unimo.errors import DataError
from unimo.file_access import stat_regular
from unimo.formats.text import Row, cannot_unpack, checked_text, ends_the_file, open_packed, parse_json_value

MAX_JSON_BYTES = 2**30  # the largest published one, the annotations of VQA v2, is a third of this
_NAMES = {int: "a whole number", list: "a list", dict: "an object"}
_DO = "repair or remove this record"


def read_json(path: Path, *, any_value: bool = False) -> Any:
    """A whole .json or .json.gz file of at most MAX_JSON_BYTES: one object, or with any_value whatever it holds."""
    stat_regular(path)
    try:
        with open_packed(path) as stream:
            data = stream.read(MAX_JSON_BYTES + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise cannot_unpack(path, 0, error) from error
    if len(data) > MAX_JSON_BYTES:
        got, expected = f"more than {MAX_JSON_BYTES} bytes", f"at most {MAX_JSON_BYTES} bytes"
        do = "split it, or write its rows as .jsonl"
        raise DataError("file is too large", where=path, got=got, expected=expected, do=do)
    value = parse_json_value(data, path.name)
    if not any_value and not isinstance(value, dict):
        raise wrong_type(path.name, value, "an object")
    return value


def to_json(value: Any) -> Any:
    """A value of a table as strict JSON has it: NaN and infinity are null, half characters ?, other types text."""
    text = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()
    return json.loads(text, parse_constant=lambda _: None)


def is_blank(value: Any) -> bool:
    """Whether nothing stands there: null, what pandas writes for it (NaN), or white space."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def each_of(values: Iterable[Any], where: str, make: Callable[[Any, str], Any]) -> Iterator[Any]:
    """What is made of each of the values of a list at its place, or what is wrong with it; None is nothing."""
    for i, value in enumerate(values):
        try:
            if (found := make(value, f"{where}[{i}]")) is not None:
                yield found
        except DataError as error:
            yield error


def each_row(rows: Iterable[Row | DataError], make: Callable[[Row], Iterable[Any]]) -> Iterator[Any]:
    """What is made of each row, or what is wrong with it; nothing behind a place where nobody can read on."""
    for row in rows:
        if isinstance(row, DataError):
            yield row
            if ends_the_file(row):
                return
            continue
        try:
            yield from make(row)
        except DataError as error:
            yield error


def part(values: Any, name: str, kind: type, where: str) -> Any:
    """values[name] of a JSON object, of type `kind` (str, int, list, dict; strings are valid Unicode)."""
    if not isinstance(values, dict):
        raise wrong_type(where, values, "an object")
    value = values.get(name)
    if value is None:
        got = "fields " + ", ".join(list(values)[:8])
        raise DataError("field is missing", where=where, got=got, expected=name, do=_DO)
    if kind is str:
        return checked_text(value, where, name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise wrong_type(f"{where}, field {name}", value, _NAMES[kind])
    return value


def words(values: Any, name: str, where: str) -> str:
    """A string that is more than blanks, stripped."""
    if text := part(values, name, str, where).strip():
        return text
    raise empty(f"{where}, field {name}")


def listed(values: Any, name: str, where: str) -> list:
    return part(values, name, list, where)


def name_of(values: Any, name: str, where: str) -> str:
    """An id: a string or a whole number."""
    value = values.get(name) if isinstance(values, dict) else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else words(values, name, where)


def empty(where: str, what: str = "text is empty") -> DataError:
    return DataError(what, where=where, got="only blanks", expected="a text", do="fill it or remove the row")


def wrong_type(where: str, value: object, expected: str) -> DataError:
    return DataError("wrong type of field", where=where, got=type(value).__name__, expected=expected, do=_DO)
