"""Death by event, not by the clock: a process kills itself at its n-th call that changes the disk, or its n-th step.

What a kill leaves behind is decided by the last call that changed the disk and by how much of a write was done. So a
kill is placed at such a call; whether the machine is fast or busy changes nothing. A seed says at which.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Python itself tells of these before they happen, whoever calls them; of writes and flushes it does not tell.
AUDITED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
KINDS = {"write", "fsync", *AUDITED}
_write, _fsync = os.write, os.fsync
_tells: list[Callable[..., Any]] = []


@contextlib.contextmanager
def disk_events(tell: Callable[..., Any]) -> Iterator[None]:
    """Calls tell(kind, path, ...) before every event of this process that changes the disk; what it raises, the caller
    of the event meets. Further arguments: of a rename the new path; of a write the data and the descriptor.

    What tell returns for a write: None, all is written; a number, so many bytes are (as a system may); bytes, these are
    instead, and nobody is told.
    """

    def write(descriptor: int, data) -> int:
        answer = tell("write", _path(descriptor), data, descriptor)
        if isinstance(answer, bytes):
            return _write(descriptor, answer) and len(data)
        return _write(descriptor, data if answer is None else memoryview(data)[:answer])

    def fsync(descriptor: int) -> None:
        tell("fsync", _path(descriptor))
        _fsync(descriptor)

    _tells.append(tell)
    os.write, os.fsync = write, fsync
    try:
        yield
    finally:
        os.write, os.fsync = _write, _fsync
        _tells.pop()


def _audited(name: str, details: tuple) -> None:
    if not _tells or name not in AUDITED or (name == "open" and not (details[2] or 0) & CHANGES):
        return
    paths = [_path(path) if isinstance(path, int) else os.fspath(path) for path in details[: 1 + (name == "os.rename")]]
    if name in ("os.remove", "os.rmdir") and details[1] >= 0:  # shutil.rmtree names files in an open folder
        paths = [f"{_path(details[1])}/{paths[0]}"]
    _tells[-1](name, *paths)


def _path(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


sys.addaudithook(_audited)  # which stays for good


class Countdown:
    """Counts the events of this process from now on, and ends it by SIGKILL at the `at`-th; 0: only counts.

    kind: the `at`-th of this kind, not of all. share: how much of a write is still done when the process dies in one.
    note: memory shared with the parent, which then holds the kind of the last event. Only for a process that ends soon:
    what is put in place is never taken away.
    """

    def __init__(self, at: int = 0, kind: str = "", share: float = 0.5, note: mmap.mmap | None = None):
        self.at, self.kind, self.share, self.note = at, kind, share, note
        self.counts, self.owner = Counter(), os.getpid()
        self.watch = disk_events(self.event)
        self.watch.__enter__()

    def event(self, name: str, *details: Any) -> None:
        """One more; the last one does not return."""
        if os.getpid() != self.owner:  # a worker forked from this process dies with it, not for it
            return
        self.counts[name] += 1
        of_its_kind = name == self.kind and self.counts[name] == self.at
        if not of_its_kind if self.kind else self.counts.total() != self.at:
            return
        if name == "write":
            _, data, descriptor = details
            part = memoryview(data)[: int(len(data) * self.share)]
            while part:
                part = part[_write(descriptor, part) :]
        if self.note is not None:
            self.note[: len(name)] = name.encode()
        os.kill(os.getpid(), signal.SIGKILL)


def fork(work: Callable[[], object]) -> int:
    """Runs `work` in a child that never returns into the caller's code; returns its process id."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"victim failed: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Waits for a child; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def counted(work: Callable[[Countdown], object]) -> Counter[str]:
    """How many events of each kind work(countdown) has, found in a child that nobody kills."""
    told = mmap.mmap(-1, 4096)

    def calm():
        countdown = Countdown()
        work(countdown)
        found = json.dumps(countdown.counts).encode()
        told[: len(found)] = found

    assert ended(fork(calm)) == 0
    return Counter(json.loads(told[:].rstrip(b"\0")))


def killed(
    work: Callable[[Countdown], object], draw: random.Random, events: Counter[str], seconds: float = 0
) -> str | None:
    """Runs work(countdown) in a child that dies at an event; returns its kind, None for one that lived.

    events: how many of each kind to draw from; first the kind is drawn, so that the many writes do not hide the others.
    seconds: kill it from outside instead, after a time drawn from 0 to these, wherever it then is. For campaigns only:
    what such a kill meets depends on the machine.
    """
    kind = draw.choice(sorted(events))
    at, share, note = draw.randint(1, events[kind]), draw.random(), mmap.mmap(-1, 64)
    child = fork(lambda: work(Countdown(0 if seconds else at, kind, share, note)))
    if seconds:
        time.sleep(seconds * share)
        os.kill(child, signal.SIGKILL)
    code = ended(child)
    assert code in (0, -signal.SIGKILL), f"the victim failed: {code}"
    return None if code == 0 else note[:].rstrip(b"\0").decode() or "clock"
