"""What stands in one cell: lists that were written as text, and names of classes in whichever type they came.

A table of text (.csv, .tsv) has no types: pandas and spreadsheets write a list as ["a", "b"] or ['a', 'b'], a whole
number as 1.0 and a truth value as True. Here they mean what they mean in JSON and Parquet.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from unimo.corpus.text import checked_text
from unimo.errors import DataError

NO_LABEL = ("", "-1")  # how published test files write that a label is withheld

_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_PYTHON_LIST = re.compile(rf"\[\s*(?:{_STRING}\s*(?:,\s*{_STRING}\s*)*,?\s*)?\]", re.DOTALL)
_LIKE_LIST = re.compile(r"""\[\s*['"].*['"]\s*,?\s*\]""", re.DOTALL)  # meant as a list of strings, in whatever form
_ONE_STRING = re.compile(_STRING, re.DOTALL)
_DECIMAL = re.compile(r"[+-]?((\d+\.\d*|\.\d+)([eE][+-]?\d+)?|\d+[eE][+-]\d+)", re.ASCII)  # as a float is printed
_TRUTH = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}


def unpacked(text: str, where: str, *, scores: bool = False) -> str | list[str] | dict[str, float]:
    """A list of strings that was written as text, JSON's or Python's, as that list; other texts as they are.

    scores: whether a JSON object of numbers is one too. DataError for what begins and ends as a list of strings and is
    none: it would be read as one string with brackets and quotes.
    """
    inner = text.strip()
    if not (inner.startswith(("[", "{")) and inner.endswith(("]", "}"))):
        return text
    try:
        found = json.loads(inner)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        return found
    if scores and isinstance(found, dict) and all(isinstance(each, (int, float)) for each in found.values()):
        return found
    if _PYTHON_LIST.fullmatch(inner):
        try:
            return [ast.literal_eval(each) for each in _ONE_STRING.findall(inner)]
        except (ValueError, SyntaxError):
            pass  # an escape that is none
    if _LIKE_LIST.fullmatch(inner):
        raise DataError(
            "a list that cannot be read",
            where=where,
            got=inner[:60],
            expected='a JSON list, as ["one", "two"]',
            do="write the list as JSON, or one row for each of its texts",
        )
    return text


def class_name(value: Any, where: str) -> str | None:
    """The class that a cell names, None where it is withheld. 1, 1.0, "1" and "1.0" are one class, true and True too.

    DataError for a number with a fraction, which is no class but a score, and for lists and objects.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return None if value == -1 else str(value)
    if isinstance(value, str):
        name = checked_text(value, where, "label").strip()
        name = _TRUTH.get(name, name)
        if not _DECIMAL.fullmatch(name):
            if not isinstance(unpacked(name, where, scores=True), str):
                raise _no_class(value, where)
            return None if name in NO_LABEL else name
        value = float(name)
    if isinstance(value, float) and value.is_integer():
        return None if value == -1 else str(int(value))
    raise _no_class(value, where)


def _no_class(value: Any, where: str) -> DataError:
    return DataError(
        "not a class",
        where=where,
        got=repr(value)[:60],
        expected="a name, a whole number, true or false",
        do="learn numbers by regression (unimo finetune regression), or write classes as names, such as v1.2"
        if isinstance(value, float)
        else "give one class in each row",
    )
