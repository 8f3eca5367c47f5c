"""One score from several seeds of a run on the same items: the mean, and an interval that holds both kinds of chance.

Which items a split holds moves every seed alike, so averaging over seeds does not shrink that part of the interval; the
seeds' own spread shrinks with their number, by Student's t. Both add as variances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

# Two-sided 95 % points of Student's t by degrees of freedom; beyond, 2 is near enough (it is 1.96 to 2.23).
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def over_seeds(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of one metric, one of each seed (value, low, high, ...) -> one score, with every value in "seeds".

    A single score comes back as it is. Seeds with an undefined value make the whole undefined.
    """
    if len(scores) == 1:
        return dict(scores[0])
    values = [score["value"] for score in scores]
    whole = {**scores[0], "seeds": values}
    if any(value is None for value in values):
        return {**whole, "value": None, "low": None, "high": None}
    center, between = mean(values), T95.get(len(values) - 1, 2.0) * stdev(values) / math.sqrt(len(values))
    below = mean(score["value"] - score["low"] for score in scores)
    above = mean(score["high"] - score["value"] for score in scores)
    low, high = center - math.hypot(below, between), center + math.hypot(above, between)
    return {**whole, "value": center, "low": low, "high": high}
