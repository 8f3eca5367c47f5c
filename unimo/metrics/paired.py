"""Paired bootstrap test: is one system better than another on the same items?

Works on the `*_each` values of any metric (n,), and on scores that are no mean, such as corpus BLEU, by their sums
(n, S) and the function that makes a score of them. Groups of items that belong together (captions of an image, turns
of a story) are drawn as one. Two-sided. With fewer than about twenty groups trust neither interval nor p-value;
`scipy.stats.permutation_test` is exact there.

Sources: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 16 (the difference is shifted to zero);
Koehn, EMNLP 2004; Berg-Kirkpatrick et al., EMNLP 2012; Holm, "A simple sequentially rejective multiple test procedure",
1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from unimo.errors import DataError
from unimo.metrics.checks import finite_numbers
from unimo.metrics.intervals import (
    RESAMPLES,
    Combine,
    Groups,
    Score,
    draws,
    group_sums,
    mean_of_sums,
    percentiles,
    with_counts,
)

_ROUNDING = 1e-12  # differences closer than this fraction of the scores are the same difference


@dataclass(frozen=True)
class Comparison:
    """difference: first minus second with its 95 % interval. p_value: of no difference, two-sided, never 0."""

    first: float
    second: float
    difference: Score
    p_value: float


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: Groups = None,
    combine: Combine | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Both systems on the same resamples of items; p: how often chance alone moves the difference as far as it is.

    first, second: (n,) values, compared by their means, or (n, S) sums with combine: (R, S) totals -> (R,) scores.
    Raises DataError for shapes that do not fit, NumericsError where a value is not finite.
    """
    systems = [finite_numbers(first, "score", "first system"), finite_numbers(second, "score", "second system")]
    shapes = [system.shape for system in systems]
    if shapes[0] != shapes[1] or len(shapes[0]) != (1 if combine is None else 2) or not systems[0].size:
        expected = "(n,) values each, n >= 1" if combine is None else "(n, S) sums each, n >= 1"
        raise DataError("two systems are compared on the same items", got=shapes, expected=expected)
    if combine is None:
        systems, combine = [with_counts(values) for values in systems], mean_of_sums
    own, other = (group_sums(values, groups) for values in systems)
    one, two = (float(combine(sums.sum(0, keepdims=True))[0]) for sums in (own, other))
    apart = one - two
    moved = np.concatenate(
        [combine(counts @ own) - combine(counts @ other) for counts in draws(len(own), seed=seed, resamples=resamples)]
    )
    moved = moved[~np.isnan(moved)]
    far = np.abs(moved - apart) >= abs(apart) - _ROUNDING * max(abs(one), abs(two))
    difference = Score(apart, *percentiles(moved), len(systems[0]), chance=0.0)
    return Comparison(one, two, difference, (1 + int(far.sum())) / (1 + len(moved)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests -> the same, corrected so that one is below a level by chance no oftener than that."""
    n, largest = len(p_values), 0.0
    corrected = [0.0] * n
    for rank, i in enumerate(sorted(range(n), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (n - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
