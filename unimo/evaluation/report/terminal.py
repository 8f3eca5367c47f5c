"""A report as aligned plain text, safe to print in a terminal; and how its numbers are spelled everywhere."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unimo.evaluation.report.written import Report
from unimo.formatting import number
from unimo.html_pages import plain
from unimo.metrics.intervals import Score

_WIDTH = 10_000  # columns: a row stays on its line, however long


def scores_table(report: Report) -> str:
    """The scores as a table of plain text."""
    rows = []
    for row in report.get("scores", ()):
        score, unit = score_of(row["score"]), row.get("unit", "")
        spelled = (
            number(score.value, unit),
            interval(score, unit),
            chance(score, unit),
            f"{score.n:,}" if score.n else "",
        )
        rows.append((row["task"], row["metric"], *spelled, row.get("note", "")))
    return _table(("task", "metric", "score", "95 % interval", "chance", "n", "note"), rows, right=(2, 4, 5))


def tables_text(report: Report) -> str:
    """All tables and notes of a report as plain text."""
    tables = [f"{plain(one['title'])}\n{_table(one['columns'], one['rows'])}" for one in report.get("tables", ())]
    return "\n\n".join([*tables, *map(plain, report.get("notes", ()))])


def _table(columns: Sequence[object], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(Text(plain(name)), justify="right" if place in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    stream = io.StringIO()
    Console(file=stream, width=_WIDTH, color_system=None, force_terminal=False).print(table)
    head, *lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join([head, "-" * max(map(len, (head, *lines))), *lines])


def score_of(value: Any) -> Score:
    """A score in whichever of the allowed forms it came."""
    if isinstance(value, Score):
        return value
    if isinstance(value, Mapping):
        middle, low, high = (math.nan if value[k] is None else value[k] for k in ("value", "low", "high"))
        return Score(middle, low, high, value["n"], value["chance"])
    return Score(math.nan if value is None else float(value), math.nan, math.nan, 0)


def interval(score: Score, unit: str) -> str:
    """The bounds of a score, or nothing where it has none."""
    if not (math.isfinite(score.low) and math.isfinite(score.high)):
        return ""
    return f"{number(score.low, unit).removesuffix(' %')} to {number(score.high, unit)}"


def chance(score: Score, unit: str) -> str:
    return "" if score.chance is None else number(score.chance, unit)
