"""A report dictionary as one self-contained HTML page, as a table for the terminal, and as strict JSON.

The page asks for nothing outside itself: no script, no link, no font; pictures are data URIs and a content
security policy forbids the rest. Any text in it may be a stranger's file name or caption, so all is escaped.

The dictionary (every key optional unless marked *; an unknown key is an error):

    title *    str
    facts      {name: value}             how the numbers came about, in this order: command, commit, seed,
                                         machine, checkpoint hash, data, minutes, ...; printed with str()
    scores     [{"task" *:   str         neighbouring rows of one task are shown together
                 "metric" *: str
                 "score" *:  Score | its to_dict() | number | None
                 "unit":     str         "%": a share 0..1, shown times 100; other text follows the number
                 "note":     str}]
    curves     [{"title" *: str, "x": str, "y": str,     axis labels
                 "series" *: {name: [(x, y), ...]}}]     a NaN or None interrupts the line
    tables     [{"title" *: str, "note": str,
                 "columns" *: [str], "rows" *: [[str]]}]     what has another form than scores
    galleries  [{"title" *: str, "note": str,
                 "items" *: [{"image": PIL image | encoded bytes | None, "title": str, "lines": [str]}]}]
    notes      [str]                     what a reader must know to judge the numbers
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimo.config import disk_error, write_atomic
from unimo.data.images import load_rgb, to_rgb
from unimo.errors import DataError, UnimoError, nearest
from unimo.metrics.intervals import Score

__all__ = ["render", "scores_table", "tables_text", "write_json"]

Report = Mapping[str, Any]

_KEYS = {
    "report": {"title", "facts", "scores", "tables", "curves", "galleries", "notes"},
    "scores": {"task", "metric", "score", "unit", "note"},
    "tables": {"title", "note", "columns", "rows"},
    "curves": {"title", "x", "y", "series"},
    "galleries": {"title", "note", "items"},
    "items": {"image", "title", "lines"},
}
_REQUIRED = {
    "report": {"title"},
    "scores": {"task", "metric", "score"},
    "tables": {"title", "columns", "rows"},
    "curves": {"title", "series"},
    "galleries": {"title", "items"},
    "items": set(),
}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_CODE_FACTS = {"command", "commit", "checkpoint", "checkpoint hash", "sha256"}
_PICTURE_SIDE = 360  # pixels of the longer side kept in the page
_POINTS = 400  # columns of a plot; more points than this are shown by the range in each column


def render(report: Report, path: str | Path) -> None:
    """Write the page to `path`, whole or not at all. Raises DataError for a dictionary off the schema."""
    _check(report)
    sections = [
        _scores(report.get("scores", ())),
        *(_table(table) for table in report.get("tables", ())),
        _notes(report.get("notes", ())),
        _curves(report.get("curves", ())),
        *(_gallery(gallery) for gallery in report.get("galleries", ())),
        _facts(report.get("facts", {})),
    ]
    body = "".join(sections)
    title = _text(report["title"])
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{title}</h1></header>
<main>
{body}</main>
</body>
</html>
"""
    _write(Path(path), page)


def scores_table(report: Report) -> str:
    """The scores as aligned plain text, one row per score, safe to print in a terminal."""
    _check(report)
    rows = [("task", "metric", "score", "95 % interval", "chance", "n", "note")]
    for row in report.get("scores", ()):
        score, unit = _score(row["score"]), row.get("unit", "")
        rows.append(
            (
                _plain(row["task"]),
                _plain(row["metric"]),
                _number(score.value, unit),
                _interval(score, unit),
                "" if score.chance is None else _number(score.chance, unit),
                f"{score.n:,}" if score.n else "",
                _plain(row.get("note", "")),
            )
        )
    return _aligned(rows, right=(2, 4, 5))


