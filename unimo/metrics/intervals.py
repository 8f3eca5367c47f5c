"""Confidence intervals of scores: percentile bootstrap over the right unit, Wilson's interval for plain fractions.

Items that share an image (its five captions, the questions about it) are not independent, so whole *groups* are drawn,
never their items one by one. Nearly every score here is a function of sums over items; a resample is then a row of draw
counts times a matrix of per-group sums, which makes 1,000 resamples of 5,000 items a fraction of a second.

Sources: Efron, "Bootstrap methods", 1979 (percentile interval); Wilson, "Probable inference", JASA 22, 1927.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError
from unimo.metrics.checks import labels_of, numbers_of

RESAMPLES = 1000
LEVEL = 0.95
_BLOCK = 4_000_000  # draws held in memory at once

Groups = ArrayLike | None  # (n,) labels of items that are resampled together; None: each item on its own
Sums = NDArray[np.float64]
Combine = Callable[[Sums], Sums]  # (R, S) totals of R resamples -> (R,) scores


@dataclass(frozen=True)
class Parts:
    """Sums (G, S) over each group of items, sorted by the group's label, and what makes a score of their totals."""

    sums: Sums
    combine: Combine


@dataclass(frozen=True)
class Score:
    """A number, its 95 % interval [low, high], how many items it rests on, and what guessing would get.

    parts: of a score that is a function of sums, to compare it with another over the same items; not in reports.
    """

    value: float
    low: float
    high: float
    n: int
    chance: float | None = None
    parts: Parts | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, float | int | None]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "chance": self.chance}


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Interval of a fraction of `n` independent yes/no items; has a width at 0 % and 100 % too."""
    if n < 1 or not 0 <= successes <= n:
        raise DataError("a fraction needs items", got=f"{successes} of {n}", expected="0 <= successes <= n, n >= 1")
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    fraction, spread = successes / n, z * z / n
    center = (fraction + spread / 2) / (1 + spread)
    half = math.sqrt(fraction * (1 - fraction) * spread + spread * spread / 4) / (1 + spread)
    return (0.0 if successes == 0 else center - half), (1.0 if successes == n else center + half)


def draws(units: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Iterator[NDArray[np.int64]]:
    """Blocks (b, units) of how often each unit was drawn; a row is one resample, so it sums to `units`."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // units)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        chosen = rng.integers(units, size=(rows, units))
        flat = (chosen + np.arange(rows)[:, None] * units).ravel()
        yield np.bincount(flat, minlength=rows * units).reshape(rows, units)


def percentiles(scores: Sums) -> tuple[float, float]:
    """The middle 95 % of resampled scores (R,), undefined ones (NaN) left out; (NaN, NaN) where none is left."""
    scores = scores[~np.isnan(scores)]
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(scores) else (math.nan, math.nan)
    return float(low), float(high)


def group_numbers(groups: Groups, n: int) -> NDArray[np.int64]:
    """Group labels (n,) as numbers 0..g-1 in sorted order; without groups each item is its own."""
    if groups is None:
        return np.arange(n)
    labels = labels_of(groups, "groups")
    if labels.shape != (n,):
        raise DataError("one group label per item", got=labels.shape, expected=(n,))
    return np.unique(labels, return_inverse=True)[1].reshape(n)


def group_sums(per_item: Sums, groups: Groups) -> Sums:
    """(n, S) -> (G, S)."""
    number = group_numbers(groups, len(per_item))
    sums = np.zeros((number.max() + 1, per_item.shape[1]))
    np.add.at(sums, number, per_item)
    return sums


def sums_score(
    per_item: Sums, combine: Combine, *, groups: Groups = None, chance: float | None = None, seed: int = 0
) -> Score:
    """Score that is a function of sums over items: per_item (n, S), resampled by group.

    The value is the same to the last digit in any order of items; the interval, being drawn, is not.
    """
    if not len(per_item):
        do = "check the split's name and filters"
        raise DataError("nothing to score", got="0 items", expected="at least one", do=do)
    sums = group_sums(per_item, groups)
    exact = np.array([[math.fsum(column) for column in per_item.T]])
    resampled = np.concatenate([combine(counts @ sums) for counts in draws(len(sums), seed=seed)])
    return Score(float(combine(exact)[0]), *percentiles(resampled), len(per_item), chance, Parts(sums, combine))


def mean_score(values: ArrayLike, *, groups: Groups = None, chance: float | None = None, seed: int = 0) -> Score:
    """Mean of values (n,) with its bootstrap interval."""
    values = numbers_of(values, "value")
    if values.ndim != 1:
        raise DataError("one value for each item", got=values.shape, expected="(n,), one-dimensional")
    return sums_score(with_counts(values), mean_of_sums, groups=groups, chance=chance, seed=seed)


def fraction_score(hits: ArrayLike, *, groups: Groups = None, chance: float | None = None, seed: int = 0) -> Score:
    """Mean of hits (n,) in 0..1.

    Where every item hits, or none, all resamples are alike and a bootstrap would claim certainty: Wilson's interval
    over the groups stands in.
    """
    score = mean_score(hits, groups=groups, chance=chance, seed=seed)
    if score.value not in (0.0, 1.0):
        return score
    units = len(score.parts.sums) if score.parts else score.n
    low, high = wilson(score.value * units, units)
    return replace(score, low=low, high=high)


def perplexity_score(
    log_probabilities: ArrayLike, *, groups: Groups = None, chance: float | None = None, seed: int = 0
) -> Score:
    """exp of minus the mean of log-probabilities (n,), with its bootstrap interval."""
    values = -numbers_of(log_probabilities, "log-probability")
    if np.isposinf(values).any():  # a word outside the vocabulary is impossible
        return Score(math.inf, math.nan, math.nan, len(values), chance)
    return sums_score(with_counts(values), perplexity_of_sums, groups=groups, chance=chance, seed=seed)


def mean_of_scores(scores: Sequence[Score], *, seed: int = 0) -> Score:
    """Mean of means over the same groups of items, with an interval that resamples them together."""
    sums = np.concatenate([score.parts.sums for score in scores if score.parts], axis=1)
    chances = [score.chance for score in scores if score.chance is not None]
    chance = math.fsum(chances) / len(chances) if len(chances) == len(scores) else None
    score = sums_score(sums, mean_of_sums, chance=chance, seed=seed)
    return replace(score, n=max(score.n for score in scores))


def with_counts(values: Sums) -> Sums:
    """(n,) -> (n, 2): what each item adds to a mean."""
    return np.stack([values, np.ones_like(values)], axis=1)


def mean_of_sums(totals: Sums) -> Sums:
    """(R, 2 k) sums and counts of k means, side by side -> (R,) the mean of these means."""
    return (totals[:, 0::2] / totals[:, 1::2]).mean(axis=1)


def perplexity_of_sums(totals: Sums) -> Sums:
    """(R, 2) sums of negative log-probabilities and counts -> (R,)."""
    return np.exp(mean_of_sums(totals))
