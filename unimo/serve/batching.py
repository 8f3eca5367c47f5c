"""Dynamic batching: requests that arrive within a few milliseconds become one forward pass.

One thread owns the model, so nothing in it need be safe for several. A job is a few rows of one kind; jobs with equal
keys are joined up to `max_batch` rows, in order of arrival. The first job of a pass waits at most `wait` seconds for
company. Behind a pass that several shared it waits an eighth of that pass, if this is longer: whoever was answered may
come again, and would else fall into the other half of the clients, one half waiting while the other is answered.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

Run = Callable[[list[Any]], Iterable[Any]]


class Busy(Exception):
    """More rows are waiting than the queue holds."""


@dataclass(eq=False)
class _Job:
    key: Hashable
    run: Run
    rows: list[Any]
    arrived: float = field(default_factory=time.monotonic)
    answer: Future[list[Any]] = field(default_factory=Future)


class Batcher:
    """A queue in front of the model and the thread that empties it.

    wait: seconds for company. max_batch: rows of a pass; a job with more is a pass of its own. max_waiting: rows in the
    queue. on_pass: called with the rows of every pass.
    """

    def __init__(
        self,
        *,
        wait: float = 0.004,
        max_batch: int = 32,
        max_waiting: int = 512,
        on_pass: Callable[[int], None] = lambda rows: None,
    ):
        self.wait, self.max_batch, self.max_waiting, self.on_pass = wait, max_batch, max_waiting, on_pass
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._shared = 0.0  # seconds of the last pass, if several shared it
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        with self._changed:
            return sum(len(job.rows) for job in self._jobs)

    async def submit(self, key: Hashable, run: Run, rows: list[Any]) -> list[Any]:
        """run(rows), perhaps with rows of other jobs of this key: one answer a row. Raises Busy, or what `run` does."""
        job = _Job(key, run, rows)
        with self._changed:
            if self._closed or sum(len(other.rows) for other in self._jobs) + len(rows) > self.max_waiting:
                raise Busy
            self._jobs.append(job)
            self._changed.notify()
        return await asyncio.wrap_future(job.answer)

    async def alone(self, run: Callable[[], Any]) -> Any:
        """run() in the model's thread, joined with nothing."""
        return (await self.submit(object(), lambda rows: [run()], [None]))[0]

    def close(self) -> None:
        """Ends the thread after the pass it is in; jobs still waiting are cancelled."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.answer.cancel()
            self._jobs.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            began = time.monotonic()
            _answer([job for job in jobs if job.answer.set_running_or_notify_cancel()], self.on_pass)
            self._shared = time.monotonic() - began if len(jobs) > 1 else 0.0

    def _next(self) -> list[_Job]:
        """The jobs of the next pass; none when closed."""
        free = time.monotonic()
        with self._changed:
            while not self._closed:
                if not self._jobs:
                    self._changed.wait()
                    continue
                first = self._jobs[0]
                jobs = self._company(first)
                until = max(first.arrived + self.wait, free + self._shared / 8 if self._shared else 0.0)
                left = until - time.monotonic()
                if left <= 0 or sum(len(job.rows) for job in jobs) >= self.max_batch:
                    for job in jobs:
                        self._jobs.remove(job)
                    return jobs
                self._changed.wait(left)
            return []

    def _company(self, first: _Job) -> list[_Job]:
        """The first job and those after it that fit into its pass."""
        jobs, rows = [first], len(first.rows)
        for job in list(self._jobs)[1:]:
            if job.key == first.key and rows + len(job.rows) <= self.max_batch:
                jobs.append(job)
                rows += len(job.rows)
        return jobs


def _answer(jobs: list[_Job], on_pass: Callable[[int], None]) -> None:
    """One pass over the rows of some jobs. If it fails, each runs alone, so that a bad one fails alone."""
    if not jobs:
        return
    rows = [row for job in jobs for row in job.rows]
    on_pass(len(rows))
    try:
        answers = list(jobs[0].run(rows))
    except Exception as error:
        if len(jobs) == 1:
            jobs[0].answer.set_exception(error)
        else:
            for job in jobs:
                _answer([job], on_pass)
        return
    for job in jobs:
        job.answer.set_result(answers[: len(job.rows)])
        answers = answers[len(job.rows) :]
