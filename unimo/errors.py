"""One contract for everything that can go wrong: what, where, got, expected, what to do, and an exit code.

A user never meets a traceback as the message. Code that finds a fault raises one of these classes; the command
line prints its parts and leaves with its exit code; a report stores them (`unimo.corpus.bad_samples`).
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable


class UnimoError(Exception):
    """Base of all located errors.

    what: one short sentence. where: file, archive member, line, field or option. got / expected: the two values in
    contradiction; of another library's exception, its kind and first line. do: the next thing the user can try.
    """

    exit_code = 70  # a fault of ours, unless a subclass says otherwise
    rank: int | None = None  # of the process in which it happened, if another

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        do: str | None = None,
    ):
        self.what, self.where, self.got, self.expected, self.do = what, where, _told(got), expected, do
        super().__init__(self.one_line())

    def parts(self) -> dict[str, str]:
        """The filled parts as printable strings, in reading order."""
        named = {
            "what": self.what,
            "where": self.where,
            "got": self.got,
            "expected": self.expected,
            "do": self.do,
        }
        return {name: _printable(value) for name, value in named.items() if value is not None}

    def __str__(self) -> str:  # the place may be put in by a caller that knows it
        return self.one_line()

    def one_line(self) -> str:
        parts = self.parts()
        return " | ".join([parts.pop("what"), *(f"{name}: {value}" for name, value in parts.items())])

    def __reduce__(self):  # keeps the parts when a loader worker hands the error to its parent
        return _rebuild, (type(self), self.what, self.where, self.got, self.expected, self.do)


class UsageError(UnimoError):
    """A wrong option, key or combination: nothing was started."""

    exit_code = 2


class DataError(UnimoError):
    """A file, sample or field that is missing, broken or contradicts another."""

    exit_code = 3


class WeightsError(UnimoError):
    """A checkpoint or weight file that cannot be trusted or does not fit."""

    exit_code = 4


class ResourceError(UnimoError):
    """Disk, memory, a folder in use: the machine, not the data."""

    exit_code = 5


class NumericsError(UnimoError):
    """Losses or weights stopped being finite."""

    exit_code = 6


class Restart(UnimoError):
    """The run was asked to stop and saved itself: start the same command again to go on."""

    exit_code = 75


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name most like a misspelt one, or None. Names of more than 200 characters are not looked at."""
    if len(name) > _LONGEST_NAME:  # comparing two takes the product of their lengths
        return None
    known = {other.lower(): other for other in itertools.islice(names, _MOST_NAMES) if len(other) <= _LONGEST_NAME}
    found = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)  # below it, guesses are absurd
    return known[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """What to do about a misspelt name: a hint at the known name most like it, or None."""
    near = nearest(name, names)
    return None if near is None else f"did you mean {near}?"


_LONGEST_NAME, _MOST_NAMES = 200, 10_000
_LONGEST_PART = 2000  # characters of a part of an error


def _told(got: object) -> object:
    if not isinstance(got, BaseException) or isinstance(got, UnimoError):
        return got
    line = str(got).strip().partition("\n")[0]
    return f"{type(got).__name__}: {line}"[:300].removesuffix(": ")


def _printable(value: object) -> str:
    """One line, no control characters: a file name or caption must not be able to forge a log line."""
    try:
        text = str(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:_LONGEST_PART])[:_LONGEST_PART]


def _rebuild(cls, what, where, got, expected, do):
    return cls(what, where=where, got=got, expected=expected, do=do)
