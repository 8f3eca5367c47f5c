"""Writes the README's table of results from results/*.json, between its two marks. Run after adding a result.

A file in results/ is what `scripts/keep_result.py` keeps of a run's evaluation.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
ROWS = {  # what the table shows: (task's first words, metric) -> words
    ("Retrieval, held-out", "image to text R@1"): "image to text R@1",
    ("Retrieval, held-out", "image to text R@10"): "image to text R@10",
    ("Retrieval, held-out", "image to text R@1, re-ranked"): "image to text R@1, re-ranked",
    ("Retrieval", "text to image R@10"): "text to image R@10",
    ("Retrieval", "text to image R@10, re-ranked"): "text to image R@10, re-ranked",
    ("Captions against the scene, held-out", "objects with right attributes"): "caption attributes right",
    ("Foils", "all, by cosine"): "hard foils told apart",
    ("Masked words", "captions beside their pictures"): "masked words",
}


def table(folder: Path) -> str:
    """A Markdown table, one line per number, a file's name in front."""
    lines = ["| result | what | score | 95 % interval | chance |", "| --- | --- | --- | --- | --- |"]
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text())
        for row in report["scores"]:
            words = next(
                (w for (task, metric), w in ROWS.items() if row["task"].startswith(task) and row["metric"] == metric),
                None,
            )
            score = row["score"]
            if words is None or "unseen" in row["task"] or not isinstance(score, dict):
                continue
            shown = [score["value"], score["low"], score["high"], score.get("chance")]
            value, low, high, chance = ("" if x is None else f"{100 * x:.1f} %" for x in shown)
            lines.append(f"| [{path.stem}](results/{path.name}) | {words} | {value} | {low} to {high} | {chance} |")
    return "\n".join(lines)


def filled(readme: str, folder: Path) -> str:
    """The README's text with its table made anew."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(folder)}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = filled(path.read_text(), ROOT / "results")
    if "--check" not in sys.argv[1:]:
        path.write_text(text)
    elif text != path.read_text():
        sys.exit("the README's table is not that of results/: run python scripts/readme_results.py")
