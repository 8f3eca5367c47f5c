"""A report as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from unimo.errors import UnimoError
from unimo.evaluation.report.terminal import chance, interval, score_of
from unimo.evaluation.report.written import Report
from unimo.formatting import number
from unimo.html_pages import line_chart, thumbnail, write_page
from unimo.metrics.intervals import Score

_IMAGE_SIDE = 360  # pixels of the longer side kept in the page
_HEADLINE = 3  # scores on the first screen


def render(report: Report, path: str | Path) -> None:
    """Writes the page to `path`, whole or not at all."""
    rows = report.get("scores", ())
    write_page(
        path,
        title=report["title"],
        lead=report.get("summary", ""),
        headline=_headline(rows),
        scores=[(task, [_score_row(row) for row in some]) for task, some in groupby(rows, key=lambda row: row["task"])],
        charts=[_chart(curve) for curve in report.get("curves", ())],
        examples=[{**part, "items": [_example(item) for item in part["items"]]} for part in report.get("examples", ())],
        **{key: report.get(key, ()) for key in ("tables", "notes", "facts")},
    )


def _headline(rows: Sequence[Report]) -> list[tuple[str, str, str, str]]:
    """Value, metric, task and baseline of the first scores that have a baseline, one of each task before a second."""
    found: list[tuple[int, tuple[str, str, str, str]]] = []
    for row in rows:
        baseline = "" if row.get("baseline") else _baseline(row, rows)
        if baseline:
            value = number(score_of(row["score"]).value, row.get("unit", ""))
            earlier = sum(task == row["task"] for _, (_, _, task, _) in found)
            found.append((earlier, (value, row["metric"], row["task"], baseline)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])][:_HEADLINE]


def _baseline(row: Report, rows: Sequence[Report]) -> str:
    """What a score is to be compared with: the baselines of its metric, and chance."""
    score, unit = score_of(row["score"]), row.get("unit", "")
    beside = [
        f"{other['metric'].removeprefix(row['metric']).strip(' ,')}: {number(score_of(other['score']).value, unit)}"
        for other in rows
        if other.get("baseline") and other["task"] == row["task"] and other["metric"].startswith(f"{row['metric']},")
    ]
    return "; ".join(beside + ([f"chance: {chance(score, unit)}"] if score.chance is not None else []))


def _score_row(row: Report) -> dict[str, Any]:
    score, unit = score_of(row["score"]), row.get("unit", "")
    return {
        "metric": row["metric"],
        "value": number(score.value, unit),
        "interval": interval(score, unit),
        "chance": chance(score, unit),
        "n": f"{score.n:,}" if score.n else "",
        "note": row.get("note", ""),
        "bar": _bar(score) if unit == "%" and math.isfinite(score.value) else None,
    }


def _bar(score: Score) -> dict[str, float | None]:
    """Where the interval, the value and chance lie between 0 and 1, in per cent."""

    def place(x: float) -> float:
        return round(100 * min(max(x, 0), 1), 2)

    low, high = (place(x if math.isfinite(x) else score.value) for x in (score.low, score.high))
    guess = None if score.chance is None else place(score.chance)
    return {"low": low, "width": round(high - low, 2), "value": place(score.value), "chance": guess}


def _chart(curve: Report) -> tuple[str, str, str, str | None, list[tuple[str, str]]]:
    try:
        image = line_chart(curve["series"])
    except ImportError:  # a page without its curves is better than no page after an hour's evaluation
        image = None
    names = [(name, next(_last_values(points), "no points")) for name, points in curve["series"].items()]
    return curve["title"], curve.get("x", ""), curve.get("y", ""), image, names


def _last_values(points: Sequence[tuple[float | None, float | None]]) -> Iterator[str]:
    return (number(y) for x, y in reversed(points) if None not in (x, y) and math.isfinite(x) and math.isfinite(y))  # type: ignore[arg-type]


def _example(item: Report) -> dict[str, Any]:
    """An image that cannot be read says so in its place."""
    shown = {"title": item.get("title", ""), "lines": item.get("lines", ()), "image": None, "missing": ""}
    if item.get("image") is not None:
        try:
            shown["image"] = thumbnail(item["image"], _IMAGE_SIDE)
        except UnimoError as error:
            shown["missing"] = f"image not readable: {error.what}"
    return shown
