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
    lines = [f"# {whole['title']}", "", f"{campaign['steps']:,} steps of pre-training each. {RULE}", ""]
    for ends in dict.fromkeys((row["ingredient"], row["with"], row["without"]) for row in whole["comparisons"]):
        rows = [row for row in whole["comparisons"] if (row["ingredient"], row["with"], row["without"]) == ends]
        lines += _comparison(*ends, rows)
    if whole["without data"]:
        absent = ", ".join(f"{name} ({file})" for name, file in whole["without data"].items())
        lines += [f"Tasks without data: {absent}.", ""]
    if whole["missing"]:
        lines += [f"Not finished: {', '.join(whole['missing'])}.", ""]
    return "\n".join(lines)


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
        difference = with_interval(row["difference"], row["unit"], signed=True) if row["difference"] else "–"
        p = "–" if row["p_holm"] is None else f"{row['p_holm']:.3f}"
        cells.append([row["group"], row["task"], row["metric"], *scores, difference, p, row["verdict"]])
    return [*lines, "", *markdown_table(head, *cells), ""]
