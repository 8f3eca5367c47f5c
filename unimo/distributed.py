"""One process or many: the few collective steps everyone shares. Started with torchrun, absent otherwise.

When one process ends, the others find their connections closed and cannot go on. Which one it was they learn from the
words that it left in the group's store, or, when it was killed, from the process table of their machine.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unimo.errors import ResourceError, UnimoError

_patient: dist.ProcessGroup | None = None  # for steps in which the others wait while one works, maybe for hours
_members: list[tuple[str, int]] = []  # (host, process) of every rank


def start() -> tuple[int, int]:
    """Joins the group torchrun announces, if any; returns (rank, world size)."""
    global _patient, _members
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group(backend, timeout=timedelta(minutes=10))
    if _patient is None:
        _patient = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        # Nobody goes on, and perhaps fails, before all have joined.
        _members = everyone((socket.gethostname(), os.getpid()))
    return rank(), world()


def stop() -> None:
    global _patient, _members
    _patient, _members = None, []
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks, equally many of each, in rank order; gradients flow back to their owner."""
    return x if world() == 1 else _Gather.apply(x)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # Every rank's loss may depend on our rows: the sum of what they all have to say about them.
        return total(gradient).chunk(world())[rank()]


def total(x: Tensor) -> Tensor:
    """Sum over ranks, without gradient."""
    x = x.detach().clone()
    if world() > 1:
        dist.all_reduce(x)
    return x


def mean(*values: float) -> list[float]:
    """The mean over ranks of each number, the same to the last bit on all of them."""
    if world() == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(summed, group=_patient)  # over the host: a GPU would have to be waited for
    return (summed / world()).tolist()


def everyone(value: Any) -> list[Any]:
    """The small Python values of all ranks, in rank order. Waits as long as it takes."""
    values = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value, group=_patient)
    return values


@contextlib.contextmanager
def collective_errors() -> Iterator[None]:
    """A block that all ranks leave together: when it fails on one, its error is raised on every one.

    For work done by one rank while the others wait (`if rank() == 0: ...`), of any length. An error that is
    not a UnimoError reaches the others as a ResourceError that names it.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as fault:
        error = fault
    shared = error if error is None or isinstance(error, UnimoError) else _unlocated(error)
    errors = everyone(shared)
    if error is not None:
        raise error
    for number, other in enumerate(errors):
        if other is not None:
            other.rank = number
            raise other


def _unlocated(error: Exception) -> ResourceError:
    got, do = f"{type(error).__name__}: {error}", "see that process's own message"
    return ResourceError("another process of the run failed", where=f"rank {rank()}", got=got, do=do)


def leave_word(error: BaseException) -> None:
    """Tells those who will find this process gone why; for errors outside `collective_errors`."""
    if world() > 1:
        words = error.one_line() if isinstance(error, UnimoError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(Exception):  # the store may have gone with the process that kept it
            dist.distributed_c10d._get_default_store().set(f"unimo/ended/{rank()}", words[:1000])


def who_ended(patience: float = 5.0) -> str | None:
    """After a collective step failed: which ranks ended, with their words; None when nobody can tell.

    patience: seconds to wait until a process whose connection has closed counts as ended; mostly it has already.
    """
    others = [number for number in range(world()) if number != rank()]
    until = time.monotonic() + patience
    while others:
        ended = {number: words for number in others if (words := _words_of(number)) is not None}
        if ended or time.monotonic() > until:
            return "; ".join(f"rank {number}: {words}" for number, words in ended.items()) or None
        time.sleep(0.02)
    return None


def _words_of(number: int) -> str | None:
    """What a rank said when it ended, or that it is gone; None of one that is still there, or on another machine."""
    with contextlib.suppress(Exception):
        store, key = dist.distributed_c10d._get_default_store(), f"unimo/ended/{number}"
        if store.check([key]):
            return store.get(key).decode("utf-8", "replace")
    host, process = _members[number] if _members else ("", 0)
    if host == socket.gethostname() and _is_gone(process):
        return "its process is gone: killed, or for a reason that it told itself"
    return None


def _is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
        stat = Path(f"/proc/{process}/stat").read_bytes()
        return stat.rpartition(b") ")[2][:1] in (b"Z", b"X")  # dead, and its parent has not looked yet
    except ProcessLookupError:
        return True
    except OSError:
        return False
