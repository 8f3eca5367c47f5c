"""The captions of other images nearest to a caption by TF-IDF, below a highest similarity."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import numpy as np

from unimo.nearest import TfIdf
from unimo.rewriting.grammar import grammar, tokens


class NearCaptions:
    """Nearest captions by the cosine of TF-IDF. Function words count for nothing, numbers do."""

    def __init__(self, texts: Sequence[str], owner: np.ndarray):
        """owner: (n,) the image of each caption, ascending."""
        functions = {word for word, tags in grammar().tags.items() if tags[0] in "ADPXCOW"}
        self._index, self._owner = TfIdf(texts, partial(_content, functions)), owner

    def nearest(self, queries: Sequence[int], k: int, max_similarity: float) -> list[list[tuple[int, float]]]:
        """For each query at most k (caption, similarity) of other images with 0 < similarity < max_similarity, best
        first; equals in order of the corpus."""
        images = self._owner[list(queries)]
        own = [
            range(*ends) for ends in zip(*(np.searchsorted(self._owner, images, side) for side in ("left", "right")))
        ]
        found = self._index.search(self._index.rows[list(queries)], k, exclude=own, below=max_similarity)
        return [list(zip(numbers.tolist(), scores.tolist())) for numbers, scores in found]


def _content(functions: Collection[str], text: str) -> list[str]:
    return [token.text for token in tokens(text) if token.text not in functions and token.text[0].isalnum()]
