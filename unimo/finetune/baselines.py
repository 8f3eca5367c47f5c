"""What answers cost nothing: the commonest, the mean, and that of the most similar training row.

A score says little until one knows what these get; they are computed by the same command and stand beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from unimo.data.augment import resize
from unimo.data.images import load_rgb
from unimo.finetune.split import Examples
from unimo.nearest import TfIdf, colours_and_edges, nearest

SIDE = 32  # pixels of an image whose colours and edges are compared
AT_ONCE = 2048  # images of either side that are compared with each other at once


def most_frequent(answers: Sequence[str]) -> str:
    """Of equally frequent ones the first by name."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def nearest_rows(train: Examples, examples: Examples) -> list[int] | None:
    """The number of the training row most like each row: by TF-IDF cosine of the words, or for rows without texts by
    the colours and edges of the images. Only rows with a target count; None where there is nothing to compare.

    A row that shares no word with any other gets the first training row.
    """
    known = [i for i, row in enumerate(train.rows) if row.target is not None]
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
    asked = (queries[i : i + AT_ONCE] for i in range(0, len(queries), AT_ONCE))
    return [int(numbers[0]) for some in asked for numbers, _ in nearest(some, blocks, 1)]


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
