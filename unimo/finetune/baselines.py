"""Baselines without a model: the most frequent answer, the mean, and the target of the most similar training row.

A score says little until one knows what these get; they are computed by the same command and stand beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unimo.data.augment import resize
from unimo.data.images import load_rgb
from unimo.finetune.classification import Classification, best_answer
from unimo.finetune.example import Example
from unimo.finetune.generation import Generation, targets_of
from unimo.finetune.regression import Regression, number_of, numbers_of
from unimo.finetune.split import Examples
from unimo.finetune.task_type import TaskType, labelled
from unimo.nearest import TfIdf, colours_and_edges, nearest

SIDE = 32  # pixels of an image whose colours and edges are compared
AT_ONCE = 2048  # images of either side that are compared with each other at once


def baselines(task: TaskType, train: Examples, examples: Examples) -> dict[str, list[Any]]:
    """Name -> predictions for a split. None for retrieval: chance stands beside each of its scores."""
    target: Callable[[Example], Any]
    if isinstance(task, Classification):
        target = best_answer
        frequent = most_frequent([target(train.rows[i]) for i in labelled(train)])
        found: dict[str, list[Any]] = {"most frequent": [frequent] * len(examples)}
    elif isinstance(task, Regression):
        target = number_of
        found = {"mean of training": [float(numbers_of(train).mean())] * len(examples)}
    elif isinstance(task, Generation):
        target, found = (lambda row: targets_of(row)[0]), {}
    else:
        return {}
    near = nearest_rows(train, examples)
    return found if near is None else {**found, "nearest training row": [target(train.rows[i]) for i in near]}


def most_frequent(answers: Sequence[str]) -> str:
    """Of equally frequent ones the first by name."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def nearest_rows(train: Examples, examples: Examples) -> list[int] | None:
    """The number of the training row most like each row: by TF-IDF cosine of the words, or for rows without texts by
    the colours and edges of the images. Only rows with a target count; None where there is nothing to compare.

    A row that shares no word with any other gets the first training row.
    """
    known = labelled(train)
    if not known or not len(examples):
        return None
    if any(row.texts for row in train.rows):
        found = _by_words([" ".join(train.rows[i].texts) for i in known], [" ".join(r.texts) for r in examples.rows])
    elif train.images is not None and examples.images is not None:
        found = _by_images(_described(train, known), _described(examples, range(len(examples))))
    else:
        return None
    return [known[i] for i in found]


def _by_words(corpus: Sequence[str], queries: Sequence[str]) -> list[int]:
    index = TfIdf(corpus)
    return [int(found[0]) if len(found) else 0 for found, _ in index.search(index.weigh(queries), 1)]


def _by_images(corpus: np.ndarray, queries: np.ndarray) -> list[int]:
    """Blocks against blocks: all similarities at once would be n x m numbers in memory."""
    blocks = [corpus[i : i + AT_ONCE] for i in range(0, len(corpus), AT_ONCE)]
    parts = (queries[i : i + AT_ONCE] for i in range(0, len(queries), AT_ONCE))
    return [int(numbers[0]) for part in parts for numbers, _ in nearest(part, blocks, 1)]


def _described(examples: Examples, rows: Sequence[int]) -> np.ndarray:
    """(n, D) of the images of some rows; a row without one is like nothing."""
    found: dict[str, np.ndarray] = {}
    assert examples.images is not None
    empty = np.zeros_like(colours_and_edges(np.zeros((SIDE, SIDE, 3), np.uint8)))
    for i in rows:
        key = examples.rows[i].image
        if key is not None and key not in found:
            image = load_rgb(examples.images.image_bytes(examples.image_item(key)), where=key)
            found[key] = colours_and_edges(resize(image, SIDE))
    return np.stack([found.get(examples.rows[i].image or "", empty) for i in rows])
