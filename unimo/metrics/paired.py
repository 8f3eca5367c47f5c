"""Is one system better than another on the same items? Paired bootstrap and randomisation tests.

Legend: n items · S sums each adds to a score · G groups of items that belong together (captions of an image, turns of
a story): a group is drawn, or swapped between the systems, as one.

Works on the `*_each` values of any metric (n,), and on scores that are no mean, such as corpus BLEU, by their sums
(n, S) and the function that makes a score of them. Both tests are two-sided. With fewer than about twenty groups trust
neither interval nor bootstrap; randomisation stays exact.

Sources: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 16 (the difference is shifted to zero);
Koehn, EMNLP 2004; Berg-Kirkpatrick et al., EMNLP 2012. Randomisation: Noreen, "Computer-Intensive Methods for Testing
Hypotheses", 1989. Checked against scipy in `tests/metrics/test_paired.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError
from unimo.metrics.checks import finite_numbers
from unimo.metrics.intervals import LEVEL, RESAMPLES, Score, draws, group_numbers

__all__ = ["Comparison", "paired_bootstrap", "paired_randomisation"]

Sums = NDArray[np.float64]
Combine = Callable[[Sums], Sums]

SWAPS = 9999  # random exchanges where all of them are too many
_BLOCK = 4_000_000  # exchanges held in memory at once
_ROUNDING = 1e-12  # differences closer than this share of the scores are the same difference


@dataclass(frozen=True)
class Comparison:
    """difference: first minus second, its 95 % interval by the paired bootstrap. p_value: of no difference, two-sided.

    test: how p came about. It is never 0: with R draws the smallest is 1 / (R + 1).
    """

    first: float
    second: float
    difference: Score
    p_value: float
    test: str

    def to_dict(self) -> dict[str, object]:
        return {**vars(self), "difference": self.difference.to_dict()}


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    combine: Combine | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Both systems on the same resamples of items; p: how often chance alone moves the difference as far as it is.

    first, second: (n,) values, compared by their means, or (n, S) sums with combine: (R, S) totals -> (R,) scores.
    Raises DataError for shapes that do not fit, NumericsError where a value is not finite.
    """
    own, other, combine = _grouped(first, second, groups, combine)
    value, limit = _observed(own, other, combine)
    moved = _bootstrapped(own, other, combine, seed, resamples)
    far = np.abs(moved - value) >= limit
    p_value = (1 + int(far.sum())) / (1 + len(moved))
    return _comparison(own, other, combine, moved, p_value, f"bootstrap, {resamples} resamples", len(np.asarray(first)))


def paired_randomisation(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    combine: Combine | None = None,
    seed: int = 0,
    swaps: int = SWAPS,
) -> Comparison:
    """Answers exchanged between the systems item by item (group by group), as if their names meant nothing.

    p: share of exchanges that part the systems at least as far as they are. All 2^G are tried where these are no more
    than swaps + 1, else `swaps` random ones. Arguments and errors as in `paired_bootstrap`.
    """
    own, other, combine = _grouped(first, second, groups, combine)
    _, limit = _observed(own, other, combine)
    every = 2 ** len(own) <= swaps + 1
    far = tried = 0
    for exchanged in _all_exchanges(len(own)) if every else _exchanges(len(own), seed, swaps):
        given = exchanged @ (other - own)
        apart = combine(own.sum(0) + given) - combine(other.sum(0) - given)
        far += int((np.abs(apart) >= limit).sum())
        tried += len(apart)
    p_value = far / tried if every else (1 + far) / (1 + tried)
    moved = _bootstrapped(own, other, combine, seed, RESAMPLES)
    test = f"randomisation, {'all ' if every else ''}{tried} exchanges"
    return _comparison(own, other, combine, moved, p_value, test, len(np.asarray(first)))


def _grouped(
    first: ArrayLike, second: ArrayLike, groups: ArrayLike | None, combine: Combine | None
) -> tuple[Sums, Sums, Combine]:
    """Sums of each group (G, S) of both systems, and the function that makes scores of them."""
    systems = [finite_numbers(first, "score", "first system"), finite_numbers(second, "score", "second system")]
    expected = 1 if combine is None else 2
    if systems[0].shape != systems[1].shape or systems[0].ndim != expected or not systems[0].size:
        raise DataError(
            "two systems are compared on the same items",
            got=f"{systems[0].shape} and {systems[1].shape}",
            expected="(n,) values each, n >= 1" if combine is None else "(n, S) sums each, n >= 1",
        )
    if combine is None:
        systems = [np.stack([values, np.ones_like(values)], axis=1) for values in systems]
    number = group_numbers(groups, len(systems[0]))
    own, other = (np.zeros((number.max() + 1, values.shape[1])) for values in systems)
    np.add.at(own, number, systems[0])
    np.add.at(other, number, systems[1])
    return own, other, combine or _mean


def _mean(totals: Sums) -> Sums:
    return totals[:, 0] / totals[:, 1]


def _observed(own: Sums, other: Sums, combine: Combine) -> tuple[float, float]:
    """The difference, and from which size on another one counts as no smaller."""
    first, second = (float(combine(system.sum(0, keepdims=True))[0]) for system in (own, other))
    return first - second, abs(first - second) - _ROUNDING * max(abs(first), abs(second))


def _bootstrapped(own: Sums, other: Sums, combine: Combine, seed: int, resamples: int) -> Sums:
    """Differences (R,) on resamples of groups, those left out where a score is undefined (NaN)."""
    moved = np.concatenate(
        [combine(counts @ own) - combine(counts @ other) for counts in draws(len(own), seed=seed, resamples=resamples)]
    )
    return moved[~np.isnan(moved)]


def _all_exchanges(units: int) -> Iterator[NDArray[np.float64]]:
    """Every choice of units (2^units, units): 1 where the systems' answers are exchanged."""
    yield (np.arange(2**units)[:, None] >> np.arange(units) & 1).astype(np.float64)


def _exchanges(units: int, seed: int, swaps: int) -> Iterator[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // units)
    for start in range(0, swaps, block):
        yield rng.integers(2, size=(min(block, swaps - start), units)).astype(np.float64)


def _comparison(
    own: Sums, other: Sums, combine: Combine, moved: Sums, p_value: float, test: str, items: int
) -> Comparison:
    first, second = (float(combine(system.sum(0, keepdims=True))[0]) for system in (own, other))
    low, high = np.quantile(moved, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(moved) else (np.nan, np.nan)
    difference = Score(first - second, float(low), float(high), items, chance=0.0)
    return Comparison(first, second, difference, p_value, test)
