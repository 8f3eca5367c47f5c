"""Line plots as SVG: unbroken runs of points over axes with round ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from unimo.evaluation.report.schema import Report
from unimo.evaluation.report.wording import escaped

_WIDTH, _HEIGHT = 440, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 38  # room for tick labels
_POINTS = 400  # columns of a plot; more points than this are shown by the range in each column

Points = list[tuple[float, float]]


def plot(series: Sequence[Sequence[Points]], curve: Report) -> str:
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
    x_label, y_label = escaped(curve.get("x", "")), escaped(curve.get("y", ""))
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escaped(curve["title"])}">'
        f"{''.join(marks)}{''.join(lines)}"
        f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{x_label}</text>'
        f'<text class="axis" x="{_LEFT}" y="{_HEIGHT - 4}">{y_label}</text></svg>'
    )


def finite_runs(points: Sequence[tuple[float, float]]) -> list[Points]:
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
