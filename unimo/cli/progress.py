"""Bars with rate and time left, on a terminal; elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

Update = Callable[[int, int | None], None]  # how much is done, and of how much, where that is known
_EVERY = 30.0  # seconds between lines where nobody watches


@contextlib.contextmanager
def progress_bar(what: str, unit: Literal["bytes", "rows"]) -> Iterator[Update]:
    """Draws on standard error while inside."""
    if not sys.stderr.isatty():
        yield _lines(what, unit)
        return
    from rich import progress
    from rich.console import Console

    columns: list[progress.ProgressColumn | str] = [progress.TextColumn(what, markup=False), progress.BarColumn()]
    if unit == "bytes":
        columns += [progress.DownloadColumn(), progress.TransferSpeedColumn()]
    else:
        columns += [progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[rate]}")]
    with progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        tasks: list[progress.TaskID] = []  # none, and nothing is drawn, until there is something to tell

        def update(done: int, total: int | None) -> None:
            if not tasks:
                tasks.append(bar.add_task(what, total=total, completed=done, rate=""))
            speed = bar.tasks[0].speed  # None at first
            bar.update(tasks[0], completed=done, total=total, rate=f"{speed or 0:.1f} rows/s")

        yield update


def _lines(what: str, unit: str) -> Update:
    started = printed = time.monotonic()
    first: int | None = None

    def update(done: int, total: int | None) -> None:
        nonlocal printed, first
        first, now = done if first is None else first, time.monotonic()
        if now - printed < _EVERY:
            return
        printed, rate = now, (done - first) / (now - started)
        left = f" of {total:,}, {(total - done) / rate:.0f} s left" if total is not None and rate else ""
        print(f"{what}: {done:,} {unit}{left}, {rate:,.1f} {unit}/s", file=sys.stderr, flush=True)

    return update
