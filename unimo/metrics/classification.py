"""Accuracy, F1, Matthews, Pearson and Spearman, each with its interval.

Where a score is undefined (no positive at all, a constant prediction) it is 0: such a model has shown
nothing. `groups` names items that are resampled together, for instance all questions about one picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError, NumericsError
from unimo.metrics.intervals import LEVEL, RESAMPLES, Score, draws, group_numbers, share_score, sums_score

__all__ = ["accuracy", "f1", "matthews", "pearson", "spearman"]

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
    predicted, label = _aligned(predictions, labels)
    return share_score(predicted == label, groups=groups, chance=chance, seed=seed)


def f1(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    positive: object = 1,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Score:
    """Harmonic mean of precision and recall of one class: 2 TP / (2 TP + FP + FN)."""
    return sums_score(_confusion(predictions, labels, positive), _f1, groups=groups, seed=seed)


def matthews(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    positive: object = 1,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Score:
    """Matthews correlation of two-class predictions, the score of CoLA; 0 is chance."""
    return sums_score(_confusion(predictions, labels, positive), _matthews, groups=groups, chance=0.0, seed=seed)


def pearson(predictions: ArrayLike, labels: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0) -> Score:
    """Linear correlation of two number lists (n,); 0 is chance."""
    x, y = _numbers(predictions, labels)
    x, y = _standard(x), _standard(y)  # sums of squares of centred values do not cancel
    per_item = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    return sums_score(per_item, _pearson, groups=groups, chance=0.0, seed=seed)


def spearman(predictions: ArrayLike, labels: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0) -> Score:
    """Pearson correlation of ranks, ties sharing their mean rank; each resample is ranked anew."""
    x, y = _numbers(predictions, labels)
    value = pearson(_ranks(x), _ranks(y)).value
    number = group_numbers(groups, len(x))
    x_level, y_level = (np.unique(values, return_inverse=True)[1] for values in (x, y))
    scores = []
    for block in draws(int(number.max()) + 1, seed=seed, resamples=RESAMPLES):
        for counts in block:
            weight = counts[number].astype(np.float64)
            scores.append(_weighted_pearson(_weighted_ranks(x_level, weight), _weighted_ranks(y_level, weight), weight))
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(value, float(low), float(high), len(x), 0.0)


def _aligned(predictions: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    predicted, label = np.asarray(predictions), np.asarray(labels)
    if predicted.ndim != 1 or predicted.shape != label.shape:
        raise DataError("one prediction per label", got=predicted.shape, expected=f"{label.shape}, one-dimensional")
    return predicted, label


def _numbers(predictions: ArrayLike, labels: ArrayLike) -> tuple[Totals, Totals]:
    x, y = (values.astype(np.float64) for values in _aligned(predictions, labels))
    for name, values in (("prediction", x), ("label", y)):
        if not np.isfinite(values).all():
            item = int(np.flatnonzero(~np.isfinite(values))[0])
            raise NumericsError(f"a {name} is not a finite number", where=f"item {item}", got=values[item])
    if len(x) == 0:
        raise DataError("nothing to score", got="0 items", expected="at least one")
    return x, y


def _standard(values: Totals) -> Totals:
    centred = values - values.mean()
    return centred / max(float(np.abs(centred).max(initial=0)), np.finfo(float).tiny)


def _confusion(predictions: ArrayLike, labels: ArrayLike, positive: object) -> Totals:
    """(n, 4) one-hot columns: true positive, false positive, false negative, true negative."""
    predicted, label = _aligned(predictions, labels)
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


def _ranks(values: Totals) -> Totals:
    """Ranks from 1, ties sharing their mean."""
    return _weighted_ranks(np.unique(values, return_inverse=True)[1], np.ones(len(values)))


def _weighted_ranks(level: NDArray[np.int64], weight: Totals) -> Totals:
    """Mean rank of each item when it occurs `weight` times; `level` orders the distinct values."""
    at_level = np.bincount(level, weights=weight)
    return (np.cumsum(at_level) - (at_level - 1) / 2)[level]


def _weighted_pearson(x: Totals, y: Totals, weight: Totals) -> float:
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    spread = np.sqrt((weight @ (x * x)) * (weight @ (y * y)))
    return float(weight @ (x * y) / spread) if spread > 1e-12 else 0.0
