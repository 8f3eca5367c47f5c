"""Which column of a table plays which part, and a row of that table as an example.

part      becomes          a column is looked for by each of its names, in turn
id        id
text      texts[0]         further segments: text2, or a list of columns given for `text`
image     image            key or path of an image
label     target str       a class
score     target float     a number
target    target str or tuple of str: what is to be written, or its references
answers   target dict      answers with their scores
group     extra["group"]   rows that belong together: images, stories
extra     extra[NAME]      columns handed on as they are; *: all that play no part, as extra["meta"]

A table of text (.csv, .tsv) has no types: pandas and spreadsheets write a list as ["a", "b"] or ['a', 'b'], a whole
number as 1.0 and a truth value as True. Here they mean what they mean in JSON and Parquet.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from unimo.errors import DataError, UsageError, did_you_mean
from unimo.finetune.example import Caption, Example, Target
from unimo.formats.arrow import embedded_image
from unimo.formats.columns import CAPTION_NAMES
from unimo.formats.delimited import unpacked
from unimo.formats.json_values import words
from unimo.formats.text import Row, checked_text

TaskKind = Literal["classification", "regression", "generation", "retrieval"]
Names = tuple[str, ...]
# part -> column or columns; None: no column, whatever is there; a set: one that need not be there
Given = Mapping[str, str | Sequence[str] | frozenset[str] | None]

PARTS = ("id", "text", "text2", "image", "label", "score", "target", "answers", "group", "extra")
TARGETS: dict[TaskKind, Names] = {  # the parts that can be the target of a kind, the likeliest first
    "classification": ("label", "answers"),
    "regression": ("score", "label"),
    "generation": ("target", "answers"),
    "retrieval": ("target",),
}
ANY_TARGET: Names = ("label", "answers", "score", "target")  # the order in which a target is looked for


@dataclass(frozen=True)
class Layout:
    """names: part -> names its column may have. needed: parts whose column must be there. kind: None means by the
    first of label, answers, score, target that is there. between: range of a score. dropped: label -> reason why rows
    with it are left out. extra: columns handed on, where they are there."""

    names: Mapping[str, Names]
    needed: Names = ()
    kind: TaskKind | None = None
    between: tuple[float, float] | None = None
    dropped: Mapping[str, str] = field(default_factory=dict)
    extra: Names = ()


@dataclass(frozen=True)
class Columns:
    """What was found: texts: columns of the segments. target: (part, column), or None in a file without targets."""

    layout: Layout
    texts: Names
    id: str | None = None
    image: str | None = None
    group: str | None = None
    target: tuple[str, str] | None = None
    extra: Names = ()
    rest: Names = ()  # columns that play no part, where they are asked for
    unused: Names = ()  # columns that could have been the target as well
    others: Names = ()  # columns that play no part

    @property
    def captions(self) -> bool:
        """Whether a row only says something of an image."""
        written = self.target is not None and (self.target[0] == "target" or self.layout.kind == "generation")
        return written and self.image is not None and not self.texts

    def __str__(self) -> str:
        parts = {"texts": " + ".join(self.texts), "image": self.image, "id": self.id, "group": self.group}
        if self.target:
            parts[self.target[0]] = self.target[1]
        named = ", ".join(f"{name} = {column}" for name, column in parts.items() if column)
        ignored = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        others = f" (other columns: {', '.join(self.others[:8])})" if self.others else ""
        return named + ("" if self.target else f", no targets{others}") + ignored


def with_fields(layout: Layout, fields: Given | None) -> Layout:
    """The layout with columns named by the user, which then must be there, and play no other part by guess.

    None takes a part away. UsageError for an unknown part, a target that the kind of task does not have, or a column
    that were read and to be found out at once.
    """
    named, without, extra = _named(fields or {}, layout.extra)
    target = next((part for part in ANY_TARGET if part in named), None)
    if target and layout.kind and target not in TARGETS[layout.kind]:
        expected = " or ".join(TARGETS[layout.kind])
        raise UsageError(f"{layout.kind} has another target", where="kind, fields", got=target, expected=expected)
    read = [column for part, (column,) in named.items() if part.startswith("text")]
    if target and named[target][0] in read:
        raise UsageError("a column is text and target at once", where="fields", got=named[target][0])
    # What the user says of texts, or of the target, is all there is to say of them.
    dropped = {*without, *(ANY_TARGET if target else ())}
    kept = {
        part: tuple(name for name in names if part in ("id", "image") or (name,) not in named.values())
        for part, names in layout.names.items()
        if part not in dropped and not (part.startswith("text") and "text" in named)
    }
    required = [part for part in named if not isinstance((fields or {}).get(part), frozenset)]
    needed = dict.fromkeys([*(part for part in layout.needed if part in kept or part in named), *required])
    return replace(layout, names=kept | named, needed=tuple(needed), extra=extra)


def _named(fields: Given, extra: Names) -> tuple[dict[str, Names], set[str], Names]:
    """Parts with their columns, parts to do without, columns to hand on."""
    named: dict[str, Names] = {}
    for part, value in fields.items():
        if part not in PARTS:
            do = did_you_mean(part, PARTS)
            raise UsageError("unknown part of an example", got=part, expected=", ".join(PARTS), do=do)
        columns = (value,) if isinstance(value, str) else tuple(value or ())
        if part == "extra":
            extra = (*extra, *columns)
        elif part == "text" and len(columns) > 1:
            named |= {f"text{i}" if i > 1 else "text": (column,) for i, column in enumerate(columns, start=1)}
        elif value is not None and len(columns) != 1:
            raise UsageError("one column is expected", where=f"fields, {part}", got=", ".join(columns) or "none")
        elif columns:
            named[part] = columns
    return named, {part for part, value in fields.items() if value is None}, extra


def find_columns(layout: Layout, present: Iterable[str], where: object) -> Columns:
    """The column of each part among those present. DataError when one that is needed is not there."""
    there = list(present)
    got = ", ".join(there[:20]) or "no columns"
    called = {name.lower(): name for name in reversed(there)} | {name: name for name in there}  # Text is text
    found = {part: next((called[n] for n in names if n in called), None) for part, names in layout.names.items()}
    for part in layout.needed:
        if found.get(part) is None:
            names = layout.names[part] or (part,)  # none: its only column was given another part
            expected = f"{' or '.join(names)} (the {part})"
            do = did_you_mean(names[0], there) or f"name the column: --column {part}=... (or `fields`)"
            raise DataError("column is missing", where=where, got=got, expected=expected, do=do)
    segments = sorted((part for part in found if part.startswith("text")), key=lambda part: (len(part), part))
    texts = tuple(dict.fromkeys(column for part in segments if (column := found.get(part))))
    if not texts and found.get("image") is None:
        expected = "a text or an image: " + ", ".join(layout.names.get("text", ()) + layout.names.get("image", ()))
        do = "name the columns: --column text=... (or `fields`)"
        raise DataError("no column to read from", where=where, got=got, expected=expected, do=do)
    parts = TARGETS[layout.kind] if layout.kind else ANY_TARGET
    if layout.kind == "retrieval" and found.get("image") is not None:  # whatever is said of an image is its caption
        found["target"] = found.get("target") or (texts[0] if len(texts) == 1 else None)
        texts = () if found["target"] else texts
    if layout.kind in ("retrieval", "generation") and found.get("image") is not None and not texts:
        found["target"] = found.get("target") or next((name for name in CAPTION_NAMES if name in there), None)
    read = {*texts, found.get("image"), found.get("id")}
    targets = [(part, column) for part in parts if (column := found.get(part)) and column not in read]
    known = {*read, found.get("group"), *dict(targets[:1]).values()}
    return Columns(
        layout,
        texts,
        found.get("id"),
        found.get("image"),
        found.get("group"),
        targets[0] if targets else None,
        tuple(name for name in layout.extra if name in there),
        tuple(name for name in there if "*" in layout.extra and name and name not in known),
        tuple(column for _, column in targets[1:] if column != targets[0][1]),
        tuple(name for name in there if name not in found.values()),
    )


# ---- rows


def example_of(row: Row, columns: Columns) -> Example | str:
    """A row as an example, or the reason why rows like it are left out. DataError when it cannot be used."""
    values, where = row.values, row.where
    target: Target = None
    extra: dict[str, Any] = {}
    if columns.target:
        part, column = columns.target
        value = values.get(column)
        if isinstance(value, str) and value.strip() in columns.layout.dropped:
            return columns.layout.dropped[value.strip()]
        if not row.typed and isinstance(value, str) and part in ("target", "answers"):
            value = unpacked(value, f"{where}, field {column}", scores=part == "answers")
        target = _target(part, value, columns.layout, f"{where}, field {column}")
        if part == "answers" and isinstance(value, list):
            extra["answers"] = tuple(value)
    texts = tuple(words(values, column, where) for column in columns.texts)
    held = columns.image is not None and embedded_image(values.get(columns.image)) is not None
    image = str(values.get("key") or row.key) if held else _word(values, columns.image, where)
    if columns.image and image is None:
        raise DataError("row names no image", where=f"{where}, field {columns.image}", do="fill it or remove the row")
    if columns.group and (group := _word(values, columns.group, where)):
        extra["group"] = group
    extra |= {name: values[name] for name in columns.extra if values.get(name) is not None}
    rest = {name: values[name] for name in columns.rest if values.get(name) not in (None, "")}
    if rest := {name: value for name, value in rest.items() if embedded_image(value) is None}:
        extra["meta"] = rest
    kind = Caption if columns.captions and target is not None else Example
    return kind(_word(values, columns.id, where) or row.key, texts, image, target, extra)


def _word(values: dict[str, Any], column: str | None, where: str) -> str | None:
    """An id or key: a string or a whole number; None where there is none."""
    value = None if column is None else values.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return checked_text(value, where, str(column)).strip() or None


def _target(part: str, value: Any, layout: Layout, where: str) -> Target:
    """The target in a cell; None where the cell says that it is withheld. Both may stand in JSON or as text."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if part == "score" or (part == "label" and layout.kind == "regression"):
        return _number(value, layout.between, where)
    if part == "label":  # NaN: how a table of numbers writes an empty cell
        return None if isinstance(value, float) and math.isnan(value) else class_name(value, where)
    if part == "answers" and layout.kind != "generation":
        return soft_answers(value, where, normalise=plain_answer)
    if isinstance(value, str):
        return checked_text(value, where, "target").strip() or None
    if not isinstance(value, list):
        expected = "a string or a list of strings"
        raise DataError("wrong type of field", where=where, got=type(value).__name__, expected=expected)
    stripped = (checked_text(each, where, "target").strip() for each in value)
    return tuple(each for each in stripped if each) or None


