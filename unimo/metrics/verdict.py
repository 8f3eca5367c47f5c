"""Verdict on two scores: better, worse, or no difference.

Two 95 % intervals that do not touch belong to different scores (p below 0.006 for independent ones of equal width);
where they overlap, nothing is claimed. Over the same items a paired test sees more: `unimo.metrics.paired`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from unimo.metrics.intervals import Score
from unimo.metrics.paired import Comparison

Verdict = Literal["better", "worse", "no difference", "unknown"]
AnyScore = Score | Mapping[str, Any] | float | None  # value, low and high; a plain number has no interval

SMALLER_IS_BETTER = ("squared error", "mean rank", "loss", "perplexity", "dead entries")  # how names begin
SIGNIFICANT = 0.05  # p of a paired test below which a difference is believed


def is_smaller_better(metric: str) -> bool:
    """Whether a smaller value of a metric, by its name in a report, is the better one."""
    return metric.lower().replace("_", " ").startswith(SMALLER_IS_BETTER)


def verdict(first: AnyScore, second: AnyScore, *, smaller_is_better: bool = False) -> Verdict:
    """The first score, seen from the second: better or worse where their intervals lie apart.

    "unknown" where one is missing, not finite, or has no interval.
    """
    own, other = _interval(first), _interval(second)
    if own is None or other is None:
        return "unknown"
    if own[0] <= other[1] and other[0] <= own[1]:
        return "no difference"
    return "better" if (own < other) is smaller_is_better else "worse"


def paired_verdict(comparison: Comparison, *, smaller_is_better: bool = False) -> Verdict:
    """The first system of a paired comparison: "no difference" where p is 0.05 or more."""
    difference = comparison.difference.value
    if not (math.isfinite(difference) and math.isfinite(comparison.p_value)):
        return "unknown"
    if comparison.p_value >= SIGNIFICANT or difference == 0:
        return "no difference"
    return "better" if (difference < 0) is smaller_is_better else "worse"


def _interval(score: AnyScore) -> tuple[float, float] | None:
    if isinstance(score, Score):
        score = score.to_dict()
    if not isinstance(score, Mapping):
        return None
    value, low, high = (score.get(name) for name in ("value", "low", "high"))
    if not all(isinstance(each, (int, float)) and math.isfinite(each) for each in (value, low, high)):
        return None
    return float(low), float(high)  # type: ignore[arg-type]
