"""Accuracy (over all, or by kind of item), F1, Matthews, Pearson and Spearman correlation, each with its interval.

Where a score is undefined (no positive at all, a constant prediction) it is 0: such a model has shown nothing.
`groups` names items that are resampled together, for instance all questions about one image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError
from unimo.metrics.checks import finite_numbers, labels_of, same_labels
from unimo.metrics.intervals import Groups, Score, Sums, draws, fraction_score, group_numbers, percentiles, sums_score


def accuracy(
    predictions: ArrayLike, labels: ArrayLike, *, groups: Groups = None, chance: float | None = None, seed: int = 0
) -> Score:
    """Fraction of items (n,) whose prediction equals the label."""
    predicted, label = same_labels(predictions, labels)
    return fraction_score(predicted == label, groups=groups, chance=chance, seed=seed)


def fraction_by_kind(hits: ArrayLike, kinds: ArrayLike, *, groups: Groups = None, seed: int = 0) -> dict[str, Score]:
    """Mean within each kind of item of values (n,) in 0..1, for instance of `vqa_accuracy_each`: {kind: Score}.

    kinds: (n,) labels, in the result as strings, sorted. Each kind is resampled on its own.
    """
    hits, kinds = finite_numbers(hits, "value"), labels_of(kinds, "kinds")
    if kinds.shape != hits.shape:
        raise DataError("one kind per item", got=kinds.shape, expected=f"{hits.shape}, one-dimensional")
    number = group_numbers(groups, len(hits))
    return {
        str(kind): fraction_score(hits[kinds == kind], groups=number[kinds == kind], seed=seed)
        for kind in np.unique(kinds)
    }


# ---- two classes: functions of the confusion counts, so that resamples and paired tests are sums


def f1(
    predictions: ArrayLike, labels: ArrayLike, *, positive: object = None, groups: Groups = None, seed: int = 0
) -> Score:
    """Harmonic mean of precision and recall of one class: 2 TP / (2 TP + FP + FN).

    positive: that class; without it 1, of two classes (DataError for others).
    """
    return sums_score(_confusion(predictions, labels, positive), f1_of_sums, groups=groups, seed=seed)


def matthews(
    predictions: ArrayLike, labels: ArrayLike, *, positive: object = None, groups: Groups = None, seed: int = 0
) -> Score:
    """Matthews correlation of two-class predictions, the score of CoLA; 0 is chance. positive: as in `f1`."""
    return sums_score(_confusion(predictions, labels, positive), matthews_of_sums, groups=groups, chance=0.0, seed=seed)


def _confusion(predictions: ArrayLike, labels: ArrayLike, positive: object) -> Sums:
    """(n, 4) one-hot columns: true positive, false positive, false negative, true negative."""
    predicted, label = same_labels(predictions, labels)
    classes = np.unique(np.concatenate([predicted, label])).tolist()
    if positive is None:
        positive = 1
        if len(classes) > 2 or (len(classes) == 2 and 1 not in classes):
            expected, do = "two classes, one of them 1", "name it: positive=..."
            raise DataError("which class is meant?", got=classes[:5], expected=expected, do=do)
    if isinstance(positive, str) != (label.dtype.kind == "U"):
        expected, do = f"one of {classes[:5]}", "name it: positive=..."
        raise DataError("the positive class is of another kind than the labels", got=positive, expected=expected, do=do)
    yes, true = predicted == positive, label == positive
    return np.stack([yes & true, yes & ~true, ~yes & true, ~yes & ~true], axis=1).astype(np.float64)


def f1_of_sums(totals: Sums) -> Sums:
    """(R, 4) summed rows of `_confusion` -> (R,) F1."""
    tp, fp, fn, _ = totals.T
    return _divide(2 * tp, 2 * tp + fp + fn)


def matthews_of_sums(totals: Sums) -> Sums:
    """(R, 4) summed rows of `_confusion` -> (R,) Matthews correlation."""
    tp, fp, fn, tn = totals.T
    return _divide(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def _divide(above: Sums, below: Sums) -> Sums:
    return np.divide(above, below, out=np.zeros_like(below), where=below > 1e-12)


# ---- correlations; every resample is correlated, and ranked, anew


def pearson(predictions: ArrayLike, labels: ArrayLike, *, groups: Groups = None, seed: int = 0) -> Score:
    """Linear correlation of two number lists (n,); 0 is chance."""
    return _correlation((np.asarray,), predictions, labels, groups, seed)


def spearman(predictions: ArrayLike, labels: ArrayLike, *, groups: Groups = None, seed: int = 0) -> Score:
    """Pearson correlation of ranks, ties sharing their mean rank."""
    return _correlation((_ranks,), predictions, labels, groups, seed)


def pearson_spearman(predictions: ArrayLike, labels: ArrayLike, *, groups: Groups = None, seed: int = 0) -> Score:
    """Mean of Pearson's and Spearman's correlation: what the STS-B recipe chooses a checkpoint by."""
    return _correlation((np.asarray, _ranks), predictions, labels, groups, seed)


def _correlation(
    transforms: Sequence[Callable[[NDArray], NDArray]],
    predictions: ArrayLike,
    labels: ArrayLike,
    groups: Groups,
    seed: int,
) -> Score:
    """Mean, over the transforms, of the correlation of both lists so transformed."""
    x, y = finite_numbers(predictions, "prediction"), finite_numbers(labels, "label")
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise DataError("one prediction per label", got=f"{x.shape}, {y.shape}", expected="(n,) both, n >= 1")

    def measure(x: NDArray, y: NDArray) -> float:
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            return 0.0
        return float(np.mean([np.corrcoef(each(x), each(y))[0, 1] for each in transforms]))

    order = np.lexsort((y, x))  # sums in one order: the same value to the last digit however items come
    number = group_numbers(groups, len(x))
    blocks = draws(int(number.max()) + 1, seed=seed)
    drawn = (np.repeat(np.arange(len(x)), counts[number]) for block in blocks for counts in block)
    resampled = np.array([measure(x[i], y[i]) for i in drawn])
    return Score(measure(x[order], y[order]), *percentiles(resampled), len(x), 0.0)


def _ranks(values: NDArray) -> NDArray:
    from scipy.stats import rankdata  # takes a second to import: only where it is used

    return rankdata(values)