def tables_text(report: Report) -> str:
    """All tables and notes of a report as aligned plain text, safe to print in a terminal."""
    _check(report)
    told = []
    for table in report.get("tables", ()):
        rows = [[_plain(cell) for cell in row] for row in (table["columns"], *table["rows"])]
        told.append(f"{_plain(table['title'])}\n{_aligned(rows)}")
    return "\n\n".join([*told, *map(_plain, report.get("notes", ()))])


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Cells in columns, a line under the first row. right: columns that are flush right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def write_json(report: Report, path: str | Path) -> None:
    """Write the report as strict JSON, whole or not at all; pictures are left out.

    JSON knows no NaN or infinity: such numbers become null, and a note says which. `render` takes
    the result back.
    """
    _check(report)
    undefined: list[str] = []
    data = _jsonable(report, "", undefined)
    if undefined:
        data["notes"] = [
            *data.get("notes", ()),
            "not a finite number, written as null: " + ", ".join(undefined),
        ]
    _write(Path(path), json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


# ---- sections of the page


def _scores(scores: Sequence[Report]) -> str:
    if not scores:
        return ""
    groups = []
    for task, rows in groupby(scores, key=lambda row: row["task"]):
        cells = "".join(_score_row(row) for row in rows)
        groups.append(f'<tbody><tr><th colspan="5" scope="rowgroup">{_text(task)}</th></tr>{cells}</tbody>')
    return _section(
        "Scores",
        "<table><thead><tr><th>Metric</th><th>Score</th><th>95&#8239;% interval</th><th>Chance</th>"
        f'<th class="n">Items</th></tr></thead>{"".join(groups)}</table>',
        "Bar: 95 % interval on a scale from 0 to 100 %. Line in it: the score. Grey line: chance.",
    )


def _score_row(row: Report) -> str:
    score, unit = _score(row["score"]), row.get("unit", "")
    bar = _interval_bar(score) if unit == "%" else ""
    chance = "" if score.chance is None else _number(score.chance, unit)
    return (
        f'<tr><th scope="row">{_text(row["metric"])}</th>'
        f'<td class="value">{_text(_number(score.value, unit))}</td>'
        f"<td>{bar}{_small(_interval(score, unit))}{_small(row.get('note'))}</td>"
        f"<td>{_text(chance)}</td>"
        f'<td class="n">{f"{score.n:,}" if score.n else ""}</td></tr>'
    )


def _small(text: str | None) -> str:
    return f"<small>{_text(text)}</small>" if text else ""


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
        series = {name: _finite_runs(points) for name, points in curve["series"].items()}
        legend = "".join(
            f'<li class="s{place % 6}"><i></i>{_text(name)} <b>{_last(runs)}</b></li>'
            for place, (name, runs) in enumerate(series.items())
        )
        figures.append(
            f"<figure><figcaption><h3>{_text(curve['title'])}</h3><ul>{legend}</ul></figcaption>"
            f"{_plot(list(series.values()), curve)}</figure>"
        )
    return _section(
        "Curves",
        f'<div class="plots">{"".join(figures)}</div>',
        "The number beside a name is its last value.",
    )


def _last(runs: Sequence[Points]) -> str:
    return _number(runs[-1][-1][1]) if runs else "no points"


def _table(table: Report) -> str:
    heads = "".join(f"<th>{_text(name)}</th>" for name in table["columns"])
    rows = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table["rows"])
    body = f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    return _section(table["title"], body, table.get("note", ""))


def _gallery(gallery: Report) -> str:
    figures = []
    for item in gallery["items"]:
        title = f"<h3>{_text(item['title'])}</h3>" if item.get("title") else ""
        lines = "".join(f"<p>{_text(line)}</p>" for line in item.get("lines", ()))
        picture = _picture(item.get("image"), item.get("title", ""))
        figures.append(f"<figure>{picture}<figcaption>{title}{lines}</figcaption></figure>")
    return _section(gallery["title"], f'<div class="gallery">{"".join(figures)}</div>', gallery.get("note", ""))


def _notes(notes: Sequence[str]) -> str:
    return _section("Notes", f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in notes)}</ul>") if notes else ""


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    rows = []
    for name, value in facts.items():
        tag = "code" if str(name).lower() in _CODE_FACTS else "span"
        rows.append(f"<div><dt>{_text(name)}</dt><dd><{tag}>{_text(value)}</{tag}></dd></div>")
    return _section("How these numbers were made", f"<dl>{''.join(rows)}</dl>")


def _section(title: str, body: str, note: str = "") -> str:
    lead = f'<p class="note">{_text(note)}</p>' if note else ""
    return f"<section><h2>{_text(title)}</h2>{lead}{body}</section>\n"


