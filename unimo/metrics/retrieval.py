"""Recall at k, both ways, with the intervals and the chance level that make the number mean something.

Legend: Q queries · N candidates · k places shown.

**Ties.** Equal scores are ordered at random in thought: a query's contribution is the exact probability
that a relevant candidate is among the first k. So a constant score matrix gets exactly chance (a stable
sort would give it 100 %).

**Duplicates.** Relevance is ownership, as in the published protocol: a caption that occurs word for word
with another image is a wrong answer there. Being equal texts they tie, so the point is shared between
them, never awarded by position in the file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError, NumericsError
from unimo.metrics.checks import array_of
from unimo.metrics.intervals import Score, mean_score, share_score

__all__ = ["hit_probability", "mean_rank", "recall_at_k", "retrieval_report"]

Relevant = Sequence[int | Collection[int]] | NDArray[np.integer]

_ROWS = 256  # queries ranked at once: bounds the memory of the comparisons


def recall_at_k(
    similarity: ArrayLike,
    relevant: Relevant,
    ks: Sequence[int] = (1, 5, 10),
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, Score]:
    """Share of queries with a relevant candidate among the k most similar, as {"R@1": Score, ...}.

    similarity: (Q, N), larger is nearer; -inf marks a candidate that was never considered. relevant: (Q,)
    the one right candidate of each query, or Q collections of right candidates (the best placed one
    counts). groups: (Q,) queries that are resampled together. Raises DataError for shapes or indices that
    do not fit, NumericsError for NaN.
    """
    if not len(ks) or not all(isinstance(k, (int, np.integer)) and k >= 1 for k in ks):
        raise DataError("k counts places from 1", got=tuple(ks), expected="positive whole numbers")
    found = _standing(array_of(similarity, "similarity"), relevant)
    result = {}
    for k in ks:
        hits = hit_probability(found.tied, found.tied_relevant, k - found.better)
        chance = hit_probability(found.candidates, found.relevant, np.full(len(hits), k))
        result[f"R@{k}"] = share_score(hits, groups=groups, chance=float(chance.mean()), seed=seed)
    return result


def mean_rank(similarity: ArrayLike, relevant: Relevant, *, groups: ArrayLike | None = None, seed: int = 0) -> Score:
    """Mean place of the best placed right answer, 1 = first; arguments and errors as for `recall_at_k`.

    One far-away answer moves it a lot, so it is no substitute for recall; the authors' evaluation prints both.
    """
    found = _standing(array_of(similarity, "similarity"), relevant)
    # The first of m marked things among n in random order stands, on average, at (n + 1) / (m + 1).
    places = found.better + (found.tied + 1) / (found.tied_relevant + 1)
    chance = (found.candidates + 1) / (found.relevant + 1)
    return mean_score(places, groups=groups, chance=float(chance.mean()), seed=seed)


def retrieval_report(
    similarity: ArrayLike, image_of_text: ArrayLike, ks: Sequence[int] = (1, 5, 10), *, seed: int = 0
) -> dict[str, dict[str, Score]]:
    """Both directions: {"image_to_text": {"R@1": ...}, "text_to_image": {...}}.

    similarity: (images, texts). image_of_text: (texts,) the image each caption belongs to. An image's
    rank is the best rank among its own captions. Intervals resample images, so the captions of one stay
    together.
    """
    similarity, owner = array_of(similarity, "similarity"), array_of(image_of_text, "owners")
    if similarity.ndim != 2 or owner.shape != similarity.shape[1:]:
        raise DataError(
            "one owner per text",
            got=owner.shape,
            expected=f"one for each column of the score matrix, {similarity.shape}",
        )
    if not np.issubdtype(owner.dtype, np.integer) or owner.size == 0:
        raise DataError("owners are numbers of images", got=f"{owner.dtype} {owner.shape}", expected="whole numbers")
    if owner.min() < 0 or owner.max() >= len(similarity):
        raise DataError(
            "a text belongs to no image",
            got=f"owners {owner.min()}..{owner.max()}",
            expected=f"0..{len(similarity) - 1}",
        )
    by_owner = np.argsort(owner, kind="stable")
    texts_of_image = np.split(by_owner, np.searchsorted(owner[by_owner], np.arange(1, len(similarity))))
    return {
        "image_to_text": recall_at_k(similarity, texts_of_image, ks, seed=seed),
        "text_to_image": recall_at_k(similarity.T, owner, ks, groups=owner, seed=seed),
    }


def hit_probability(
    total: NDArray[np.int64], marked: NDArray[np.int64], drawn: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Probability that `drawn` of `total` things, taken at random, include at least one of the `marked`.

    Hypergeometric: 1 - C(total - marked, drawn) / C(total, drawn); 0 where nothing is drawn.
    """
    drawn = np.clip(drawn, 0, total)
    miss = np.ones(len(total))
    for taken in range(int(drawn.max(initial=0))):
        still = drawn > taken
        unmarked_left = np.maximum(total - marked - taken, 0)
        miss[still] *= (unmarked_left / np.maximum(total - taken, 1))[still]
    return 1 - miss


