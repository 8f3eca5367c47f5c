"""What the command line writes to: every character finds a form, nobody reading ends nothing, and a message never lands
in the middle of a line that is written over.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Output(io.TextIOBase):
    """A text stream over another one. lost: why nothing more can be written, or None.

    A line that begins with a carriage return is live: it is written over, and left before anything else is written.
    beside: a stream of the same terminal whose live line is left first. told: takes the reason when writing fails.
    """

    def __init__(self, under: TextIO, other: Output | None = None, told: Any = None):
        self.under, self.other, self.told = under, other, told
        self.lost: OSError | None = None
        self.live = False
        with contextlib.suppress(AttributeError, ValueError):  # not a stream that encodes
            under.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # asked with bytes whether this is a stream of bytes
            raise TypeError(f"a text stream takes str, not {type(text).__name__}")
        if not text:
            return 0
        if self.other is not None:
            self.other.leave()
        if not text.startswith(("\r", "\n")):
            self.leave()
        # Before it is written: Ctrl-C may come as soon as the line stands there.
        self.live = not text.endswith("\n") and (self.live or text.startswith("\r"))
        self._try(text)
        return len(text)

    def leave(self) -> None:
        """Ends a live line."""
        if self.live:
            self.live = False
            self._try("\n")
            self.flush()

    def flush(self) -> None:
        self._try("")

    def _try(self, text: str) -> None:
        if self.lost is not None:
            return
        try:
            if text:
                self.under.write(text)
            else:
                self.under.flush()
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
        if self.told is not None:
            self.told(fault)

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
    no_error, no_output = sys.stderr is None, sys.stdout is None
    under = open(os.devnull, "w") if no_error else sys.stderr  # noqa: PTH123, SIM115
    errors = Output(under)

    def told(fault: OSError) -> None:
        errors.write(f"nothing more can be shown on standard output ({fault.strerror}); the work goes on\n")
        errors.flush()

    output = errors if no_output else Output(sys.stdout, told=told)
    if no_output:
        errors.write("standard output is closed: what is said goes to standard error\n")
    else:
        errors.other = output
    sys.stdout, sys.stderr = output, errors
    try:
        yield output
    finally:
        output.leave()
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before