def _picture(image: Image.Image | bytes | None, title: str) -> str:
    """A picture as a data URI, small enough for a page; one that cannot be read says so in its place."""
    if image is None:
        return ""
    try:
        rgb = to_rgb(image) if isinstance(image, Image.Image) else load_rgb(image)
    except UnimoError as error:
        return f'<p class="missing">picture not readable: {_text(error.what)}</p>'
    rgb.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.LANCZOS)
    patch = max(rgb.size) <= 64  # so small that every pixel counts
    kind = "png" if patch else "jpeg"
    file = io.BytesIO()
    rgb.save(file, kind, quality=88)  # PNG has no quality and ignores it
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<img class="{"patch" if patch else "photo"}" src="data:image/{kind};base64,{encoded}" '
        f'alt="{_text(title)}" width="{rgb.width}" height="{rgb.height}">'
    )


# ---- line plots

_WIDTH, _HEIGHT = 440, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 38  # room for tick labels

Points = list[tuple[float, float]]


def _plot(series: Sequence[Sequence[Points]], curve: Report) -> str:
    """Lines over axes with round ticks; `series` holds the unbroken runs of each line."""
    points = [point for runs in series for run in runs for point in run]
    if not points:
        return '<p class="missing">no finite points</p>'
    (x_low, x_high), (y_low, y_high) = (_span(values) for values in zip(*points))
    x_ticks, y_ticks = _ticks(x_low, x_high, 5), _ticks(y_low, y_high, 5)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    marks = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        label = _tick_label(tick, y_ticks)
        marks.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in x_ticks:
        x, y = place(tick, y_low)
        label = _tick_label(tick, x_ticks)
        marks.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{label}</text>')
    lines = []
    for number, runs in enumerate(series):
        for run in runs:
            placed = [place(x, y) for x, y in _thin(run)]
            if len(placed) == 1:
                placed *= 2  # a round line end makes a lone point visible
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
            lines.append(f'<path class="line s{number % 6}{" again" if number >= 6 else ""}" d="{path}"/>')
    x_label, y_label = _text(curve.get("x", "")), _text(curve.get("y", ""))
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_text(curve["title"])}">'
        f"{''.join(marks)}{''.join(lines)}"
        f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{x_label}</text>'
        f'<text class="axis" x="{_LEFT}" y="{_HEIGHT - 4}">{y_label}</text></svg>'
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value, drawn apart where they are all but equal."""
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    return low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """About `wanted` round numbers (multiples of 1, 2 or 5 times a power of ten) from `low` to `high`."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda candidate: abs(math.log(candidate / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _tick_label(tick: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0]
    largest = max(abs(ticks[0]), abs(ticks[-1]))
    if largest >= 1e7 or step < 1e-4:
        return f"{tick:.3g}"
    return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _finite_runs(points: Sequence[tuple[float, float]]) -> list[Points]:
    """The line cut where a value is missing or not finite."""
    runs: list[Points] = [[]]
    for x, y in points:
        if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
            runs.append([])
        else:
            runs[-1].append((float(x), float(y)))
    return [run for run in runs if run]


def _thin(run: Points) -> Points:
    """At most two points per column, the lowest and the highest, so that no spike is lost."""
    if len(run) <= 2 * _POINTS:
        return run
    edges = np.linspace(0, len(run), _POINTS + 1).astype(int)
    columns = [run[start:stop] for start, stop in pairwise(edges)]
    kept = [{min(column, key=lambda p: p[1]), max(column, key=lambda p: p[1])} for column in columns]
    return [run[0], *(point for pair in kept for point in sorted(pair)), run[-1]]


# ---- numbers and texts


def _score(value: Any) -> Score:
    """A score in whichever of the allowed forms it came."""
    if isinstance(value, Score):
        return value
    if isinstance(value, Mapping):
        low, high, number = (math.nan if value[k] is None else value[k] for k in ("low", "high", "value"))
        return Score(number, low, high, value["n"], value["chance"])
    return Score(math.nan if value is None else float(value), math.nan, math.nan, 0)