@dataclass(frozen=True)
class _Standing:
    """Per query (Q,): candidates strictly above the best right answer; level with it, itself included; right answers
    among those; all candidates; all right answers."""

    better: NDArray[np.int64]
    tied: NDArray[np.int64]
    tied_relevant: NDArray[np.int64]
    candidates: NDArray[np.int64]
    relevant: NDArray[np.int64]


def _standing(similarity: NDArray, relevant: Relevant) -> _Standing:
    if similarity.ndim != 2 or 0 in similarity.shape:
        raise DataError("recall needs a filled score matrix", got=similarity.shape, expected="(queries, candidates)")
    if similarity.dtype.kind not in "biuf":
        raise DataError("similarities are numbers", got=f"an array of {similarity.dtype}", expected="numbers")
    if np.isnan(similarity).any():
        row, column = np.argwhere(np.isnan(similarity))[0]
        raise NumericsError("a similarity is not a number", where=f"query {row}, candidate {column}", got="NaN")
    rows, columns = _relevant_pairs(relevant, similarity.shape)

    n_queries, n_candidates = similarity.shape
    better, tied, tied_relevant = (np.zeros(n_queries, dtype=np.int64) for _ in range(3))
    scores = similarity[rows, columns]
    best = np.full(n_queries, -np.inf, dtype=scores.dtype)
    np.maximum.at(best, rows, scores)
    np.add.at(tied_relevant, rows, scores == best[rows])
    for start in range(0, n_queries, _ROWS):
        block = slice(start, start + _ROWS)
        better[block] = (similarity[block] > best[block, None]).sum(axis=1)
        tied[block] = (similarity[block] == best[block, None]).sum(axis=1)
    candidates = np.full(n_queries, n_candidates)
    return _Standing(better, tied, tied_relevant, candidates, np.bincount(rows, minlength=n_queries))


def _relevant_pairs(relevant: Relevant, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Relevance as two flat arrays (query, candidate), each pair once."""
    n_queries, n_candidates = shape
    if not isinstance(relevant, (Sequence, np.ndarray)) or isinstance(relevant, (str, bytes)):
        raise DataError("relevance is given per query", got=f"a {type(relevant).__name__}", expected=n_queries)
    if len(relevant) != n_queries:
        raise DataError("relevance is given per query", got=len(relevant), expected=n_queries)
    sets = [_indices(right, query) for query, right in enumerate(relevant)]
    for query, candidates in enumerate(sets):
        if len(candidates) == 0:
            raise DataError(
                "a query has no right answer",
                where=f"query {query}",
                expected="at least one relevant candidate",
            )
        if candidates[0] < 0 or candidates[-1] >= n_candidates:
            raise DataError(
                "a right answer is not among the candidates",
                where=f"query {query}",
                got=candidates.tolist(),
                expected=f"0..{n_candidates - 1}",
            )
    lengths = [len(candidates) for candidates in sets]
    return np.repeat(np.arange(n_queries), lengths), np.concatenate(sets)


def _indices(right: int | Collection[int], query: int) -> NDArray[np.int64]:
    """Numbers of right candidates, each once, rising."""
    array = np.asarray(
        list(right) if isinstance(right, Collection) and not isinstance(right, (str, bytes)) else [right]
    )
    if array.size and array.dtype.kind not in "iu":  # a mask, letters and 1.5 would all become some numbers
        raise DataError(
            "right answers are numbers of candidates",
            where=f"query {query}",
            got=f"{right!r}"[:60],
            expected="a whole number, or several",
        )
    return np.unique(array.astype(np.int64))
