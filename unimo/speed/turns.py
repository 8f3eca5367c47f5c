"""Several ways to the same end, timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Runs = Mapping[str, Callable[[], object]]
Seconds = dict[str, list[float]]  # name of a run -> seconds of every round


def in_turns(runs: Runs, rounds: int) -> Seconds:
    """Seconds of every run in every round, in the given order and the reverse by turns; the first only warms up."""
    seconds: Seconds = {name: [] for name in runs}
    for i in range(1 + rounds):
        for name in runs if i % 2 == 0 else reversed(list(runs)):
            began = time.perf_counter()
            runs[name]()
            if i:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def speed_up(slow: Sequence[float], fast: Sequence[float], digits: int = 2) -> dict[str, Any]:
    """How many times faster: the median of the rounds, lowest and highest as `spread`."""
    ratios = [a / b for a, b in zip(slow, fast)]
    return {
        "speed-up": round(statistics.median(ratios), digits),
        "spread": [round(min(ratios), digits), round(max(ratios), digits)],
    }


def milliseconds(seconds: Sequence[float]) -> float:
    """The median."""
    return round(1000 * statistics.median(seconds), 1)
