"""Better, worse, or no difference: what two scores with intervals say of each other.

Two 95 % intervals that do not touch belong to different scores (p below 0.006 for independent ones of equal width);
where they overlap, nothing is claimed. Over the same items a paired test sees more: `unimo.metrics.paired`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from unimo.metrics.intervals import Score
from unimo.metrics.paired import Comparison

__all__ = ["SMALLER_IS_BETTER", "Verdict", "is_smaller_better", "paired_verdict", "verdict"]

Verdict = Literal["better", "worse", "no difference", "unknown"]

SMALLER_IS_BETTER = ("squared_error", "mean rank", "loss", "dead entries")  # beginnings of the names of such metrics
SIGNIFICANT = 0.05  # p of a paired test below which a difference is believed


def is_smaller_better(metric: str) -> bool:
    """Whether a smaller value of a metric, by its name in a report, is the better one."""
    return metric.lower().replace("_", " ").startswith(tuple(name.replace("_", " ") for name in SMALLER_IS_BETTER))


def verdict(
    first: Score | Mapping[str, Any] | float | None,
    second: Score | Mapping[str, Any] | float | None,
    *,
    smaller_is_better: bool = False,
) -> Verdict:
    """What the first score is, seen from the second: better or worse where their intervals lie apart.

    A score is a `Score`, or value, low and high of a result file. "unknown" where one is missing, not finite, or has no
    interval, as a plain number has none.
    """
    own, other = _bounds(first), _bounds(second)
    if own is None or other is None:
        return "unknown"
    (low, high), (other_low, other_high) = own, other
    if low > other_high:
        return "worse" if smaller_is_better else "better"
    if high < other_low:
        return "better" if smaller_is_better else "worse"
    return "no difference"


def paired_verdict(comparison: Comparison, *, smaller_is_better: bool = False) -> Verdict:
    """What the first system of a paired comparison is: "no difference" where p is 0.05 or more."""
    difference = comparison.difference.value
    if not (math.isfinite(difference) and math.isfinite(comparison.p_value)):
        return "unknown"
    if comparison.p_value >= SIGNIFICANT or difference == 0:
        return "no difference"
    return "better" if (difference < 0) is smaller_is_better else "worse"


def _bounds(score: Score | Mapping[str, Any] | float | None) -> tuple[float, float] | None:
    """Low and high of a score, or None where nothing can be said."""
    if isinstance(score, Score):
        score = score.to_dict()
    if not isinstance(score, Mapping):
        return None
    values = [score.get(name) for name in ("value", "low", "high")]
    if not all(isinstance(each, (int, float)) and math.isfinite(each) for each in values):
        return None
    return float(score["low"]), float(score["high"])
