"""Loader workers: processes that make the batches of coming steps, and how batches and errors come back from them.

A batch comes through shared memory where there is room for it, else through a pipe: in containers /dev/shm often has
64 MB or less, and a process that writes beyond it is killed or, worse, loses its batch without a word.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import warnings
from collections.abc import Callable, Generator
from dataclasses import fields, is_dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol

import torch
from torch import Tensor

from unimo.batch import Batch
from unimo.errors import ResourceError, UnimoError

AHEAD = 3  # batches a worker makes before they are needed
LONGEST_WAIT = 300  # seconds for one batch
PATIENCE = 10  # seconds a batch is still waited for when the run was asked to stop
SHARED_MEMORY = "/dev/shm"
_PAGE = 4096


class Makes(Protocol):
    """Batches by step number, such as `unimo.data.loader.Stream`."""

    def batch(self, step: int) -> Batch: ...


def batches(
    stream: Makes,
    first: int,
    last: int | None,
    workers: int = 0,
    stopped: Callable[[], object] = lambda: False,
) -> Generator[Batch, None, None]:
    """Batches of steps [first, last), made ahead by `workers` processes; their number changes only the speed.

    stopped: whether the run was asked to stop; then a batch that does not come is given up and the batches end.
    Raises what `Stream.batch` raises. Close it, or exhaust it, to end the workers.
    """
    steps = range(first, last if last is not None else 1 << 62)
    if workers == 0:
        yield from map(stream.batch, steps)
        return
    made = _started(stream, steps, workers)
    processes = made._workers
    warned = False
    try:
        while (handed := _next(made, stopped)) is not None:
            if isinstance(handed, UnimoError):
                raise handed
            data, through_pipe = handed
            if through_pipe and not warned:
                warned = True
                warnings.warn(
                    f"{SHARED_MEMORY} has too little room for batches ({_room()} bytes are free): they come through "
                    "pipes, which is slower; give the machine more shared memory, or set workers=0",
                    stacklevel=2,
                )
            yield _fetched(data)
    finally:
        made._shutdown_workers()
        for process in processes:  # one that hangs in a read would keep this process from ending
            process.kill()


def _started(stream: Makes, steps: range, workers: int) -> Any:
    """What gives the batches of all workers in order."""
    options: dict[str, Any] = {"prefetch_factor": AHEAD, "worker_init_fn": _start_worker, "timeout": 1}
    try:
        source = _Steps(stream, workers)
        return iter(torch.utils.data.DataLoader(source, None, sampler=steps, num_workers=workers, **options))
    except OSError as fault:  # no process, no file or not even room for a semaphore
        raise ResourceError(
            "loader workers cannot be started",
            where=SHARED_MEMORY,
            got=f"{fault.strerror or fault}; {_room()} bytes of shared memory are free",
            expected=f"room for {workers} processes and their semaphores",
            do="give the machine more shared memory or processes, or set workers=0",
        ) from fault


def _next(made: Any, stopped: Callable[[], object]) -> Any:
    """What the next worker hands over; None behind the last batch, or where the run stops and none comes."""
    for waited in range(1, LONGEST_WAIT + 1):  # in short waits, between which signals are heard
        try:
            return next(made, None)
        except RuntimeError as fault:
            if "timed out" not in str(fault):
                raise
        if stopped() and waited >= PATIENCE:
            return None
    raise RuntimeError(f"DataLoader timed out after {LONGEST_WAIT} seconds")


def _fetched(data: bytes) -> Batch:
    try:
        return ForkingPickler.loads(data)
    except (OSError, EOFError) as fault:  # shared memory is handed over by its maker, who must live until then
        raise RuntimeError("DataLoader worker ended before a batch it had made was fetched") from fault


class _Steps(torch.utils.data.Dataset):
    def __init__(self, stream: Makes, workers: int):
        self.stream, self.workers = stream, workers

    def __getitem__(self, step: int) -> tuple[bytes, bool] | UnimoError:
        try:
            return handed_over(self.stream.batch(step), self.workers)
        except UnimoError as error:  # handed over as a value: torch would turn a raised one into a wall of text
            return error


def handed_over(batch: Batch, workers: int = 1) -> tuple[bytes, bool]:
    """A pickle of the batch, and whether it holds the tensors themselves: else they lie in shared memory.

    Made here, not by the queue's own thread, where an error would be lost together with the batch.
    """
    room = _room()
    if room is None or room > (workers + 2) * _size(batch):  # others write at the same time
        try:
            return bytes(ForkingPickler.dumps(batch)), False
        except (OSError, RuntimeError):  # someone else was quicker
            pass
    file = io.BytesIO()
    pickle.Pickler(file, pickle.HIGHEST_PROTOCOL).dump(batch)
    return file.getvalue(), True


def _room() -> int | None:
    """Free bytes of shared memory; None where nobody can tell."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):
        return None
    return status.f_bavail * status.f_frsize


def _size(value: Any) -> int:
    """Bytes of all tensors in it, in whole pages."""
    if isinstance(value, Tensor):
        return -(-value.nbytes // _PAGE) * _PAGE
    if is_dataclass(value):
        return sum(_size(getattr(value, field.name)) for field in fields(value))
    return sum(map(_size, value.values())) if isinstance(value, dict) else 0


def _start_worker(worker: int) -> None:
    """A worker computes on one thread and leaves signals to its parent, whose whole group a scheduler may signal."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
