"""What is said at the end when something was wrong, by one process or by several at once."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from unimo.errors import DataError, ResourceError, Restart, UnimoError


class Terminated(BaseException):
    """SIGTERM of the launcher, which ends all processes when one has failed."""


def print_error(error: UnimoError) -> None:
    """Prints an error's parts, all at once, so that processes do not write into each other's lines.

    Of several processes (torchrun) each speaks, since nobody knows which one is heard: the first in full, the others in
    one line; of an error that came from another process they only name it.
    """
    mine = _rank()
    if mine is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is to be said is short; SIGKILL is for what hangs
    where = "" if mine is None else f" on rank {mine if error.rank is None else error.rank}"
    parts = error.parts()
    if mine in (None, 0):
        if isinstance(error, Restart):  # stopped by the user: no error
            parts["do"] = go_on()
            lines = [f"{parts.pop('what')}; continue with: {parts.pop('do')}"]
        else:
            lines = [f"error{where}: {parts.pop('what')}"]
        lines += [f"  {name + ':':<10}{value}" for name, value in parts.items()]
    elif error.rank in (None, mine):
        lines = [f"error{where}: {error.one_line()}"]
    else:
        lines = [f"rank {mine} ends: error{where}: {error.what}"]
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def go_on() -> str:
    """The command that goes on with a run that was stopped."""
    words = sys.argv[1:]
    resume = words[:1] in (["pretrain"], ["finetune"]) and "--resume" not in words
    line = shlex.join(["unimo", *words, *["--resume"] * resume])
    return line if _rank() is None else f"torchrun ... -m {line}"


@contextlib.contextmanager
def sigterm_as_error() -> Iterator[None]:
    """SIGTERM as an error of its own where there are several processes: the launcher sends it as soon as one has
    failed, and the reason would be lost. Runs that save themselves take the signal before this does."""

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    ours = (
        _rank() is not None
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and threading.current_thread() is threading.main_thread()
    )
    if ours:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def terminated(ended: Terminated) -> UnimoError:
    """What SIGTERM met: the error that was on its way, or which process ended."""
    from unimo import distributed

    before: BaseException | None = ended.__context__
    while before is not None and not isinstance(before, UnimoError):
        before = before.__context__
    return before or ResourceError(
        "ended by SIGTERM",
        where=distributed.who_ended(patience=0.5),
        expected="all processes of the run to go on",
        do="see the message of the process that failed, then resume",
    )


def named(error: Exception) -> UnimoError:
    """An error that nobody named: of the system, by its file; of torch, where the machine gave out; else a fault of
    ours."""
    if isinstance(error, OSError) and error.strerror:
        return _of_system(error)
    if "torch" in sys.modules:
        from unimo.machine_faults import located_faults

        try:
            with located_faults():
                raise error
        except UnimoError as located:
            return located
        except Exception as same:
            assert same is error
    where = traceback.extract_tb(error.__traceback__)[-1]
    return UnimoError(
        "a fault of unimo's own",
        where=f"{Path(where.filename).name}, line {where.lineno}",
        got=f"{type(error).__name__}: {error}",
        do=f"UNIMO_TRACEBACK=1 {shlex.join(['unimo', *sys.argv[1:]])} shows all of it; please report it",
    )


def _of_system(error: OSError) -> UnimoError:
    where = error.filename if error.filename2 is None else f"{error.filename} -> {error.filename2}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
        do = "correct the path or the permissions; UNIMO_TRACEBACK=1 shows where it was used"
        return DataError("a path cannot be used", where=where, got=error.strerror, expected="a usable path", do=do)
    return ResourceError(
        "the system refused",
        where=where,
        got=error.strerror,
        expected="room, memory and working disks",
        do="look at the disk and its space; UNIMO_TRACEBACK=1 shows where it was needed",
    )


def _rank() -> int | None:
    """Of this process among several; None when it is alone."""
    if not os.environ.get("WORLD_SIZE", "1").isdecimal() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    return int(rank) if (rank := os.environ.get("RANK", "0")).isdecimal() else 0
