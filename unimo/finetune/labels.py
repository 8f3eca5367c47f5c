"""The classes and answers of a task: what there is in training, and what turns up only later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from unimo.errors import DataError, UsageError
from unimo.finetune.example import Example
from unimo.finetune.split import Examples


def labels_of(examples: Examples | Iterable[Example]) -> dict[str, int]:
    """Class -> number of rows, in the order of the names; whole numbers in that of the numbers.

    Rows without a target are passed over. UsageError when a target is no class.
    """
    counts = Counter(_class(row) for row in _rows(examples) if row.target is not None)
    numbers = all(name.isascii() and name.removeprefix("-").isdigit() for name in counts)
    return {name: counts[name] for name in sorted(counts, key=(lambda name: (int(name), name)) if numbers else None)}


def check_labels(examples: Examples, known: Collection[str]) -> None:
    """DataError for classes that training did not have, with how many rows have them."""
    have = set(known)
    unseen = [f"{name} ({count} rows)" for name, count in labels_of(examples).items() if name not in have]
    if unseen:
        raise DataError(
            "labels that training did not have",
            where=examples.source or examples.name,
            got=", ".join(unseen[:20]) + (f" and {len(unseen) - 20} more" if len(unseen) > 20 else ""),
            expected=", ".join(list(known)[:20]),
            do="correct them, train on them too, or count them as wrong (--set read.unseen=wrong)",
        )


def answer_vocabulary(examples: Examples | Iterable[Example], *, least: int = 9, most: int | None = None) -> list[str]:
    """The answers worth a class of their own, most frequent first, equally frequent ones by name.

    Of ten people's answers to a question the most frequent one counts; where there is just a set of right ones, each.
    least: how often an answer must occur; 9 leaves the usual 3,129 of VQA v2 (training and validation questions).
    most: keep only so many. DataError when none is left.
    """
    counts: Counter[str] = Counter()
    for row in _rows(examples):
        counts.update(_spoken(row))
    kept = sorted((answer for answer, n in counts.items() if n >= least), key=lambda answer: (-counts[answer], answer))
    if not kept:
        got = f"{len(counts)} answers, the most frequent one {max(counts.values(), default=0)} times"
        raise DataError("no answer is frequent enough", got=got, expected=f"{least} times or more", do="lower `least`")
    return kept[:most]


def _rows(examples: Examples | Iterable[Example]) -> Iterable[Example]:
    return examples.rows if isinstance(examples, Examples) else examples


def _class(row: Example) -> str:
    if not isinstance(row.target, str):
        raise UsageError("a target is no class", where=row.id, got=type(row.target).__name__, expected="a name")
    return row.target


def _spoken(row: Example) -> list[str]:
    if "answer" in row.extra:
        return [row.extra["answer"]]
    if row.target is None:
        return []
    if not isinstance(row.target, dict):
        raise UsageError("a target is no answer", where=row.id, got=type(row.target).__name__, expected="answers")
    return list(row.target)
