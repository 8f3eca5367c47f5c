"""How the command line runs, and how it ends when something is wrong."""

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
from typing import Annotated

import typer

from unimo import __version__
from unimo.cli.common import app, say
from unimo.cli.output import tolerant
from unimo.errors import ResourceError, Restart, UnimoError


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(f"unimo {__version__}")
        raise typer.Exit


class Interrupted(BaseException):
    """Ctrl-C, where nothing waits for it to save its work first."""


def main() -> None:
    """Runs the command line; every known fault ends as a few readable lines and its own exit code."""
    with tolerant() as output, _interruptible():
        code = _run()
        if output.lost is not None and not code:
            code = 1 if output.lost.errno in READER_GONE else ResourceError.exit_code
    sys.exit(code)


READER_GONE = (errno.EPIPE, errno.EBADF)  # it had read enough, as `head` has


def _run() -> int:
    try:
        app(standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Interrupted:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 128 + signal.SIGINT
    except UnimoError as error:
        tell(error)
        return error.exit_code
    except Exception as error:
        if os.environ.get("UNIMO_TRACEBACK"):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        tell(
            UnimoError(
                "a fault of unimo's own",
                where=f"{Path(where.filename).name}, line {where.lineno}",
                got=f"{type(error).__name__}: {error}",
                do=f"UNIMO_TRACEBACK=1 {shlex.join(['unimo', *sys.argv[1:]])} shows all of it; please report it",
            )
        )
        return UnimoError.exit_code
    return 0


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C as an end of its own: libraries on the way would swallow a KeyboardInterrupt, or call it an error."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def tell(error: UnimoError) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun the first process speaks for all
    parts = error.parts()
    head = "stopped" if isinstance(error, Restart) else "error"  # what was asked for is no error
    print(f"{head}: {parts.pop('what')}", file=sys.stderr)
    for name, value in parts.items():
        print(f"  {name + ':':<10}{value}", file=sys.stderr)
