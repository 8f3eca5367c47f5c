"""Exact nearest rows: texts by their words, dense vectors block by block; and a descriptor of images without a model.

    n rows · Q queries · k found · D width

Every search orders by (score, largest first; then row number): equal rows tie, whatever the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from unimo.sentences import words

Products = tuple[np.ndarray, np.ndarray]  # of queries and rows, (Q, n) float32, and (Q,) how far they may be off
Multiply = Callable[[np.ndarray, np.ndarray, int], Products]  # queries (Q, D) float64, rows (n, D), number of the first
Found = tuple[np.ndarray, np.ndarray]  # row numbers (at most k,) int64 and their scores (float32), best first
_MOST_IN_REACH = 0.5  # of all queries, of a block's rows; beyond, a more exact product costs less than double precision


class TfIdf:
    """Texts to be searched by the cosine of TF-IDF with logarithmic counts (Salton and Buckley, "Term-weighting
    approaches in automatic text retrieval", 1988).

    A query is compared with at most `candidates` texts: those with its rarest words, which weigh most. So a query costs
    the same whatever the number of texts; where all texts with any of its words are fewer, the answer is exact.
    analyzer: text -> its words. rows: (n, vocabulary) sparse, of length 1.
    """

    def __init__(self, texts: Iterable[Any], analyzer: Callable[[Any], list[str]] = words, candidates: int = 1 << 15):
        self._vectorizer = TfidfVectorizer(analyzer=analyzer, sublinear_tf=True)
        try:
            self.rows = self._vectorizer.fit_transform(texts)
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            self.rows = csr_matrix((0, 0))  # no text has a word, so none is near anything
        self.candidates = candidates
        self._texts_of, self._cut = _longest_cut(self.rows.T.tocsr(), candidates)

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
        """For each query (Q, vocabulary) the k rows with 0 <= above < cosine < below, without those to exclude."""
        found = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * queries.shape[0]
        for i, (numbers, scores) in enumerate(self._scored(queries) if len(self) else ()):
            scores[scores >= below] = -np.inf
            if exclude is not None:
                scores[np.isin(numbers, np.fromiter(exclude[i], np.int64))] = -np.inf
            best = top_k(scores, k, above=above)
            found[i] = numbers[best], scores[best]
        return found

    def _scored(self, queries: csr_matrix, at_once: int = 64) -> Iterator[Found]:
        """The candidates of every query, in order, and their cosines."""
        whole_query = np.zeros(self.rows.shape[1])
        for first in range(0, queries.shape[0], at_once):
            some = queries[first : first + at_once]
            rarest, left_out = self._rarest(some)
            products = rarest @ self._texts_of
            products.sort_indices()
            for i in range(some.shape[0]):
                mine = slice(*products.indptr[i : i + 2])
                numbers, scores = products.indices[mine].astype(np.int64), products.data[mine]
                if left_out[i]:  # what these texts share with the query beside its rarest words counts too
                    query = some[i]
                    whole_query[query.indices] = query.data
                    scores = self.rows[numbers] @ whole_query
                    whole_query[query.indices] = 0
                yield numbers, scores.astype(np.float32)

    def _rarest(self, queries: csr_matrix) -> tuple[csr_matrix, np.ndarray]:
        """The queries without their most frequent words, and (Q,) bool: whether any text was left out."""
        lists = np.diff(self._texts_of.indptr)[queries.indices]
        row = np.repeat(np.arange(queries.shape[0]), np.diff(queries.indptr))
        order = np.lexsort((lists, row))
        read = np.cumsum(lists[order])
        before = np.concatenate([[0], read])[queries.indptr[:-1]]  # all that earlier queries read
        kept = np.zeros(len(row), bool)
        kept[order] = read - before[row[order]] <= self.candidates
        rarest = queries.copy()
        rarest.data = np.where(kept, rarest.data, 0)
        rarest.eliminate_zeros()
        left_out = np.bincount(row, ~kept | self._cut[queries.indices], minlength=queries.shape[0]) > 0
        return rarest, left_out


def _longest_cut(texts_of: csr_matrix, longest: int) -> tuple[csr_matrix, np.ndarray]:
    """The texts of each word (vocabulary, n), of the most frequent ones only the `longest` in which they weigh most;
    and (vocabulary,) bool, of which words these are."""
    cut = np.diff(texts_of.indptr) > longest
    for word in np.flatnonzero(cut):
        weights = texts_of.data[slice(*texts_of.indptr[word : word + 2])]
        weights[np.setdiff1d(np.arange(len(weights)), top_k(weights, longest))] = 0
    texts_of.eliminate_zeros()
    return texts_of, cut


def in_single_precision(queries: np.ndarray, rows: np.ndarray, first: int = 0) -> Products:
    single = np.asarray(rows, np.float32)
    return queries.astype(np.float32) @ single.T, rounding_error(queries, longest_row(single))


def nearest(
    queries: np.ndarray,
    blocks: Iterable[np.ndarray],
    k: int,
    *,
    exclude: Sequence[Iterable[int]] | None = None,
    above: float = -np.inf,
    multiply: Sequence[Multiply] = (),
) -> list[Found]:
    """For each query (Q, D) the k rows of all blocks (n_1, D), (n_2, D), … with the largest product, beyond `above`.

    Rows of length 1 make it the cosine. One block is in memory at a time. Scores are products in double precision,
    rounded to single: only so do equal rows tie, and blocks of another size give the same. Most rows are told to be
    too far by a faster product, see `within_reach`. multiply: products to try before single precision, the fastest
    first, each with its error; one is given up for a block where it was further off, or leaves too many rows.
    """
    found: list[Found] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(queries)
    exact = np.asarray(queries, np.float64)
    excluded = [np.fromiter(some, np.int64) for some in exclude or [()] * len(queries)]
    first = 0
    for block in blocks if k > 0 else ():
        gone = [some[(some >= first) & (some < first + len(block))] - first for some in excluded]
        floor = np.array([max(above, scores[k - 1] if len(scores) == k else -np.inf) for _, scores in found])
        near = _near(exact, block, first, gone, floor, k, (*multiply, in_single_precision))
        for i, (places, scores) in enumerate(near):
            numbers, scores = np.concatenate([found[i][0], first + places]), np.concatenate([found[i][1], scores])
            best = top_k(scores, k, above=above)
            found[i] = numbers[best], scores[best]
        first += len(block)
    return found


def _near(
    queries: np.ndarray,
    block: np.ndarray,
    first: int,
    gone: list[np.ndarray],
    floor: np.ndarray,
    k: int,
    multiply: Sequence[Multiply],
) -> list[Found]:
    """Of each query the rows within reach and their scores, by the first product that will do; empty if none does."""
    for product in multiply:
        products, errors = product(queries, block, first)
        for row, places in zip(products, gone):
            row[places] = -np.inf
        reached = within_reach(products, floor, errors, k)
        few = max(_MOST_IN_REACH * len(block), 4 * k * len(queries))
        if product is not multiply[-1] and sum(map(len, reached)) > few:
            continue
        near, believed = [], True
        for query, row, error, places in zip(queries, products, errors, reached):
            scores = np.asarray(block[places], np.float64) @ query
            believed &= bool((np.abs(scores - row[places]) <= error).all())
            near.append((places, scores.astype(np.float32)))
        if believed:
            return near
    return []


def within_reach(products: np.ndarray, floor: np.ndarray, errors: np.ndarray, k: int) -> list[np.ndarray]:
    """For each query the places in a block of all rows that can be among its k best.

    products: (Q, n), each wrong by at most `errors` (Q,); -inf for rows that are out. floor: (Q,) what a row must
    reach at least. No such row is lost: one whose product lies more than an error below the floor is truly below it.
    So is one more than two errors below the k-th largest product of the block, since the k rows with larger products
    are truly above it by their own error.
    """
    lowest = np.maximum(floor - errors, np.finfo(np.float32).min)
    n = products.shape[1]
    if n > 4 * k:
        many = np.flatnonzero((products >= lowest[:, None]).sum(1) > 4 * k)
        edges = np.partition(products[many], n - k, axis=1)[:, n - k]
        lowest[many] = np.maximum(lowest[many], edges - 2 * errors[many])
    query, place = np.nonzero(products >= lowest[:, None])
    return np.split(place, np.searchsorted(query, np.arange(1, len(products))))


def rounding_error(queries: np.ndarray, longest: float, terms: int = 8) -> np.ndarray:
    """(Q,): how far products of queries (Q, D) with rows at most so long may be off in single precision.

    A sum of D products of numbers rounded to u = 2^-24 is off by at most about (D + 2) u times the lengths, in
    whatever order it is taken (Higham, "Accuracy and stability of numerical algorithms", 2002, section 3.1); the other
    `terms` leave room for the rounding of the score itself.
    """
    return (queries.shape[1] + terms) * 2.0**-24 * 1.001 * np.linalg.norm(queries, axis=1) * longest


def longest_row(rows: np.ndarray) -> float:
    """The largest length of the rows (n, D) whose length is a number."""
    squares = np.einsum("nd,nd->n", rows, rows)
    return float(np.sqrt(np.max(squares, where=np.isfinite(squares), initial=0.0)))


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
