"""Self-contained HTML pages from one Jinja2 template (page.html.j2): reports, and examples of `unimo prepare`.

A page asks for nothing outside itself: no script, no link, no font; images are data URIs and a content security policy
forbids the rest. Captions and file names are strangers' words: whatever the template prints is escaped and on one line.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from PIL import Image

from unimo.data.images import load_rgb, to_rgb
from unimo.disk import disk_error, write_atomic

PALETTE = ("#3b7dd8", "#d9663a", "#34a06a", "#a15fc0", "#b8932a", "#7a8594")  # readable on white and on black
_GREY = "#80858e"


class Thumbnail(NamedTuple):
    uri: str
    width: int
    height: int


def write_page(path: str | Path, **content: Any) -> None:
    """Writes page.html.j2 filled with content (its first lines name the keys) whole or not at all, and its folders."""
    environment = Environment(
        loader=PackageLoader("unimo", "."),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else plain(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template("page.html.j2").render(palette=PALETTE, **content))


def write_text(path: str | Path, text: str) -> None:
    """Writes a file, whole or not at all, in folders that need not be there yet."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise disk_error(fault, path) from fault
    write_atomic(path, text.encode("utf-8", "replace"))


def plain(value: object) -> str:
    """One line without control and direction marks, which could forge a line or turn a sentence round."""
    text = str(value)
    if text.isprintable():
        return text
    joiners = "\u200c\u200d"  # parts of words and of emoji
    return "".join(c if c.isprintable() or c in joiners else " " if c.isspace() else "\ufffd" for c in text)


def marked(html: str, *texts: object) -> Markup:
    """HTML of ours with strangers' texts escaped in its {}."""
    return Markup(html).format(*map(plain, texts))


def thumbnail(image: Image.Image | bytes, side: int = 320, where: object = None) -> Thumbnail:
    """An image as a data URI, its longer side at most `side` pixels. DataError, naming where, if it cannot be read."""
    rgb = to_rgb(image) if isinstance(image, Image.Image) else load_rgb(image, where=where)
    rgb.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "png" if max(rgb.size) <= 64 else "jpeg"  # in a tiny image every pixel counts
    stream = io.BytesIO()
    rgb.save(stream, kind, quality=85)  # PNG has no quality and ignores it
    return Thumbnail(f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}", *rgb.size)


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines over axes as the data URI of an SVG; a NaN or None interrupts a line. ImportError without matplotlib.

    It holds numbers alone: names of series and axes stay in the page, where they are escaped.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unimo", "axes.edgecolor": _GREY}):
        figure = Figure(figsize=(5.2, 2.7), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y", alpha=0.25)
        axes.tick_params(colors=_GREY, labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        for number, points in enumerate(series.values()):
            x, y = np.array(points, dtype=float).reshape(-1, 2).T
            y = np.where(np.isfinite(x) & np.isfinite(y), y, np.nan)
            around = np.isnan(np.concatenate([[np.nan], y, [np.nan]]))
            alone = around[:-2] & around[2:] & ~np.isnan(y)  # a line of one point would not be seen
            color, style_of = PALETTE[number % len(PALETTE)], "-" if number < len(PALETTE) else "--"
            axes.plot(x, y, style_of, color=color, linewidth=1.3)
            axes.plot(x[alone], y[alone], ".", color=color)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}"
