"""A report as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from unimo.data.images import load_rgb, to_rgb
from unimo.errors import UnimoError
from unimo.evaluation.report.files import write_text
from unimo.evaluation.report.plots import Points, finite_runs, plot
from unimo.evaluation.report.schema import Report, check
from unimo.evaluation.report.style import STYLE
from unimo.evaluation.report.wording import escaped, interval, number, score_of
from unimo.metrics.intervals import Score

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_CODE_FACTS = {"command", "commit", "checkpoint", "checkpoint hash", "sha256"}
_IMAGE_SIDE = 360  # pixels of the longer side kept in the page


def render(report: Report, path: str | Path) -> None:
    """Write the page to `path`, whole or not at all. Raises DataError for a dictionary off the schema."""
    check(report)
    sections = [
        _scores(report.get("scores", ())),
        *(_table(table) for table in report.get("tables", ())),
        _notes(report.get("notes", ())),
        _curves(report.get("curves", ())),
        *(_gallery(gallery) for gallery in report.get("galleries", ())),
        _facts(report.get("facts", {})),
    ]
    body = "".join(sections)
    title = escaped(report["title"])
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{title}</h1></header>
<main>
{body}</main>
</body>
</html>
"""
    write_text(Path(path), page)


def _scores(scores: Sequence[Report]) -> str:
    if not scores:
        return ""
    groups = []
    for task, rows in groupby(scores, key=lambda row: row["task"]):
        cells = "".join(_score_row(row) for row in rows)
        groups.append(f'<tbody><tr><th colspan="5" scope="rowgroup">{escaped(task)}</th></tr>{cells}</tbody>')
    return _section(
        "Scores",
        "<table><thead><tr><th>Metric</th><th>Score</th><th>95&#8239;% interval</th><th>Chance</th>"
        f'<th class="n">Items</th></tr></thead>{"".join(groups)}</table>',
        "Bar: 95 % interval on a scale from 0 to 100 %. Line in it: the score. Grey line: chance.",
    )


def _score_row(row: Report) -> str:
    score, unit = score_of(row["score"]), row.get("unit", "")
    bar = _interval_bar(score) if unit == "%" else ""
    chance = "" if score.chance is None else number(score.chance, unit)
    return (
        f'<tr><th scope="row">{escaped(row["metric"])}</th>'
        f'<td class="value">{escaped(number(score.value, unit))}</td>'
        f"<td>{bar}{_small(interval(score, unit))}{_small(row.get('note'))}</td>"
        f"<td>{escaped(chance)}</td>"
        f'<td class="n">{f"{score.n:,}" if score.n else ""}</td></tr>'
    )


def _small(text: str | None) -> str:
    return f"<small>{escaped(text)}</small>" if text else ""


def _interval_bar(score: Score) -> str:
    """Where the interval, the value and chance lie between 0 and 1."""
    if not math.isfinite(score.value):
        return ""
    value = 100 * min(max(score.value, 0), 1)
    low, high = (100 * min(max(v, 0), 1) if math.isfinite(v) else value for v in (score.low, score.high))
    chance = (
        "" if score.chance is None else f'<rect class="chance" x="{100 * score.chance:.2f}" width=".6" height="8"/>'
    )
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" y="3.5" width="100" height="1"/>{chance}'
        f'<rect class="range" x="{low:.2f}" y="1.5" width="{max(high - low, 0.4):.2f}" height="5"/>'
        f'<rect class="mark" x="{value - 0.4:.2f}" width=".8" height="8"/></svg>'
    )


def _curves(curves: Sequence[Report]) -> str:
    if not curves:
        return ""
    figures = []
    for curve in curves:
        series = {name: finite_runs(points) for name, points in curve["series"].items()}
        legend = "".join(
            f'<li class="s{place % 6}"><i></i>{escaped(name)} <b>{_last(runs)}</b></li>'
            for place, (name, runs) in enumerate(series.items())
        )
        figures.append(
            f"<figure><figcaption><h3>{escaped(curve['title'])}</h3><ul>{legend}</ul></figcaption>"
            f"{plot(list(series.values()), curve)}</figure>"
        )
    return _section(
        "Curves",
        f'<div class="plots">{"".join(figures)}</div>',
        "The number beside a name is its last value.",
    )


def _last(runs: Sequence[Points]) -> str:
    return number(runs[-1][-1][1]) if runs else "no points"


def _table(table: Report) -> str:
    heads = "".join(f"<th>{escaped(name)}</th>" for name in table["columns"])
    rows = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in table["rows"])
    body = f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    return _section(table["title"], body, table.get("note", ""))


def _gallery(gallery: Report) -> str:
    figures = []
    for item in gallery["items"]:
        title = f"<h3>{escaped(item['title'])}</h3>" if item.get("title") else ""
        lines = "".join(f"<p>{escaped(line)}</p>" for line in item.get("lines", ()))
        image = _image(item.get("image"), item.get("title", ""))
        figures.append(f"<figure>{image}<figcaption>{title}{lines}</figcaption></figure>")
    return _section(gallery["title"], f'<div class="gallery">{"".join(figures)}</div>', gallery.get("note", ""))


def _notes(notes: Sequence[str]) -> str:
    return _section("Notes", f"<ul>{''.join(f'<li>{escaped(note)}</li>' for note in notes)}</ul>") if notes else ""


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    rows = []
    for name, value in facts.items():
        tag = "code" if str(name).lower() in _CODE_FACTS else "span"
        rows.append(f"<div><dt>{escaped(name)}</dt><dd><{tag}>{escaped(value)}</{tag}></dd></div>")
    return _section("How these numbers were made", f"<dl>{''.join(rows)}</dl>")


def _section(title: str, body: str, note: str = "") -> str:
    lead = f'<p class="note">{escaped(note)}</p>' if note else ""
    return f"<section><h2>{escaped(title)}</h2>{lead}{body}</section>\n"


def _image(image: Image.Image | bytes | None, title: str) -> str:
    """An image as a data URI, small enough for a page; one that cannot be read says so in its place."""
    if image is None:
        return ""
    try:
        rgb = to_rgb(image) if isinstance(image, Image.Image) else load_rgb(image)
    except UnimoError as error:
        return f'<p class="missing">image not readable: {escaped(error.what)}</p>'
    rgb.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE), Image.Resampling.LANCZOS)
    patch = max(rgb.size) <= 64  # so small that every pixel counts
    kind = "png" if patch else "jpeg"
    file = io.BytesIO()
    rgb.save(file, kind, quality=88)  # PNG has no quality and ignores it
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<img class="{"patch" if patch else "photo"}" src="data:image/{kind};base64,{encoded}" '
        f'alt="{escaped(title)}" width="{rgb.width}" height="{rgb.height}">'
    )
