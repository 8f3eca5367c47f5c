"""The differences of a campaign as a forest plot: for each ingredient and task a point and its 95 % interval."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from unimo.benchmark.statement import by_comparison
from unimo.metrics.verdict import is_smaller_better

COLORS = {"better": "#2a7f62", "worse": "#b3423a", "no difference": "#7a7a7a"}


def forest_plot(whole: Mapping[str, Any]) -> bytes | None:
    """SVG of what `unimo.benchmark.campaign_run` saves, a panel for each comparison; None without tested differences.

    Points right of 0 speak for the ingredient, whatever the metric; all metrics times 100. ImportError without
    matplotlib.
    """
    panels = {ends: [row for row in rows if row["difference"]] for ends, rows in by_comparison(whole).items()}
    names = list(dict.fromkeys((row["group"], row["task"]) for rows in panels.values() for row in rows))
    if not names:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unimo", "font.size": 8}):
        figure = Figure(figsize=(3 + 2.1 * len(panels), 1 + 0.2 * len(names)), layout="constrained")
        subplots = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, ((ingredient, with_it, without), rows) in zip(subplots, panels.items()):
            axes.set_title(f"{ingredient}\n{with_it} – {without}")
            axes.axvline(0, color="#bbbbbb", linewidth=0.8)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.set_yticks(range(len(names)), [task for _, task in names])
            for row in rows:
                scale = -100 if is_smaller_better(row["metric"]) else 100
                value, *ends = (scale * row["difference"][key] for key in ("value", "low", "high"))
                y, color = names.index((row["group"], row["task"])), COLORS[row["verdict"]]
                axes.plot(ends, [y, y], color=color, linewidth=1.3)
                axes.plot([value], [y], "o", color=color, markersize=3.5)
        axes.set_ylim(len(names) - 0.5, -0.5)  # the axis of all panels: the first task stands above
        figure.supxlabel("difference, times 100; green: better, red: worse, grey: no difference")
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
