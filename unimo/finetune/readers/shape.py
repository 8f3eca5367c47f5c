"""Taking JSON apart: a value of the right type, or an error that says where another one stands."""

from __future__ import annotations

from typing import Any

from unimo.corpus.text import checked_text
from unimo.errors import DataError


def part(values: Any, name: str, kind: type, where: str) -> Any:
    """values[name] of a JSON object, of type `kind` (str, int, list, dict; strings are valid Unicode)."""
    if not isinstance(values, dict):
        raise _wrong(where, values, "an object")
    if values.get(name) is None:
        raise DataError(
            "field is missing",
            where=where,
            got="fields " + ", ".join(list(values)[:8]),
            expected=name,
            do="repair or remove this record",
        )
    value = values[name]
    if kind is str:
        return checked_text(value, where, name)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise _wrong(f"{where}, field {name}", value, _NAMES[kind])
    return value


def words(values: Any, name: str, where: str) -> str:
    """A string that is more than blanks, stripped."""
    text = part(values, name, str, where).strip()
    if not text:
        raise DataError("text is empty", where=f"{where}, field {name}", do="fill it or remove the row")
    return text


def listed(values: Any, name: str, where: str) -> list:
    return part(values, name, list, where)


def name_of(values: Any, name: str, where: str) -> str:
    """An id: a string or a whole number."""
    value = values.get(name) if isinstance(values, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return words(values, name, where)


_NAMES = {int: "a whole number", list: "a list", dict: "an object", bool: "true or false"}


def _wrong(where: str, value: object, expected: str) -> DataError:
    return DataError("wrong type of field", where=where, got=type(value).__name__, expected=expected)
