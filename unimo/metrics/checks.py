"""What every score of written answers asks first: one prediction for each item, and something to compare it with."""

from __future__ import annotations

from collections.abc import Sequence

from unimo.errors import DataError

__all__ = ["check_answers"]


def check_answers(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """DataError unless n strings meet n non-empty lists of strings, n >= 1. Empty strings are strings: they score."""
    if isinstance(predictions, str) or len(predictions) != len(references) or not len(predictions):
        got = "a string" if isinstance(predictions, str) else len(predictions)
        raise DataError("one prediction for each item", got=got, expected=f"{len(references)}, at least 1")
    for item, (said, wanted) in enumerate(zip(predictions, references)):
        if not isinstance(said, str):
            raise DataError("a prediction is a text", where=f"item {item}", got=said, expected="a string, may be empty")
        if isinstance(wanted, str):
            raise DataError(
                "an item's references are a list", where=f"item {item}", got=wanted, expected="a list of strings"
            )
        if not len(wanted):
            raise DataError(
                "nothing to compare a prediction with",
                where=f"item {item}",
                got="no reference",
                expected="at least one",
                do="leave out items without a label, or predict only",
            )
        for reference in wanted:
            if not isinstance(reference, str):
                raise DataError("a reference is a text", where=f"item {item}", got=reference, expected="a string")
