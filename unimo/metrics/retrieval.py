"""Recall at k, both ways, with the intervals and the chance level that make the number mean something.

Q queries · N candidates · k places shown.

**Ties.** A query's contribution is the exact probability that a relevant candidate is among the first k when equal
scores are ordered at random. So a constant score matrix gets exactly chance (a stable sort would give it 100 %).

**Duplicates.** Relevance is ownership, as in the published protocol: a caption that occurs word for word with another
image is a wrong answer there. Being equal texts they tie, so the point is shared between them, never awarded by
position in the file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError, NumericsError
from unimo.metrics.checks import array_of
from unimo.metrics.intervals import Groups, Score, fraction_score, mean_score

Relevant = Sequence[int | Collection[int]] | NDArray[np.integer]
Counts = NDArray[np.int64]

_ROWS = 256  # queries ranked at once: bounds the memory of the comparisons


def recall_at_k(
    similarity: ArrayLike, relevant: Relevant, ks: Sequence[int] = (1, 5, 10), *, groups: Groups = None, seed: int = 0
) -> dict[str, Score]:
    """Fraction of queries with a relevant candidate among the k most similar, as {"R@1": Score, ...}.

    similarity: (Q, N), larger is nearer; -inf for a candidate that was never considered. relevant: (Q,) the one
    relevant candidate of each query, or Q collections of them (the best ranked one counts). groups: (Q,) queries that
    are resampled together. Raises DataError for shapes or indices that do not fit, NumericsError for NaN.
    """
    if not len(ks) or not all(isinstance(k, (int, np.integer)) and k >= 1 for k in ks):
        raise DataError("k counts places from 1", got=tuple(ks), expected="positive whole numbers")
    ranks = _ranks(array_of(similarity, "similarity"), relevant)
    result = {}
    for k in ks:
        hits = hit_probability(ranks.tied, ranks.tied_relevant, k - ranks.better)
        chance = hit_probability(ranks.candidates, ranks.relevant, np.full(len(hits), k))
        result[f"R@{k}"] = fraction_score(hits, groups=groups, chance=float(chance.mean()), seed=seed)
    return result


def mean_rank(similarity: ArrayLike, relevant: Relevant, *, groups: Groups = None, seed: int = 0) -> Score:
    """Mean rank of the best ranked relevant candidate, 1 = first; arguments and errors as for `recall_at_k`.

    One far-away answer moves it a lot, so it is no substitute for recall; the authors' evaluation prints both.
    """
    ranks = _ranks(array_of(similarity, "similarity"), relevant)
    # The first of m relevant ones among n in random order stands, on average, at (n + 1) / (m + 1).
    places = ranks.better + (ranks.tied + 1) / (ranks.tied_relevant + 1)
    chance = (ranks.candidates + 1) / (ranks.relevant + 1)
    return mean_score(places, groups=groups, chance=float(chance.mean()), seed=seed)


def retrieval_report(
    similarity: ArrayLike, image_of_text: ArrayLike, ks: Sequence[int] = (1, 5, 10), *, seed: int = 0
) -> dict[str, dict[str, Score]]:
    """Both directions: {"image_to_text": {"R@1": ...}, "text_to_image": {...}}.

    similarity: (images, texts). image_of_text: (texts,) the image each caption belongs to. An image's rank is the best
    rank among its own captions. Intervals resample images, so the captions of one stay together.
    """
    similarity, owner = array_of(similarity, "similarity"), array_of(image_of_text, "owners")
    if similarity.ndim != 2 or owner.shape != similarity.shape[1:]:
        raise DataError("one owner per text", got=owner.shape, expected=f"one for each column of {similarity.shape}")
    if owner.dtype.kind not in "iu" or not owner.size or owner.min() < 0 or owner.max() >= len(similarity):
        expected = f"whole numbers 0..{len(similarity) - 1}"
        raise DataError("a text belongs to no image", got=f"{owner.dtype} {owner[:8].tolist()}", expected=expected)
    by_owner = np.argsort(owner, kind="stable")
    texts_of_image = np.split(by_owner, np.searchsorted(owner[by_owner], np.arange(1, len(similarity))))
    return {
        "image_to_text": recall_at_k(similarity, texts_of_image, ks, seed=seed),
        "text_to_image": recall_at_k(similarity.T, owner, ks, groups=owner, seed=seed),
    }


def hit_probability(total: Counts, relevant: Counts, drawn: Counts) -> NDArray[np.float64]:
    """Probability that `drawn` of `total` candidates, taken at random, include at least one of the `relevant`.

    Hypergeometric: 1 - C(total - relevant, drawn) / C(total, drawn); 0 where nothing is drawn.
    """
    drawn = np.clip(drawn, 0, total)
    miss = np.ones(len(total))
    for n in range(int(drawn.max(initial=0))):
        still = drawn > n
        miss[still] *= (np.maximum(total - relevant - n, 0) / np.maximum(total - n, 1))[still]
    return 1 - miss


@dataclass(frozen=True)
class _Ranks:
    """Per query (Q,): candidates strictly above the best relevant one; level with it, itself included; relevant ones
    among those; all candidates; all relevant ones."""

    better: Counts
    tied: Counts
    tied_relevant: Counts
    candidates: Counts
    relevant: Counts


def _ranks(similarity: NDArray, relevant: Relevant) -> _Ranks:
    if similarity.ndim != 2 or 0 in similarity.shape or similarity.dtype.kind not in "biuf":
        got = f"{similarity.shape} of {similarity.dtype}"
        raise DataError("recall needs a filled score matrix", got=got, expected="numbers, (queries, candidates)")
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
    return _Ranks(better, tied, tied_relevant, np.full(n_queries, n_candidates), np.bincount(rows, minlength=n_queries))


def _relevant_pairs(relevant: Relevant, shape: tuple[int, ...]) -> tuple[Counts, Counts]:
    """Relevance as two flat arrays (query, candidate), each pair once."""
    if not isinstance(relevant, (Sequence, np.ndarray)) or isinstance(relevant, (str, bytes)):
        raise DataError("relevance is given per query", got=f"a {type(relevant).__name__}", expected=shape[0])
    if len(relevant) != shape[0]:
        raise DataError("relevance is given per query", got=len(relevant), expected=shape[0])
    sets = [_indices(one, query, shape[1]) for query, one in enumerate(relevant)]
    return np.repeat(np.arange(shape[0]), [len(one) for one in sets]), np.concatenate(sets)


def _indices(relevant: int | Collection[int], query: int, n_candidates: int) -> Counts:
    """Numbers of relevant candidates, each once, rising. A mask, letters and 1.5 are no numbers of candidates."""
    several = isinstance(relevant, Collection) and not isinstance(relevant, (str, bytes))
    array = np.asarray(list(relevant) if several else [relevant])  # type: ignore[arg-type]
    if array.dtype.kind not in "iu" or not array.size or array.min() < 0 or array.max() >= n_candidates:
        raise DataError(
            "a query's relevant candidates are numbers of candidates, at least one",
            where=f"query {query}",
            got=f"{relevant!r}"[:60],
            expected=f"0..{n_candidates - 1}",
        )
    return np.unique(array.astype(np.int64))
