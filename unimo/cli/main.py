"""How the command line runs, and how it ends when something is wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Annotated

import typer

from unimo import __version__, threads
from unimo.cli.app import app, say
from unimo.cli.failures import Terminated, named, print_error, sigterm_as_error, terminated
from unimo.cli.output import tolerant
from unimo.errors import ResourceError, UnimoError

READER_GONE = (errno.EPIPE, errno.EBADF)  # it had read enough, as `head` has


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(f"unimo {__version__}")
        raise typer.Exit


class Interrupted(BaseException):
    """Ctrl-C, where nothing waits for it to save its work first."""


def main() -> None:
    """Runs the command line; every known fault ends as a few readable lines and its own exit code."""
    threads.set_up()
    with tolerant() as output, _interruptible(), sigterm_as_error():
        code = _run()
        if output.lost is not None and not code:
            code = 1 if output.lost.errno in READER_GONE else ResourceError.exit_code
    sys.exit(code)


def _run() -> int:
    try:
        app(standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Interrupted:
        print("\n" * sys.stderr.isatty() + "stopped by Ctrl-C", file=sys.stderr)  # a terminal shows ^C
        return 128 + signal.SIGINT
    except Terminated as ended:
        print_error(terminated(ended))
        return 128 + signal.SIGTERM
    except UnimoError as error:
        print_error(error)
        return error.exit_code
    except Exception as error:
        if os.environ.get("UNIMO_TRACEBACK"):
            raise
        located = named(error)
        print_error(located)
        return located.exit_code
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
