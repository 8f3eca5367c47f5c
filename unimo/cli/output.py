"""What the command line writes to: every character finds a form, and nobody reading ends nothing."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class Output(io.TextIOBase):
    """A text stream over another one. lost: why nothing more can be written, or None.

    on_failure: takes the reason when writing fails.
    """

    def __init__(self, under: TextIO, on_failure: Callable[[OSError], None] | None = None):
        self.under, self.on_failure = under, on_failure
        self.lost: OSError | None = None
        with contextlib.suppress(AttributeError, ValueError):  # not a stream that encodes
            under.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # asked with bytes whether this is a stream of bytes
            raise TypeError(f"a text stream takes str, not {type(text).__name__}")
        self._try(lambda: self.under.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.under.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.lost is not None:
            return
        try:
            act()
        except OSError as fault:
            self._give_up(fault)
        except ValueError:  # closed meanwhile
            self._give_up(OSError(errno.EBADF, "the stream was closed"))

    def _give_up(self, fault: OSError) -> None:
        self.lost = fault
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # What lies in its buffer would fail again when Python ends, behind everybody's back.
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.under.fileno())
            os.close(nothing)
        if self.on_failure is not None:
            self.on_failure(fault)

    def isatty(self) -> bool:
        return self.lost is None and self.under.isatty()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.under.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.under, "encoding", None) or "utf-8"

    @property
    def buffer(self) -> Any:
        return self.under.buffer


@contextlib.contextmanager
def tolerant() -> Iterator[Output]:
    """sys.stdout and sys.stderr as `Output`; gives the first. Where standard output is closed from the beginning, what
    is said goes to standard error."""
    before = sys.stdout, sys.stderr
    errors = Output(open(os.devnull, "w") if sys.stderr is None else sys.stderr)  # noqa: PTH123, SIM115

    def say_so(fault: OSError) -> None:
        errors.write(f"nothing more can be shown on standard output ({fault.strerror}); the work goes on\n")
        errors.flush()

    if sys.stdout is None:
        output = errors
        errors.write("standard output is closed: what is said goes to standard error\n")
    else:
        output = Output(sys.stdout, say_so)
    sys.stdout, sys.stderr = output, errors
    try:
        yield output
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before
