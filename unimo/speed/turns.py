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


def measured(values: Sequence[float], digits: int) -> dict[str, float]:
    """The median of n rounds, the lowest and the highest."""
    ends = {"value": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, digits) for name, value in ends.items()} | {"n": len(values)}


def speed_up(slow: Sequence[float], fast: Sequence[float], digits: int = 2) -> dict[str, float]:
    """How many times faster."""
    return measured([a / b for a, b in zip(slow, fast)], digits)


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return measured([1000 * each for each in seconds], 2)


def speed_ratios(
    what: str, runs: Runs, rounds: int, *, bound: str | None = None, **facts: Any
) -> Iterator[dict[str, Any]]:
    """A row for each run after the first: how many times faster the first is, and the `bound`, a run that it cannot
    outrun. facts: beside it in every row."""
    seconds = in_turns(runs, rounds)
    ours, *others = seconds
    for other in others:
        yield {
            "what": what,
            "against": other,
            "speed-up": speed_up(seconds[other], seconds[ours]),
            **({f"speed-up, {bound}": speed_up(seconds[other], seconds[bound])} if bound not in (None, other) else {}),
            f"milliseconds, {ours}": milliseconds(seconds[ours]),
            f"milliseconds, {other}": milliseconds(seconds[other]),
            **facts,
        }
