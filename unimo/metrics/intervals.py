"""How sure a score is: percentile bootstrap over the right unit, Wilson's interval for plain shares.

Items that share an image (its five captions, the questions asked about it) are not independent, so whole
*groups* are drawn, never their items one by one. Every score here is a function of sums over items; a
resample is then a row of draw counts times a matrix of per-group sums, which makes 1,000 resamples of 5,000
items a fraction of a second.

Sources: Efron, "Bootstrap methods", 1979 (percentile interval); Wilson, "Probable inference", JASA 22, 1927.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError
from unimo.metrics.checks import labels_of, numbers_of

__all__ = [
    "Parts",
    "Score",
    "bootstrap",
    "draws",
    "group_numbers",
    "mean_score",
    "share_score",
    "sums_score",
    "wilson",
]

RESAMPLES = 1000
LEVEL = 0.95
_BLOCK = 4_000_000  # draws held in memory at once


@dataclass(frozen=True)
class Parts:
    """What a score was made of, to compare it with another one over the same items.

    sums: (G, S) of each group of items, groups in the order of their names. combine: (R, S) totals -> (R,) scores.
    """

    sums: NDArray[np.float64]
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Score:
    """A number, its 95 % interval [low, high], how many items it rests on, and what guessing would get.

    parts: of a score that is a function of sums; not written into reports.
    """

    value: float
    low: float
    high: float
    n: int
    chance: float | None = None
    parts: Parts | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, float | int | None]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "chance": self.chance}


def wilson(successes: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a share of `n` independent yes/no items; has a width at 0 % and 100 % too."""
    if n < 1 or not 0 <= successes <= n:
        raise DataError("a share needs items", got=f"{successes} of {n}", expected="0 <= successes <= n, n >= 1")
    if not 0 < level < 1:
        raise DataError("a level is a share", where="level", got=level, expected="more than 0 and less than 1")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def draws(units: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Iterator[NDArray[np.int64]]:
    """Blocks (b, units) of how often each unit was drawn; a row is one resample, so it sums to `units`."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // units)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        chosen = rng.integers(units, size=(rows, units))
        flat = (chosen + np.arange(rows)[:, None] * units).ravel()
        yield np.bincount(flat, minlength=rows * units).reshape(rows, units)


def bootstrap(
    sums: NDArray[np.float64],
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Percentile interval of `combine(sum over units)`.

    sums: (units, S), what each unit adds. combine: (R, S) totals of R resamples -> (R,) scores. A resample
    whose score is undefined (NaN) is left out; with none left the interval is (NaN, NaN).
    """
    scores = np.concatenate([combine(counts @ sums) for counts in draws(len(sums), seed=seed, resamples=resamples)])
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return math.nan, math.nan
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def group_numbers(groups: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """Any hashable group labels (n,) as numbers 0..g-1; without groups each item is its own."""
    if groups is None:
        return np.arange(n)
    labels = labels_of(groups, "groups")
    if labels.shape != (n,):
        raise DataError("one group label per item", got=labels.shape, expected=(n,))
    return np.unique(labels, return_inverse=True)[1].reshape(n)


def sums_score(
    per_item: NDArray[np.float64],
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    groups: ArrayLike | None = None,
    chance: float | None = None,
    seed: int = 0,
) -> Score:
    """Score that is a function of sums: per_item (n, S), combine (R, S) -> (R,); resampled by group.

    The value is the same to the last digit in any order of items; the interval, being drawn, is not.
    """
    n = len(per_item)
    if n == 0:
        raise DataError(
            "nothing to score",
            got="0 items",
            expected="at least one",
            do="check the split's name and filters",
        )
    number = group_numbers(groups, n)
    sums = np.zeros((number.max() + 1, per_item.shape[1]))
    np.add.at(sums, number, per_item)
    exact = np.array([[math.fsum(column) for column in per_item.T]])
    value = float(combine(exact)[0])
    low, high = bootstrap(sums, combine, seed=seed)
    return Score(value, low, high, n, chance, Parts(sums, combine))


def mean_score(
    values: ArrayLike, *, groups: ArrayLike | None = None, chance: float | None = None, seed: int = 0
) -> Score:
    """Mean of values (n,) with its bootstrap interval."""
    values = numbers_of(values, "value")
    if values.ndim != 1:
        raise DataError("one value for each item", got=values.shape, expected="(n,), one-dimensional")
    per_item = np.stack([values, np.ones_like(values)], axis=1)
    return sums_score(per_item, _ratio, groups=groups, chance=chance, seed=seed)


def share_score(
    hits: ArrayLike, *, groups: ArrayLike | None = None, chance: float | None = None, seed: int = 0
) -> Score:
    """Mean of hits (n,) in 0..1.

    Where every item hits, or none, all resamples are alike and a bootstrap would claim certainty: Wilson's
    interval over the groups stands in.
    """
    score = mean_score(hits, groups=groups, chance=chance, seed=seed)
    if score.value not in (0.0, 1.0):
        return score
    units = int(group_numbers(groups, score.n).max()) + 1
    low, high = wilson(score.value * units, units)
    return replace(score, low=low, high=high)


def _ratio(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return totals[:, 0] / totals[:, 1]
