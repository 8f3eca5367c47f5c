"""Numbers of a report as text: values in a unit, and scores with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

UNDEFINED = "undefined"


def number(value: float | None, unit: str = "", *, signed: bool = False) -> str:
    """Four digits, or a fraction in per cent with one digit behind the point; "undefined" for nan and None."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    sign = "+" if signed else ""
    if unit == "%":
        return f"{100 * value:{sign}.1f} %"
    if isinstance(value, int) or abs(value) >= 1000:
        shown = f"{value:{sign},.0f}"
    else:
        shown = f"{value:{sign}#.4g}" if abs(value) >= 0.001 else f"{value:{sign}.3g}"
    return f"{shown} {unit}".strip()


def markdown_table(head: Sequence[str], *rows: Sequence[str]) -> list[str]:
    """Lines of a Markdown table; what stands in a cell cannot end it."""
    plain = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (head, ["---"] * len(head), *rows)]
    return [f"| {' | '.join(row)} |" for row in plain]


def with_interval(score: Mapping[str, Any] | None, unit: str = "", *, signed: bool = False) -> str:
    """value unit [low, high] of a score as a report's JSON has it; the value alone where it has no interval."""
    value, low, high = ((score or {}).get(key) for key in ("value", "low", "high"))
    text = number(value, unit, signed=signed)
    if UNDEFINED in (text, number(low), number(high)):
        return text
    low, high = (number(end, unit, signed=signed).removesuffix(unit).strip() for end in (low, high))
    return f"{text} [{low}, {high}]"
