"""One row of a task: what is read and seen, and what should come of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from unimo.errors import DataError

Target = str | float | tuple[str, ...] | dict[str, float] | None
"""A class or the text to write · a number · several references or captions · answers with their scores · unknown."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row.

    id: unique within its split; FILE:LINE where the file gives none. texts: what is read, a string per segment (premise
    and hypothesis, question, document, passage and turns of a dialogue). image: key of an image in the corpus of the
    split. target: see `Target`; None in a split without labels. extra: what only some tasks look at, such as all
    references, or the `group` of rows that are not independent of each other.
    """

    id: str
    texts: tuple[str, ...] = ()
    image: str | None = None
    target: Target = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caption(Example):
    """A row that says one thing, or some, of an image: rows of one image are one example with all that is said."""


class Dropped(NamedTuple):
    """A row that its own format says is to be left out; counted by its reason, and no fault."""

    reason: str


class Noted(NamedTuple):
    """Something to be said about a whole file, such as which columns were taken for what."""

    what: str


Found = Iterator[Example | DataError | Dropped | Noted]
"""What a reader gives: rows, rows that cannot be used, rows that are not meant to be, and remarks."""
