"""Writes the README's table of results from results/*.json, between its two marks. Run after adding a result.

A file in results/ is what `scripts/keep_result.py` keeps of a run's evaluation.json.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
ABLATIONS = "<!-- ablations -->", "<!-- end of ablations -->"
TASKS = "<!-- tasks -->", "<!-- end of tasks -->"
ROWS = {  # what the table shows: (task's first words, metric) -> words
    ("Retrieval, held-out", "image to text R@1"): "image to text R@1",
    ("Retrieval, held-out", "image to text R@10"): "image to text R@10",
    ("Retrieval, held-out", "image to text R@1, re-ranked"): "image to text R@1, re-ranked",
    ("Retrieval", "text to image R@10"): "text to image R@10",
    ("Retrieval", "text to image R@10, re-ranked"): "text to image R@10, re-ranked",
    ("Captions against the scene, held-out", "objects with right attributes"): "caption attributes right",
    ("Foils", "all, by cosine"): "hard foils told apart",
    ("Foils", "all, fused"): "hard foils told apart, read together",
    ("Masked words", "captions beside their pictures"): "masked words",
}


def table(folder: Path) -> str:
    """A Markdown table, one line per number. Files NAME-seed-N share their lines: the mean, and lowest to highest."""
    found: dict[tuple[str, str], list[tuple[Path, dict]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        for row in json.loads(path.read_text())["scores"]:
            words = next(
                (w for (task, metric), w in ROWS.items() if row["task"].startswith(task) and row["metric"] == metric),
                None,
            )
            if words and "unseen" not in row["task"] and isinstance(row["score"], dict):
                found[re.sub(r"-seed-\d+$", "", path.stem), words].append((path, row["score"]))
    lines = ["| result | what | score | spread | chance |", "| --- | --- | --- | --- | --- |"]
    for (name, words), runs in found.items():
        scores = [score for _, score in runs]
        value, chance = (sum(score.get(key) or 0 for score in scores) / len(scores) for key in ("value", "chance"))
        if len(runs) == 1:
            low, high, what = scores[0]["low"], scores[0]["high"], "95 %"
            files = f"[{name}](results/{runs[0][0].name})"
        else:
            values = [score["value"] for score in scores]
            low, high, what = min(values), max(values), f"{len(runs)} seeds"
            files = f"{name} " + " ".join(f"[{n}](results/{path.name})" for n, (path, _) in enumerate(runs))
        spread = f"{percent(low)} to {percent(high)} ({what})"
        lines.append(f"| {files} | {words} | {percent(value)} | {spread} | {percent(chance) if chance else ''} |")
    return "\n".join(lines)


COLUMNS = {  # of the table of ablations: (task's first words, metric) -> words
    ("Retrieval, held-out", "image to text R@1, re-ranked"): "image to text R@1",
    ("Retrieval, held-out", "text to image R@1, re-ranked"): "text to image R@1",
    ("Foils", "all, fused"): "foils",
    ("Foils", "object, fused"): "one thing changed",
    ("Foils", "attribute, fused"): "colours exchanged",
    ("Foils", "relation, fused"): "places exchanged",
}


def ablations(folder: Path) -> str:
    """`unimo-scenes` whole and with parts left away, one line each: mean over seeds, and lowest to highest."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in [*sorted(folder.glob("unimo-scenes-seed-*.json")), *sorted(folder.glob("ablations/*.json"))]:
        name = re.sub(r"-seed-\d+$", "", path.stem)
        for row in json.loads(path.read_text())["scores"]:
            for (task, metric), words in COLUMNS.items():
                if row["task"].startswith(task) and row["metric"] == metric:
                    found[name][words].append(row["score"]["value"])
    heads = list(COLUMNS.values())
    lines = [f"| run | seeds | {' | '.join(heads)} |", f"| --- | --- |{' --- |' * len(heads)}"]
    for name, scores in found.items():
        cells = [
            f"{percent(sum(values) / len(values))} ({100 * min(values):.0f} to {100 * max(values):.0f})"
            for values in (scores[words] for words in heads)
        ]
        lines.append(f"| {name} | {len(scores[heads[0]])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tasks(folder: Path) -> str:
    """What `unimo quadrants --random` told in folder/quadrants: a line per task, its first metric."""
    lines = [
        "| task | rows | metric | pre-trained | from random weights | best simple baseline | intervals apart |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path in sorted(folder.glob("quadrants/*.json")):
        seen = set()
        for row in json.loads(path.read_text())["quadrants"]:
            if row["task"] in seen:
                continue
            seen.add(row["task"])
            score, random = row["score"], row["from_random"]
            name, simple = max(row["baselines"].items(), key=lambda each: each[1]["value"], default=("", None))
            apart = "" if random is None else "yes" if score["low"] > random["high"] else "no"
            cells = (
                f"[{row['task']}](results/quadrants/{path.name}), {row['quadrant']}",
                f"{score['n']:,} {row['split']}",
                row["metric"],
                *(spread(each, row["unit"]) for each in (score, random)),
                f"{spread(simple, row['unit'])} {name}".strip(),
                apart,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(score: dict | None, unit: str) -> str:
    """A score with its 95 % interval, in percent or as it is."""
    if score is None:
        return ""
    scale, digits = (100, 1) if unit == "%" else (1, 2)
    known = (score[key] for key in ("value", "low", "high") if score.get(key) is not None)
    value, *ends = (f"{scale * each:.{digits}f}" for each in known)
    return value + (f" ({ends[0]} to {ends[1]})" if len(ends) == 2 else "")


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def filled(readme: str, folder: Path) -> str:
    """The README's text with its tables made anew."""
    for (begin, end), made in (((BEGIN, END), table(folder)), (ABLATIONS, ablations(folder)), (TASKS, tasks(folder))):
        before, rest = readme.split(begin)
        readme = f"{before}{begin}\n\n{made}\n\n{end}{rest.split(end)[1]}"
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = filled(path.read_text(), ROOT / "results")
    if "--check" not in sys.argv[1:]:
        path.write_text(text)
    elif text != path.read_text():
        sys.exit("the README's table is not that of results/: run python scripts/readme_results.py")
