"""Dynamic batching: requests that arrive within a few milliseconds become one forward pass.

All passes run in one thread, one after the other, so nothing in the model need be safe for several. A job is a few rows
of one kind; jobs with equal keys are joined up to `max_batch` rows, in order of arrival. The first job of a pass waits
at most `wait` seconds for company. Behind a pass that several shared it waits an eighth of that pass, if this is
longer: whoever was answered may come again, and would else fall into the other half of the clients, one half waiting
while the other is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

Run = Callable[[list[Any]], Iterable[Any]]


class Busy(Exception):
    """More rows are waiting than the queue holds."""


@dataclass(eq=False)
class _Job:
    key: Hashable
    run: Run
    rows: list[Any]
    answer: asyncio.Future[list[Any]]
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """A queue in front of the model, emptied by a task of the server's event loop, in which all methods are called.

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
        self._arrived, self._closed = asyncio.Event(), False
        self._shared = 0.0  # seconds of the last pass, if several shared it
        self._thread = ThreadPoolExecutor(1, "model")
        self._worker: asyncio.Task[None] | None = None  # begun by the first job, in the server's loop

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return _rows(self._jobs)

    async def submit(self, key: Hashable, run: Run, rows: list[Any]) -> list[Any]:
        """run(rows), perhaps with rows of other jobs of this key: one answer a row. Raises Busy, or what `run` does."""
        if self._closed or self.waiting + len(rows) > self.max_waiting:
            raise Busy
        job = _Job(key, run, rows, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._arrived.set()
        self._worker = self._worker or asyncio.create_task(self._work())
        return await job.answer

    async def alone(self, run: Callable[[], Any]) -> Any:
        """run() in the model's thread, joined with nothing."""
        return (await self.submit(object(), lambda rows: [run()], [None]))[0]

    async def close(self) -> None:
        """Ends after the pass that is running; jobs still waiting are cancelled."""
        self._closed = True
        self._arrived.set()
        for job in self._jobs:
            job.answer.cancel()
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        while jobs := await self._next():
            began = time.monotonic()
            await self._answer(jobs)
            self._shared = time.monotonic() - began if len(jobs) > 1 else 0.0

    async def _next(self) -> list[_Job]:
        """The jobs of the next pass; none when closed."""
        free = time.monotonic()
        while not self._closed:
            jobs, left = self._company(), None
            if jobs:
                left = max(jobs[0].arrived + self.wait, free + self._shared / 8) - time.monotonic()
                if left <= 0 or _rows(jobs) >= self.max_batch:
                    for job in jobs:
                        self._jobs.remove(job)
                    return jobs
            self._arrived.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)
        return []

    def _company(self) -> list[_Job]:
        """The first job and those after it that fit into its pass."""
        jobs = list(islice(self._jobs, 1))
        for job in islice(self._jobs, 1, None):
            if job.key == jobs[0].key and _rows(jobs) + len(job.rows) <= self.max_batch:
                jobs.append(job)
        return jobs

    async def _answer(self, jobs: list[_Job]) -> None:
        """One pass over the rows of some jobs. If it fails, each runs alone, so that a bad one fails alone."""
        jobs = [job for job in jobs if not job.answer.done()]  # cancelled: nobody waits for it any more
        if not jobs:
            return
        rows = [row for job in jobs for row in job.rows]
        self.on_pass(len(rows))
        try:
            answers = iter(await asyncio.wrap_future(self._thread.submit(lambda: list(jobs[0].run(rows)))))
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    await self._answer([job])
            elif not jobs[0].answer.done():
                jobs[0].answer.set_exception(error)
            return
        for job in jobs:
            own = list(islice(answers, len(job.rows)))
            if not job.answer.done():
                job.answer.set_result(own)


def _rows(jobs: Iterable[_Job]) -> int:
    return sum(len(job.rows) for job in jobs)