def _number(value: float, unit: str = "") -> str:
    if not math.isfinite(value):
        return "not defined"
    if unit == "%":
        return f"{100 * value:.1f} %"
    if isinstance(value, int) or abs(value) >= 1000:
        shown = f"{value:,.0f}"
    else:
        shown = f"{value:#.4g}" if abs(value) >= 0.001 else f"{value:.3g}"
    return f"{shown} {_plain(unit)}".strip()


def _interval(score: Score, unit: str) -> str:
    if not (math.isfinite(score.low) and math.isfinite(score.high)):
        return ""
    return f"{_number(score.low, unit).removesuffix(' %')} to {_number(score.high, unit)}"


def _plain(value: object) -> str:
    """One line without control and direction marks, which could forge a line or turn a sentence round."""
    joiners = "\u200c\u200d"  # parts of words and of emoji
    return "".join(c if c.isprintable() or c in joiners else " " if c.isspace() else "\ufffd" for c in str(value))


def _text(value: object) -> str:
    """Ready for HTML, between tags or inside a quoted attribute."""
    return escape(_plain(value), quote=True)


# ---- checks and files


def _check(report: Report) -> None:
    for where, what, entry in _entries(report):
        if not isinstance(entry, Mapping):
            raise DataError("a report entry is not a dictionary", where=where, got=type(entry).__name__)
        for key in entry:
            if key not in _KEYS[what]:
                near = nearest(str(key), _KEYS[what])
                raise DataError(
                    "unknown key in a report",
                    where=where,
                    got=key,
                    expected=", ".join(sorted(_KEYS[what])),
                    do=f"did you mean {near!r}?" if near else None,
                )
        missing = _REQUIRED[what] - set(entry)
        if missing:
            raise DataError("a key is missing in a report", where=where, expected=", ".join(sorted(missing)))


def _entries(report: Report) -> Iterator[tuple[str, str, Any]]:
    """(where, kind, dictionary) of every dictionary with fixed keys."""
    yield "report", "report", report
    for kind in ("scores", "tables", "curves", "galleries"):
        for i, entry in enumerate(report.get(kind, ())):
            yield f"{kind}[{i}]", kind, entry
            if kind == "galleries":
                for j, item in enumerate(entry.get("items", ())):
                    yield f"galleries[{i}].items[{j}]", "items", item


def _jsonable(value: Any, where: str, undefined: list[str]) -> Any:
    """Plain JSON types; pictures dropped, non-finite numbers None and listed in `undefined`."""
    if isinstance(value, Score):
        value = value.to_dict()
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Mapping):
        kept = {str(k): v for k, v in value.items() if not isinstance(v, (Image.Image, bytes, bytearray))}
        return {k: _jsonable(v, f"{where}.{k}".lstrip("."), undefined) for k, v in kept.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v, f"{where}[{i}]", undefined) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        undefined.append(f"{where} ({value})")
        return None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise DataError("a report holds something JSON cannot", where=where, got=type(value).__name__)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise disk_error(fault, path) from fault
    write_atomic(path, text.encode("utf-8", "replace"))


