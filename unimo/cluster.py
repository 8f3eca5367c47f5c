"""Work on a Ray cluster (extra `ray`): what `map` does in one process, done by tasks on one machine or many.

Plain tasks, not Ray Data: results come in order, no more of them wait than the workers can soon fill, and where
workers are lost the piece of work is named.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from unimo.errors import ResourceError, UsageError
from unimo.extras import optional
from unimo.threads import usable_cores

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # `map`, or what `on_ray` gives

RETRIES = 3  # by Ray, of a piece of work whose worker was lost
# A Ray of our own listens on loopback alone only by this switch, which is read when ray is imported.
_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


def on_ray(address: str | None, **settings: Any) -> Map:
    """`map` by the workers of a Ray cluster; without an address, `map` itself.

    address: local (a Ray that ends with this process), or auto or HOST:PORT of a running one, whose machines must have
    this package, and see all paths as this one does. settings: further ones of `ray.init`. Raises UsageError without
    ray, ResourceError where the cluster cannot be reached.
    """
    if address is None:
        return map
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # of workers that ray itself ends; else for ever
    if address == "local":
        os.environ.update(_LOCAL)
        settings = {"num_cpus": usable_cores(), "include_dashboard": False, "_node_ip_address": "127.0.0.1", **settings}
    ray = optional("ray", "a cluster", 'pip install "unimo[ray]", or leave --ray out', where="--ray")
    if not ray.is_initialized():
        host, colon, port = address.rpartition(":")
        try:
            if colon:
                socket.create_connection((host, int(port)), timeout=10).close()  # ray itself asks for many minutes
            ray.init(address, logging_level="error", **settings)
        except Exception as fault:  # of any kind; a plain one where it has not started in 30 seconds
            what, expected = "cannot start or reach a Ray cluster", "local, auto or HOST:PORT of a running one"
            do = "ask `ray status` on its head; or leave --ray out"
            raise ResourceError(what, where=f"--ray {address}", got=fault, expected=expected, do=do) from fault
    return _Tasks(ray)


class _Tasks:
    """`map` by tasks. A piece of work that cannot be finished is named by `work.where(piece)`, or by its path."""

    def __init__(self, ray: Any):
        self.ray = ray
        self.work: Any = None
        self.held: Any = None

    def __call__(self, work: Callable[[Any], Any], pieces: Iterable[Any]) -> Iterator[Any]:
        held = self._sent(work)
        # Models that lie on a GPU here want one there; a worker with a GPU is not started anew for each piece.
        gpus = int("torch" in sys.modules and sys.modules["torch"].cuda.is_initialized())
        task = self.ray.remote(num_gpus=gpus, max_calls=0, max_retries=RETRIES)(_do)
        ahead = 2 * int(self.ray.cluster_resources().get("CPU", 1))
        waiting: deque[tuple[Any, Any]] = deque()
        try:
            for piece in pieces:
                waiting.append((piece, task.remote([held], piece)))
                if len(waiting) > ahead:
                    yield self._result(work, *waiting.popleft())
            while waiting:
                yield self._result(work, *waiting.popleft())
        finally:
            for _, reference in waiting:
                self.ray.cancel(reference)

    def _sent(self, work: Callable[[Any], Any]) -> Any:
        """Once, for as many calls as follow each other."""
        if work is not self.work:
            try:
                self.work, self.held = work, self.ray.put(work)
            except TypeError as fault:  # an open file of HDF5 or LMDB
                do = "leave --ray out: files of features are read as fast as the disk can"
                raise UsageError("this cannot be sent to workers", where="--ray", got=fault, do=do) from fault
        return self.held

    def _result(self, work: Any, piece: Any, reference: Any) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as fault:
            cause = getattr(fault, "cause", fault)
            if not isinstance(cause, self.ray.exceptions.RayError):
                raise cause from fault  # as the work raised it
            where = work.where(piece) if hasattr(work, "where") else getattr(piece, "path", piece)
            what, expected = "workers of the cluster are lost at this work", f"one of {1 + RETRIES} tries to end"
            do = "look for the system's out-of-memory killer and at `ray status`; then run the same command again"
            raise ResourceError(what, where=where, got=cause, expected=expected, do=do) from fault


def _do(held: list, piece: Any) -> Any:
    done = _work(held[0])(piece)
    return list(done) if isinstance(done, Iterator) else done


@lru_cache(1)
def _work(reference: Any) -> Callable[[Any], Any]:
    """What this worker was sent last, which may hold a model."""
    import ray

    return ray.get(reference)
