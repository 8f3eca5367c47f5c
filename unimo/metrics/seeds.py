"""One score from several seeds of a run on the same items: the mean, and an interval that holds both kinds of chance.

Which items a split holds moves every seed alike, so averaging over seeds does not shrink that part of the interval; the
seeds' own spread shrinks with their number, by Student's t. Both add as variances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from unimo.metrics.intervals import LEVEL


def over_seeds(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of one metric, one of each seed (value, low, high, ...) -> one score, with every value in "seeds".

    A single score comes back as it is. Seeds with an undefined value make the whole undefined.
    """
    from scipy.stats import t  # takes a second to import: only where it is used

    if len(scores) == 1:
        return dict(scores[0])
    values = [score["value"] for score in scores]
    whole = {**scores[0], "seeds": values}
    if any(value is None for value in values):
        return {**whole, "value": None, "low": None, "high": None}
    center = mean(values)
    between = float(t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    below = mean(score["value"] - score["low"] for score in scores)
    above = mean(score["high"] - score["value"] for score in scores)
    low, high = center - math.hypot(below, between), center + math.hypot(above, between)
    return {**whole, "value": center, "low": low, "high": high}
