"""Several ways to the same end, timed in turns; and one and its peers as rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

Runs = Mapping[str, Callable[[], object]]
Seconds = dict[str, list[float]]  # name of a run -> seconds of every round


def in_turns(runs: Runs, rounds: int) -> Seconds:
    """Seconds of every run in every round, in the given order and the reverse by turns; the first only warms up.

    On one thread seconds of the processor, else those that pass.
    """
    seconds: Seconds = {name: [] for name in runs}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter  # what others take counts not
    for i in range(1 + rounds):
        for name in runs if i % 2 == 0 else reversed(list(runs)):
            began = clock()
            runs[name]()
            if i:
                seconds[name].append(clock() - began)
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


def compared(what: str, runs: Runs, rounds: int, **facts: Any) -> Iterator[dict[str, Any]]:
    """A row for each run after the first: how many times faster the first is. facts: beside it in every row."""
    seconds = in_turns(runs, rounds)
    ours, *others = seconds
    for other in others:
        yield {
            "what": what,
            "against": other,
            **speed_up(seconds[other], seconds[ours]),
            f"milliseconds, {ours}": milliseconds(seconds[ours]),
            f"milliseconds, {other}": milliseconds(seconds[other]),
            **facts,
        }
