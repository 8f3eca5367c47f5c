"""How work grows with its input, in CPU time against itself: no matter how fast or how busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def growth(work: Callable[[Any], object], small: Any, large: Any, tries: int = 3) -> float:
    """How many times the CPU time of work(large) is that of work(small), each the best of `tries`.

    For inputs ten times as long 10 is linear and 100 quadratic; caches and neighbours may double either.
    """
    return _best(work, large, tries) / _best(work, small, tries)


def _best(work: Callable[[Any], object], given: Any, tries: int) -> float:
    times = []
    for _ in range(tries):
        began = time.thread_time()
        work(given)
        times.append(time.thread_time() - began)
    return max(min(times), 1e-6)
