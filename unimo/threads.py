"""Threads of numerical libraries, chosen before they start: as many as this process may use, soon asleep when idle.

torch, MKL and OpenBLAS read the environment once, when they are loaded, and start a thread for every core of the
machine, whatever a container or `taskset` leaves of it. Between two operations these threads spin; on a busy machine
the spinning takes the time of a thread that has work. Asleep at once they must be woken for each of the thousands of
small operations of a step: then a second thread brings nothing. So they spin a little longer than most of a step's
gaps (results/speed-spinning.json). Imports no library, so that it can come first.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
# How OpenMP's threads wait. GNU's library spins so many times, some 0.1 ms; LLVM's counts in whole milliseconds.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "0"}


def set_up(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what the user has not set."""
    environment.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    for name, value in WAITING.items():
        environment.setdefault(name, value)


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores that the affinity mask and the container's quota leave to this process, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(_quota(cgroup) or cores)))


def describe(threads: int) -> str:
    """Such as "2 threads, waiting passively"."""
    passive = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    return f"{threads} thread{'s' * (threads != 1)}" + ", waiting passively" * (passive and threads > 1)


def _quota(cgroup: Path) -> float | None:
    """CPU time per time that the control group may use; None where nothing limits it."""
    try:
        if (cgroup / "cpu.max").is_file():  # version 2
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):  # "max" is no number
        return None
