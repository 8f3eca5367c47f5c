"""Exact nearest rows: texts by their words, dense vectors block by block; and a descriptor of images without a model.

    n rows · Q queries · k found · D width

Every search orders by (score, largest first; then row number): equal rows tie, whatever the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from unimo.sentences import words

Found = tuple[np.ndarray, np.ndarray]  # row numbers (at most k,) int64 and their scores (float32), best first


class TfIdf:
    """Texts to be searched by the cosine of TF-IDF with logarithmic counts (Salton and Buckley, "Term-weighting
    approaches in automatic text retrieval", 1988). A query costs the lists of its words and O(n).

    analyzer: text -> its words. rows: (n, vocabulary) sparse, of length 1.
    """

    def __init__(self, texts: Iterable[Any], analyzer: Callable[[Any], list[str]] = words):
        self._vectorizer = TfidfVectorizer(analyzer=analyzer, sublinear_tf=True)
        try:
            self.rows = self._vectorizer.fit_transform(texts)
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            self.rows = csr_matrix((0, 0))  # no text has a word, so none is near anything
        self._columns = self.rows.T.tocsr()

    def __len__(self) -> int:
        return self.rows.shape[0]

    def weigh(self, texts: Sequence[Any]) -> csr_matrix:
        """(Q, vocabulary): queries. Words that no row has count for nothing."""
        return self._vectorizer.transform(texts) if self.rows.shape[1] else csr_matrix((len(texts), 0))

    def search(
        self,
        queries: csr_matrix,
        k: int,
        *,
        exclude: Sequence[Iterable[int]] | None = None,
        above: float = 0.0,
        below: float = np.inf,
    ) -> list[Found]:
        """For each query (Q, vocabulary) the k rows with above < cosine < below, without those to exclude."""
        found = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * queries.shape[0]
        for i in range(queries.shape[0] if len(self) else 0):
            scores = (queries[i] @ self._columns).toarray()[0].astype(np.float32)
            scores[scores >= below] = -np.inf
            if exclude is not None:
                scores[np.fromiter(exclude[i], np.int64)] = -np.inf
            best = top_k(scores, k, above=above)
            found[i] = best, scores[best]
        return found


def nearest(
    queries: np.ndarray,
    blocks: Iterable[np.ndarray],
    k: int,
    *,
    exclude: Sequence[Iterable[int]] | None = None,
    above: float = -np.inf,
) -> list[Found]:
    """For each query (Q, D) the k rows of all blocks (n_1, D), (n_2, D), … with the largest product, beyond `above`.

    Rows of length 1 make it the cosine. One block is in memory at a time. Products are taken in double precision and
    rounded to single: only so do equal rows tie, and blocks of another size give the same.
    """
    found: list[Found] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(queries)
    excluded = [np.fromiter(some, np.int64) for some in exclude or [()] * len(queries)]
    first = 0
    for block in blocks:
        products = (np.asarray(queries, np.float64) @ np.asarray(block, np.float64).T).astype(np.float32)
        for i, row in enumerate(products):
            row[excluded[i][(excluded[i] >= first) & (excluded[i] < first + len(block))] - first] = -np.inf
            numbers = np.concatenate([found[i][0], np.arange(first, first + len(block))])
            scores = np.concatenate([found[i][1], row])
            best = top_k(scores, k, above=above)
            found[i] = numbers[best], scores[best]
        first += len(block)
    return found


def top_k(scores: np.ndarray, k: int, *, above: float = -np.inf) -> np.ndarray:
    """Places of the k largest scores (n,) beyond `above`, best first, the earlier one first where they are equal."""
    chosen = np.flatnonzero(scores > above)
    if len(chosen) > k > 0:
        edge = np.partition(scores[chosen], len(chosen) - k)[len(chosen) - k]  # the k-th largest; sorting all is slow
        chosen = chosen[scores[chosen] >= edge]
    return chosen[np.argsort(-scores[chosen], kind="stable")][:k]


def colours_and_edges(pixels: np.ndarray, cells: int = 4, directions: int = 8) -> np.ndarray:
    """A descriptor without a model: where which colour is, and which way edges run. (S, S, 3) uint8 -> (D,), length 1.

    Mean colours of cells x cells fields, and of each a histogram of gradient directions weighted by strength (after
    Dalal and Triggs, "Histograms of oriented gradients", 2005); each half is brought to equal length. S must be a
    multiple of cells. D = cells² · (3 + directions).
    """
    side = len(pixels) // cells
    colour = pixels.astype(np.float64) / 255
    grey = colour.mean(2)
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    direction = (np.arctan2(down, right) % np.pi / np.pi * directions).astype(np.int64) % directions  # unsigned
    field = np.arange(side * cells) // side
    cell = field[:, None] * cells + field[None, :]
    edges = np.bincount((cell * directions + direction).ravel(), strength.ravel(), minlength=cells**2 * directions)
    means = colour.reshape(cells, side, cells, side, 3).mean((1, 3)).ravel() - 0.5  # around grey: black is not nothing
    whole = np.concatenate([part / max(float(np.linalg.norm(part)), 1e-12) for part in (means, edges)])
    return (whole / max(float(np.linalg.norm(whole)), 1e-12)).astype(np.float32)
