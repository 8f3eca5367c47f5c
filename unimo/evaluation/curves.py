"""Curves of a run's log: losses of every objective, their accuracies, validation, learning rate and gradient norm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from unimo.train.run_folder import read_log

Points = list[tuple[float, float]]
LAST = {"lr": "learning rate", "norm": "gradient norm before clipping"}
PASSED_OVER = ("step", "seconds", "loss")  # the loss is a weighted sum of parts that are not computed at every step


def curves(log: str | Path) -> list[dict[str, Any]]:
    """Charts of a report, in its form (`unimo.evaluation.report`)."""
    points: dict[str, Points] = {}
    for record in read_log(log):
        for name, value in record.items():
            if name not in PASSED_OVER and isinstance(value, (int, float, str)):
                points.setdefault(name, []).append((record.get("step", math.nan), _number(value)))
    charts: dict[str, dict[str, Points]] = {}
    for name, values in points.items():
        title, line = _place(name)
        charts.setdefault(title, {})[line] = values if name in LAST or _is_validation(name) else smooth(values)
    order = sorted(charts, key=lambda title: (title in LAST.values(), title.startswith("accuracy"), title))
    return [{"title": title, "x": "step", "series": charts[title]} for title in order]


def _is_validation(name: str) -> bool:
    return name.startswith(("val/", "dev"))


def _place(name: str) -> tuple[str, str]:
    """The chart of a log's field, and the name of its line there."""
    line = name.removeprefix("val/")
    if name in LAST:
        return LAST[name], name
    if _is_validation(name):
        measure = next(
            (one for one in ("recall", "perplexity", "loss") if one in name.replace("R@", "recall")), "score"
        )
        return f"validation {line if measure == 'score' and name != 'dev' else measure}", line
    if name.endswith(".accuracy"):
        return "accuracy while training", name.removesuffix(".accuracy")
    return f"{name.partition('.')[0]} loss", name


def smooth(points: Points, windows: int = 50) -> Points:
    """Running mean, exponentially weighted over about 1 / `windows` of the points; starts at the first value.

    What is not finite interrupts the line and leaves the mean as it was.
    """
    keep = 1 - min(1.0, windows / max(1, len(points)))
    mean = weight = 0.0
    line = []
    for x, y in points:
        if not math.isfinite(y):
            line.append((x, math.nan))
            continue
        mean, weight = keep * mean + (1 - keep) * y, keep * weight + 1 - keep
        line.append((x, mean / weight))
    return line


def _number(value: float | str) -> float:
    """Logs spell what JSON cannot hold: "nan", "inf"."""
    try:
        return float(value)
    except ValueError:
        return math.nan
