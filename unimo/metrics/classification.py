"""Accuracy (over all, or by kind of item), F1, Matthews, Pearson, Spearman, each with its interval.

Where a score is undefined (no positive at all, a constant prediction) it is 0: such a model has shown
nothing. `groups` names items that are resampled together, for instance all questions about one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError
from unimo.metrics.checks import finite_numbers, labels_of, same_labels
from unimo.metrics.intervals import LEVEL, RESAMPLES, Score, draws, group_numbers, share_score, sums_score

__all__ = ["accuracy", "accuracy_by_kind", "f1", "matthews", "pearson", "pearson_spearman", "share_by_kind", "spearman"]

Totals = NDArray[np.float64]


def accuracy(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    chance: float | None = None,
    seed: int = 0,
) -> Score:
    """Share of items (n,) whose prediction equals the label."""
    predicted, label = same_labels(predictions, labels)
    return share_score(predicted == label, groups=groups, chance=chance, seed=seed)


def accuracy_by_kind(
    predictions: ArrayLike,
    labels: ArrayLike,
    kinds: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, Score]:
    """Accuracy within each kind of item (question type, answer type, domain): {kind: Score}; see `share_by_kind`."""
    predicted, label = same_labels(predictions, labels)
    return share_by_kind(predicted == label, kinds, groups=groups, seed=seed)


def share_by_kind(
    hits: ArrayLike, kinds: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0
) -> dict[str, Score]:
    """Mean within each kind of item of values (n,) in 0..1, for instance of `vqa_accuracy_each`: {kind: Score}.

    kinds: (n,) labels, in the result as strings, sorted. Each kind is resampled on its own.
    """
    hits, kinds = finite_numbers(hits, "value"), labels_of(kinds, "kinds")
    if hits.ndim != 1 or kinds.shape != hits.shape:
        raise DataError("one kind per item", got=kinds.shape, expected=f"{hits.shape}, one-dimensional")
    if not hits.size:
        raise DataError("nothing to score", got="0 items", expected="at least one")
    number = group_numbers(groups, len(hits))
    return {
        str(kind): share_score(hits[kinds == kind], groups=number[kinds == kind], seed=seed)
        for kind in np.unique(kinds)
    }


def f1(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    positive: object | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Score:
    """Harmonic mean of precision and recall of one class: 2 TP / (2 TP + FP + FN).

    positive: that class; without it 1, of two classes (DataError for others).
    """
    return sums_score(_confusion(predictions, labels, positive), _f1, groups=groups, seed=seed)


def matthews(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    positive: object | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Score:
    """Matthews correlation of two-class predictions, the score of CoLA; 0 is chance.

    positive: the class that is told from all others; without it 1, of two classes (DataError for others).
    """
    return sums_score(_confusion(predictions, labels, positive), _matthews, groups=groups, chance=0.0, seed=seed)


def pearson(predictions: ArrayLike, labels: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0) -> Score:
    """Linear correlation of two number lists (n,); 0 is chance."""
    x, y = _numbers(predictions, labels)
    x, y = _standard(x), _standard(y)  # sums of squares of centred values do not cancel
    per_item = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    return sums_score(per_item, _pearson, groups=groups, chance=0.0, seed=seed)


def spearman(predictions: ArrayLike, labels: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0) -> Score:
    """Pearson correlation of ranks, ties sharing their mean rank; each resample is ranked anew."""
    return _resampled_score(_rank_correlation, predictions, labels, groups, seed)


def pearson_spearman(
    predictions: ArrayLike, labels: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0
) -> Score:
    """Mean of Pearson's and Spearman's correlation: what the STS-B recipe chooses a checkpoint by."""
    return _resampled_score(_mean_correlation, predictions, labels, groups, seed)


Measure = Callable[[Totals], float]  # of how often each item (n,) was drawn


def _resampled_score(
    prepare: Callable[[Totals, Totals], Measure],
    predictions: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None,
    seed: int,
) -> Score:
    """Score of two number lists that is no function of sums over items."""
    x, y = _numbers(predictions, labels)
    order = np.lexsort((y, x))  # sums in one order: the same value to the last digit however items come
    value = prepare(x[order], y[order])(np.ones(len(x)))
    measure, number = prepare(x, y), group_numbers(groups, len(x))
    scores = [
        measure(counts[number].astype(np.float64))
        for block in draws(int(number.max()) + 1, seed=seed, resamples=RESAMPLES)
        for counts in block
    ]
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(value, float(low), float(high), len(x), 0.0)


def _numbers(predictions: ArrayLike, labels: ArrayLike) -> tuple[Totals, Totals]:
    x, y = finite_numbers(predictions, "prediction"), finite_numbers(labels, "label")
    if x.ndim != 1 or x.shape != y.shape:
        raise DataError("one prediction per label", got=x.shape, expected=f"{y.shape}, one-dimensional")
    if len(x) == 0:
        raise DataError("nothing to score", got="0 items", expected="at least one")
    return x, y


def _standard(values: Totals) -> Totals:
    centred = values - math.fsum(values) / len(values)
    return centred / max(float(np.abs(centred).max(initial=0)), np.finfo(float).tiny)


def _confusion(predictions: ArrayLike, labels: ArrayLike, positive: object | None) -> Totals:
    """(n, 4) one-hot columns: true positive, false positive, false negative, true negative."""
    predicted, label = same_labels(predictions, labels)
    if positive is None:
        classes, positive = np.unique(np.concatenate([predicted, label])), 1
        if len(classes) > 2 or (len(classes) == 2 and 1 not in classes.tolist()):
            raise DataError(
                "which class is meant?",
                got=", ".join(map(repr, classes[:5].tolist())),
                expected="two classes, one of them 1",
                do="name it: positive=...",
            )
    if isinstance(positive, str) != (label.dtype.kind == "U"):
        raise DataError(
            "the positive class is of another kind than the labels",
            got=repr(positive),
            expected="one of " + ", ".join(repr(value) for value in np.unique(label)[:5].tolist()),
            do="name it: positive=...",
        )
    says, true = predicted == positive, label == positive
    return np.stack([says & true, says & ~true, ~says & true, ~says & ~true], axis=1).astype(np.float64)


def _f1(totals: Totals) -> Totals:
    tp, fp, fn, _ = totals.T
    return _divide(2 * tp, 2 * tp + fp + fn)


def _matthews(totals: Totals) -> Totals:
    tp, fp, fn, tn = totals.T
    return _divide(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def _pearson(totals: Totals) -> Totals:
    n, x, y, xx, yy, xy = totals.T
    spread = np.maximum(xx - x * x / n, 0) * np.maximum(yy - y * y / n, 0)
    return np.clip(_divide(xy - x * y / n, np.sqrt(spread)), -1, 1)


def _divide(above: Totals, below: Totals) -> Totals:
    return np.divide(above, below, out=np.zeros_like(below), where=below > 1e-12)


def _rank_correlation(x: Totals, y: Totals) -> Measure:
    x_level, y_level = (np.unique(values, return_inverse=True)[1] for values in (x, y))
    return lambda weight: _weighted_pearson(_weighted_ranks(x_level, weight), _weighted_ranks(y_level, weight), weight)


def _mean_correlation(x: Totals, y: Totals) -> Measure:
    by_rank, x, y = _rank_correlation(x, y), _standard(x), _standard(y)
    return lambda weight: (_weighted_pearson(x, y, weight) + by_rank(weight)) / 2


def _weighted_ranks(level: NDArray[np.int64], weight: Totals) -> Totals:
    """Mean rank of each item when it occurs `weight` times; `level` orders the distinct values."""
    at_level = np.bincount(level, weights=weight)
    return (np.cumsum(at_level) - (at_level - 1) / 2)[level]


def _weighted_pearson(x: Totals, y: Totals, weight: Totals) -> float:
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    spread = np.sqrt((weight @ (x * x)) * (weight @ (y * y)))
    return float(weight @ (x * y) / spread) if spread > 1e-12 else 0.0
