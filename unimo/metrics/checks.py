"""What every score asks of what it is given: as many of one as of the other, of the types it can compare, at least one.

Whatever Python or numpy would quietly take for something else is refused: a string for a list of letters, "1" for 1,
None for a label, a mask for indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError, NumericsError

__all__ = [
    "array_of",
    "check_answers",
    "check_counts",
    "check_words",
    "finite_numbers",
    "labels_of",
    "numbers_of",
    "same_labels",
]

_KINDS = {"b": "truth values", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "U": "strings"}


# ---- texts


def check_answers(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """DataError unless n strings meet n non-empty lists of strings, n >= 1. Empty strings are strings: they score."""
    check_counts("prediction", predictions, references)
    for item, (said, wanted) in enumerate(zip(predictions, references)):
        if not isinstance(said, str):
            raise DataError("a prediction is a text", where=f"item {item}", got=said, expected="a string, may be empty")
        if not _is_list(wanted):
            raise DataError(
                "an item's references are a list", where=f"item {item}", got=wanted, expected="a list of strings"
            )
        if not len(wanted):
            raise _nothing(f"item {item}")
        for reference in wanted:
            if not isinstance(reference, str):
                raise DataError("a reference is a text", where=f"item {item}", got=reference, expected="a string")


def check_words(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> None:
    """DataError unless n lists of words meet n non-empty lists of lists of words, n >= 1."""
    check_counts("candidate", candidates, references)
    for item, (candidate, wanted) in enumerate(zip(candidates, references)):
        if not _is_words(candidate):
            raise DataError(
                "a candidate is a list of words",
                where=f"image {item}",
                got=candidate,
                do="call tokenise, or use caption_report",
            )
        if not _is_list(wanted) or not all(map(_is_words, wanted)):
            raise DataError(
                "an item's references are a list of lists of words",
                where=f"image {item}",
                got=wanted,
                do="call tokenise, or use caption_report",
            )
        if not len(wanted):
            raise _nothing(f"image {item}")


def check_counts(name: str, predictions: Any, references: Any) -> None:
    """DataError unless both are lists of one length, at least 1."""
    for one in (predictions, references):
        if not _is_list(one):
            raise DataError(f"one {name} for each item", got=f"a {type(one).__name__}", expected="two lists")
    if len(predictions) != len(references) or not len(predictions):
        raise DataError(f"one {name} for each item", got=len(predictions), expected=f"{len(references)}, at least 1")


def _nothing(where: str) -> DataError:
    return DataError(
        "nothing to compare a prediction with",
        where=where,
        got="no reference",
        expected="at least one",
        do="leave out items without a label, or predict only",
    )


def _is_list(value: Any) -> bool:
    """Something in an order, and no text."""
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))


def _is_words(value: Any) -> bool:
    return _is_list(value) and all(isinstance(word, str) for word in value)


# ---- labels and numbers


def labels_of(values: ArrayLike, name: str = "labels") -> NDArray:
    """(n,) strings, whole numbers, finite numbers or truth values, of one kind. DataError for anything else."""
    array = array_of(values, name)
    if array.ndim != 1:
        raise DataError(f"{name} are one for each item", got=array.shape, expected="(n,), one-dimensional")
    if not array.size:
        raise DataError("nothing to score", where=name, got="0 items", expected="at least one")
    if array.dtype.kind == "O":  # names in a table's column come as objects
        odd = next((i for i, value in enumerate(array) if not isinstance(value, str)), None)
        if odd is not None:
            raise _of_another_kind(name, odd, array[odd])
        array = array.astype(str)
    elif array.dtype.kind not in _KINDS:
        raise DataError(f"{name} of an unknown kind", got=array.dtype, expected="strings or numbers")
    elif array.dtype.kind == "U" and not isinstance(values, np.ndarray):  # numpy makes strings of [1, "1"]
        odd = next((i for i, value in enumerate(_listed(values)) if not isinstance(value, str)), None)
        if odd is not None:
            raise _of_another_kind(name, odd, _listed(values)[odd])
    elif array.dtype.kind == "f":
        _check_finite(array, name)
    return array


def same_labels(predictions: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Both as `labels_of`, of one length and comparable: numbers with numbers, strings with strings."""
    predicted, label = labels_of(predictions, "predictions"), labels_of(labels, "labels")
    if predicted.shape != label.shape:
        raise DataError("one prediction per label", got=predicted.shape, expected=f"{label.shape}, one-dimensional")
    if (predicted.dtype.kind == "U") != (label.dtype.kind == "U"):
        raise DataError(
            "predictions and labels are of two kinds, so that none can be right",
            got=f"{_KINDS[predicted.dtype.kind]} and {_KINDS[label.dtype.kind]}",
            expected="both strings or both numbers",
            do="write the labels alike on both sides",
        )
    return predicted, label


def finite_numbers(values: ArrayLike, name: str, of: str = "") -> NDArray[np.float64]:
    """An array of numbers, no strings that look like some. DataError for others, NumericsError for NaN and infinity.

    of: whose they are, named with the item.
    """
    array = numbers_of(values, name)
    _check_finite(array, name, of)
    return array


def numbers_of(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """An array of numbers, which may be NaN: what comes of them is too. DataError for others."""
    array = array_of(values, name)
    if array.size and array.dtype.kind not in "biuf":
        raise DataError(f"a {name} is a number", got=f"an array of {array.dtype}", expected="numbers")
    return array.astype(np.float64)


def array_of(values: Any, name: str) -> NDArray:
    """A list of any depth as an array. DataError for what is no list, or ragged."""
    if isinstance(values, (str, bytes, Mapping, set, frozenset)) or values is None:
        raise DataError(f"{name}: not a list", got=f"a {type(values).__name__}", expected="one value for each item")
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"{name}: rows of different lengths", got=error, expected="one value for each item") from error


def _listed(values: Any) -> list:
    return list(values)


def _check_finite(array: NDArray, name: str, of: str = "") -> None:
    if not np.isfinite(array).all():
        item = int(np.argwhere(~np.isfinite(array))[0][0])
        where = f"{of}, item {item}" if of else f"item {item}"
        raise NumericsError(f"a {name.removesuffix('s')} is not a finite number", where=where, got=array[item])


def _of_another_kind(name: str, item: int, value: object) -> DataError:
    return DataError(
        f"{name} of several kinds",
        where=f"item {item}",
        got=f"{value!r}, a {type(value).__name__}",
        expected="strings only, or numbers only",
    )