def _number(value: Any, between: tuple[float, float] | None, where: str, typed: bool = False) -> float:
    try:
        number = math.nan if isinstance(value, bool) or (typed and isinstance(value, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    low, high = between or (-math.inf, math.inf)
    if not (math.isfinite(number) and low <= number <= high):
        expected = "a finite number" if between is None else f"a number from {low:g} to {high:g}"
        raise DataError("not a score", where=where, got=repr(value)[:60], expected=expected)
    return number


# ---- cells

NO_LABEL = ("", "-1")  # how published test files write that a label is withheld
_DECIMAL = re.compile(r"[+-]?((\d+\.\d*|\.\d+)([eE][+-]?\d+)?|\d+[eE][+-]\d+)", re.ASCII)  # as a float is printed
_TRUTH = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}


def class_name(value: Any, where: str) -> str | None:
    """The class that a cell names, None where it is withheld. 1, 1.0, "1" and "1.0" are one class, true and True too.

    DataError for a number with a fraction, which is no class but a score, and for lists and objects.
    """
    name = value
    if isinstance(value, str):
        name = checked_text(value, where, "label").strip()
        name = float(name) if _DECIMAL.fullmatch(name) else _TRUTH.get(name, name)
    if isinstance(name, bool):
        return "true" if name else "false"
    if isinstance(name, int) or (isinstance(name, float) and name.is_integer()):
        name = str(int(name))
    if isinstance(name, str) and isinstance(unpacked(name, where, scores=True), str):
        return None if name in NO_LABEL else name
    number = isinstance(name, float)
    raise DataError(
        "not a class",
        where=where,
        got=repr(value)[:60],
        expected="a name, a whole number, true or false",
        do="learn numbers by regression (unimo finetune regression), or write classes as names, such as v1.2"
        if number
        else "give one class in each row",
    )


# ---- answers of people with the scores they are worth (VQA v2; Goyal et al., CVPR 2017)

PEOPLE = 10  # who answer a question of VQA v2


def plain_answer(answer: str) -> str:
    """Lower case, single spaces. The official normalisation belongs to the metric and can be handed in instead."""
    return " ".join(answer.lower().split())


def most_frequent(answers: Sequence[str]) -> str:
    """The answer given most often; of several, the one given first."""
    return Counter(answers).most_common(1)[0][0]


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Each distinct answer of n people and min(1, 0.3 n): what the official accuracy pays for it on average."""
    return {answer: min(1.0, 3 * count / 10) for answer, count in Counter(answers).items()}


def soft_answers(value: Any, where: str, *, normalise: Callable[[str], str]) -> dict[str, float] | None:
    """Answers in a cell: one, a set of right ones (1 each), those of ten people or more (soft), or {answer: score}.

    None where there is no answer. DataError for other types and for scores outside 0 to 1.
    """
    if isinstance(value, dict):
        scores = {
            normalise(checked_text(answer, where, "answers")): _number(score, (0, 1), where, typed=True)
            for answer, score in value.items()
        }
        return {answer: score for answer, score in scores.items() if answer} or None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        expected = "an answer or a list of answers"
        raise DataError("wrong type of field", where=where, got=type(value).__name__, expected=expected)
    answers = [answer for each in given if (answer := normalise(checked_text(each, where, "answers")))]
    if not answers:
        return None
    return soft_scores(answers) if len(given) >= PEOPLE else dict.fromkeys(answers, 1.0)
