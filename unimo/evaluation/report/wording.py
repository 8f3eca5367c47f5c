"""Numbers, intervals and strangers' texts as a report shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from unimo.metrics.intervals import Score


def score_of(value: Any) -> Score:
    """A score in whichever of the allowed forms it came."""
    if isinstance(value, Score):
        return value
    if isinstance(value, Mapping):
        low, high, middle = (math.nan if value[k] is None else value[k] for k in ("low", "high", "value"))
        return Score(middle, low, high, value["n"], value["chance"])
    return Score(math.nan if value is None else float(value), math.nan, math.nan, 0)


def number(value: float, unit: str = "") -> str:
    """Four digits, or a share in per cent with one digit behind the point."""
    if not math.isfinite(value):
        return "not defined"
    if unit == "%":
        return f"{100 * value:.1f} %"
    if isinstance(value, int) or abs(value) >= 1000:
        shown = f"{value:,.0f}"
    else:
        shown = f"{value:#.4g}" if abs(value) >= 0.001 else f"{value:.3g}"
    return f"{shown} {plain(unit)}".strip()


def interval(score: Score, unit: str) -> str:
    """The bounds of a score, or nothing where it has none."""
    if not (math.isfinite(score.low) and math.isfinite(score.high)):
        return ""
    return f"{number(score.low, unit).removesuffix(' %')} to {number(score.high, unit)}"


def plain(value: object) -> str:
    """One line without control and direction marks, which could forge a line or turn a sentence round."""
    joiners = "\u200c\u200d"  # parts of words and of emoji
    return "".join(c if c.isprintable() or c in joiners else " " if c.isspace() else "\ufffd" for c in str(value))


def escaped(value: object) -> str:
    """Ready for HTML, between tags or inside a quoted attribute."""
    return escape(plain(value), quote=True)
