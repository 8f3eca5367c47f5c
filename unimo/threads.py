"""Threads of numerical libraries, chosen before they start: as many as this process may use, and waiting passively.

torch, MKL and OpenBLAS read the environment once, when they are loaded, and start a thread for every core of the
machine, whatever a container or `taskset` leaves of it. Between two operations these threads spin; on a busy machine
the spinning takes the time of a thread that has work. Imports no library, so that it can come first.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
# How OpenMP's threads wait, in GNU's and in LLVM's library.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def set_up(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what the user has not set."""
    environment.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    for name, value in PASSIVE.items():
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
