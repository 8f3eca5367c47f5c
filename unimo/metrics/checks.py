"""Input checks of all metrics: equally many predictions and references, of types that can be compared, at least one.

Whatever Python or numpy would quietly take for something else is refused: a string for a list of letters, "1" for 1,
None for a label, a mask for indices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError, NumericsError


def check_answers(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """DataError unless n strings meet n non-empty lists of strings, n >= 1. Empty strings are strings: they score."""
    _check_items(predictions, references, lambda value: isinstance(value, str), "a string")


def check_words(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> None:
    """DataError unless n lists of words meet n non-empty lists of lists of words, n >= 1."""
    do = "call tokenize, or use caption_report"
    _check_items(candidates, references, _is_words, "a list of words", do)


def check_word_pairs(one: int, other: int, most: int, where: str) -> None:
    """DataError where two texts of so many words are too long for their longest common subsequence."""
    if one * other > most:
        got, expected = f"{one} and {other} words", f"at most {most} pairs of words"
        what, do = "two texts are too long for their common words", "cut the texts, or choose another metric"
        raise DataError(what, where=where, got=got, expected=expected, do=do)


def check_counts(predictions: Any, references: Any) -> None:
    """DataError unless both are lists of one length, at least 1."""
    for one in (predictions, references):
        if not _is_list(one):
            raise DataError("one prediction for each item", got=f"a {type(one).__name__}", expected="two lists")
    if len(predictions) != len(references) or not len(predictions):
        expected = f"{len(references)}, at least 1"
        raise DataError("one prediction for each item", got=len(predictions), expected=expected)


def _check_items(
    predictions: Any, references: Any, is_text: Callable[[Any], bool], expected: str, do: str | None = None
) -> None:
    check_counts(predictions, references)
    for item, (prediction, targets) in enumerate(zip(predictions, references)):
        where = f"item {item}"
        if not is_text(prediction):
            raise DataError("wrong type of prediction", where=where, got=prediction, expected=expected, do=do)
        if not _is_list(targets) or not all(map(is_text, targets)):
            expected = f"a list, each of it {expected}"
            raise DataError("wrong type of references", where=where, got=targets, expected=expected, do=do)
        if not len(targets):
            do = "leave out items without a label, or predict only"
            raise DataError("no reference to compare a prediction with", where=where, expected="at least one", do=do)


def _is_list(value: Any) -> bool:
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))


def _is_words(value: Any) -> bool:
    return _is_list(value) and all(isinstance(word, str) for word in value)


def labels_of(values: ArrayLike, name: str = "labels") -> NDArray:
    """(n,) strings, whole numbers, finite numbers or truth values, of one kind. DataError for anything else."""
    array = array_of(values, name)
    if array.ndim != 1 or not array.size:
        raise DataError(f"{name}: nothing to score, or not one value for each item", got=array.shape, expected="(n,)")
    if array.dtype.kind in "OU":  # numpy makes strings of [1, "1"]; names in a table's column come as objects
        for item, value in enumerate(values):  # type: ignore[arg-type]
            if not isinstance(value, str):
                got, expected = f"{value!r}, a {type(value).__name__}", "strings only, or numbers only"
                raise DataError(f"{name} of several kinds", where=f"item {item}", got=got, expected=expected)
        return array.astype(str)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} of an unknown kind", got=array.dtype, expected="strings or numbers")
    _check_finite(array, name)
    return array


def same_labels(predictions: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Both as `labels_of`, of one length and comparable: numbers with numbers, strings with strings."""
    predicted, label = labels_of(predictions, "predictions"), labels_of(labels, "labels")
    if predicted.shape != label.shape:
        raise DataError("one prediction per label", got=predicted.shape, expected=label.shape)
    if (predicted.dtype.kind == "U") != (label.dtype.kind == "U"):
        raise DataError(
            "predictions and labels are of two kinds, so that none can be right",
            got=f"{predicted.dtype} and {label.dtype}",
            expected="both strings or both numbers",
            do="write the labels alike on both sides",
        )
    return predicted, label


def finite_numbers(values: ArrayLike, name: str, of: str = "") -> NDArray[np.float64]:
    """`numbers_of`, but NumericsError for NaN and infinity. of: whose numbers they are, named beside the item."""
    array = numbers_of(values, name)
    _check_finite(array, name, of)
    return array


def numbers_of(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """An array of numbers, NaN among them. DataError for others, and for strings that look like numbers."""
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


def _check_finite(array: NDArray, name: str, of: str = "") -> None:
    if not np.isfinite(array).all():
        item = int(np.argwhere(~np.isfinite(array))[0][0])
        where = f"{of}, item {item}" if of else f"item {item}"
        raise NumericsError(f"a {name.removesuffix('s')} is not a finite number", where=where, got=array[item])