_STYLE = """
:root {
  --paper: #fbfaf8; --card: #fff; --ink: #1c1d20; --quiet: #666a73; --hair: #e4e2dd; --accent: #1d5fa8;
  --tint: #bcd3ec;
  --s0: #1d5fa8; --s1: #c8562b; --s2: #2f8a5b; --s3: #8a4fa3; --s4: #a8861d; --s5: #5c6570;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1c1f23; --ink: #e8e6e1; --quiet: #9aa0aa; --hair: #2e3238;
    --accent: #7db4ef; --tint: #2d4f75;
    --s0: #7db4ef; --s1: #f0936b; --s2: #6cc795; --s3: #c69be0; --s4: #dcc06a; --s5: #a3abb6;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 62rem; padding: 3.5rem 1.5rem 5rem; background: var(--paper); color:
  var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1 {
  font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; font-weight: 650; margin: 0; text-wrap:
  balance;
}
h2 { font-size: 1.2rem; line-height: 1.3; letter-spacing: -.01em; font-weight: 650; margin: 0 0 .25rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 0; }
section { margin-top: 3.25rem; }
.note { color: var(--quiet); font-size: .875rem; margin: 0 0 1.1rem; max-width: 44rem; }
small { display: block; color: var(--quiet); font-size: .8rem; font-weight: 400; line-height: 1.4; }

table { width: 100%; border-collapse: collapse; }
th, td {
  text-align: left; vertical-align: top; padding: .6rem 1rem .6rem 0; border-bottom: 1px solid
  var(--hair);
}
thead th {
  color: var(--quiet); font-size: .8rem; font-weight: 400; padding-bottom: .35rem; white-space:
  nowrap;
}
tbody th { font-weight: 500; }
tbody th[colspan] { padding-top: 1.6rem; font-weight: 650; }
td { white-space: nowrap; color: var(--quiet); }
td:nth-child(3) { width: 42%; white-space: normal; }
.wide { overflow-x: auto; }
td.value { color: var(--ink); font-weight: 650; }
.n, td:nth-child(4), thead th:nth-child(4) { text-align: right; }
.wide td:nth-child(n), .wide thead th:nth-child(n) {
  width: auto; text-align: left; white-space: normal; overflow-wrap: normal; font-size: .8rem;
  padding-right: .8rem;
}
.n { padding-right: 0; }
.bar { display: block; width: 100%; height: 12px; margin: .4rem 0 .25rem; }
.track { fill: var(--hair); }
.range { fill: var(--tint); }
.mark { fill: var(--accent); }
.chance { fill: var(--quiet); }

figure { margin: 0; }
.plots { display: grid; gap: 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.plots ul {
  list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .2rem 0 .5rem;
  padding: 0; font-size: .8rem; color: var(--quiet);
}
.plots li b { color: var(--ink); font-weight: 600; }
.plots i {
  display: inline-block; width: .7rem; height: .2rem; border-radius: .1rem; background: var(--c);
  margin-right: .4rem; vertical-align: middle;
}
.plot { display: block; width: 100%; height: auto; }
.plot text { fill: var(--quiet); font-size: 11px; }
.plot .axis { font-style: italic; }
.grid { stroke: var(--hair); stroke-width: 1; }
.line {
  fill: none; stroke: var(--c); stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke;
}
.again { stroke-dasharray: 5 4; }
.s0 { --c: var(--s0); }
.s1 { --c: var(--s1); }
.s2 { --c: var(--s2); }
.s3 { --c: var(--s3); }
.s4 { --c: var(--s4); }
.s5 { --c: var(--s5); }

.gallery {
  display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem),
  1fr));
}
.gallery figure {
  background: var(--card); border: 1px solid var(--hair); border-radius: .6rem; overflow: hidden;
}
.gallery img {
  display: block; width: 100%; height: auto; max-height: 18rem; object-fit: contain; background: var(--hair);
}
.gallery img.patch { aspect-ratio: 1; image-rendering: pixelated; }
.gallery:has(.patch) { grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.gallery figcaption { padding: .7rem .85rem .85rem; font-size: .875rem; line-height: 1.45; }
.gallery h3 { font-size: .9rem; margin-bottom: .25rem; }
.gallery p { margin: .2rem 0 0; color: var(--quiet); }
.missing {
  color: var(--quiet); font-style: italic; font-size: .875rem; margin: 0; padding: 1rem .85rem;
  border: 1px dashed var(--hair); border-radius: .4rem;
}
section > ul { margin: .5rem 0 0; padding-left: 1.1rem; max-width: 44rem; }
section > ul li { margin: .3rem 0; }

dl { margin: .6rem 0 0; }
dl div {
  display: grid; grid-template-columns: 11rem 1fr; gap: 1rem; padding: .5rem 0; border-top: 1px
  solid var(--hair);
}
dt { color: var(--quiet); font-size: .875rem; } dd { margin: 0; font-size: .9rem; }
code { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }

@media (max-width: 40rem) {
  body { padding: 2rem 1.1rem 3rem; }
  h1 { font-size: 1.55rem; }
  section { margin-top: 2.5rem; }
  .n { display: none; }
  th, td { padding-right: .7rem; }
  td:nth-child(3) { width: 40%; }
  tbody th { overflow-wrap: normal; }
  td:nth-child(4), thead th:nth-child(4) { padding-right: 0; }
  dl div { grid-template-columns: 1fr; gap: 0; }
  .gallery { grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); gap: .8rem; }
}
@media print { section { break-inside: avoid; } }
"""
