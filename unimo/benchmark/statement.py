"""The statement of a campaign as Markdown: of every ingredient, what it buys in each group of tasks, and each score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unimo.finetune.benchmarks.published_scores import ABLATIONS
from unimo.formatting import markdown_table, with_interval

RULE = (
    "Difference: with minus without the ingredient, on the same items, its 95 % interval by the paired bootstrap over "
    "items (summed over seeds). p: corrected by Holm over the tasks of the comparison. Better or worse: p below 0.05, "
    "and the same sign with every seed."
)
VERDICTS = ("better", "worse", "no difference", "unknown")


def statement(whole: Mapping[str, Any]) -> str:
    """Markdown of what `unimo.benchmark.campaign_run` saves."""
    campaign = whole["campaign"]
    lines = [f"# {whole['title']}", "", *in_lines(whole), ""]
    lines += [f"{campaign['steps']:,} steps of pre-training each. {RULE}", ""]
    for ends, rows in by_comparison(whole).items():
        lines += _comparison(*ends, rows)
    if whole["without data"]:
        absent = ", ".join(f"{name} ({file})" for name, file in whole["without data"].items())
        lines += [f"Tasks without data: {absent}.", ""]
    if whole["missing"]:
        lines += [f"Not finished: {', '.join(whole['missing'])}.", ""]
    return "\n".join(lines)


def in_lines(whole: Mapping[str, Any]) -> list[str]:
    """A line for each ingredient: what it made better and worse, by how much, and how often no difference was found."""
    lines = []
    for (ingredient, with_it, without), rows in by_comparison(whole).items():
        found = []
        for verdict in ("better", "worse"):
            named = [f"{row['task']} {_difference(row)}" for row in rows if row["verdict"] == verdict]
            found.append(f"{verdict} on {', '.join(named) or 'none'}")
        undecided = sum(row["verdict"] not in ("better", "worse") for row in rows)
        seeds = len(rows[0]["seeds"])
        about = f"{with_it} beside {without}, {seeds} seed{'s' * (seeds > 1)}"
        lines.append(f"- **{ingredient}** ({about}): {'; '.join(found)}; no difference on {undecided}")
    return lines


def by_comparison(whole: Mapping[str, Any]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """(ingredient, run with it, run without it) -> its rows."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in whole["comparisons"]:
        found.setdefault((row["ingredient"], row["with"], row["without"]), []).append(row)
    return found


def _difference(row: Mapping[str, Any]) -> str:
    return with_interval(row["difference"], row["unit"], signed=True)


def _comparison(ingredient: str, with_it: str, without: str, rows: list[dict[str, Any]]) -> list[str]:
    seeds = ", ".join(map(str, rows[0]["seeds"]))
    lines = [f"## {ingredient}: {with_it} beside {without}", "", f"Seeds {seeds}.", ""]
    for group in dict.fromkeys(row["group"] for row in rows):
        verdicts = [row["verdict"] for row in rows if row["group"] == group]
        counted = ", ".join(f"{verdicts.count(one)} {one}" for one in VERDICTS if one in verdicts)
        lines.append(f"- {group}: {counted}")
    lines += [f"- the papers: {line}" for line in ABLATIONS.get(ingredient, ())]
    head = ["group", "task", "metric", "without", "with", "difference", "p", "verdict"]
    cells = []
    for row in rows:
        scores = [with_interval(row[side], row["unit"]) for side in ("score_without", "score_with")]
        difference = _difference(row) if row["difference"] else "–"
        p = "–" if row["p_holm"] is None else f"{row['p_holm']:.3f}"
        cells.append([row["group"], row["task"], row["metric"], *scores, difference, p, row["verdict"]])
    return [*lines, "", *markdown_table(head, *cells), ""]
