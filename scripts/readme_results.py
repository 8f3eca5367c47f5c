"""Writes the tables of README.md, docs/results.md and docs/ingredients.md from results/, between their marks. Run after
adding a result.

A file in results/ is what `scripts/keep_result.py` keeps of a run's evaluation.json or benchmark.json. Files
NAME-seed-N are one line: the mean, and the lowest to the highest. A single file's line has its 95 % interval.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from unimo.benchmark.forest_plot import forest_plot
from unimo.benchmark.statement import in_lines, statement
from unimo.finetune.benchmarks.published_scores import PUBLISHED
from unimo.metrics.verdict import verdict
from unimo.recipes.finetuning import story

COLUMNS = ("UNIMO base", "UNIMO-2")
ROOT = Path(__file__).resolve().parent.parent
Columns = dict[tuple[str, str], str]  # (first words of a task, its metric) -> the column's head
HEADLINE: Columns = {
    ("Retrieval", "image to text R@1"): "image to text R@1",
    ("Retrieval", "text to image R@1"): "text to image R@1",
    ("Retrieval", "text to image R@10"): "text to image R@10",
    ("Retrieval", "text to image R@10, re-ranked"): "re-ranked",
    ("Foils", "all, fused"): "hard negatives told apart",
    ("Captions against the scene, held-out", "objects with right attributes"): "attributes right in captions",
}
IN_HEADLINE = ("scenes-seed-", "unimo-scenes-seed-", "flickr8k-60-minutes")
RUNS: Columns = {
    ("Retrieval, held-out", "image to text R@1"): "image to text R@1",
    ("Retrieval, held-out", "image to text R@1, re-ranked"): "re-ranked R@1",
    ("Retrieval", "text to image R@10"): "text to image R@10",
    ("Retrieval", "text to image R@10, re-ranked"): "re-ranked R@10",
    ("Captions against the scene, held-out", "objects with right attributes"): "caption attributes right",
    ("Foils", "all, fused"): "hard foils told apart",
    ("Masked words", "captions beside their images"): "masked words",
}
ABLATIONS: Columns = {
    ("Retrieval, held-out", "image to text R@1, re-ranked"): "image to text R@1",
    ("Retrieval, held-out", "text to image R@1, re-ranked"): "text to image R@1",
    ("Foils", "all, fused"): "foils",
    ("Foils", "object, fused"): "one thing changed",
    ("Foils", "attribute, fused"): "colours exchanged",
    ("Foils", "relation, fused"): "places exchanged",
}


def runs_table(paths: Iterable[Path], columns: Columns, root: str) -> str:
    """A Markdown table: a line per run or set of seeds, in percent. root: from the page to the repository."""
    found: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    files: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        name = re.sub(r"-seed-\d+$", "", path.stem)
        files[name].append(path)
        for row in json.loads(path.read_text())["scores"]:
            for (task, metric), head in columns.items():
                told = row["task"].startswith(task) and row["metric"] == metric and isinstance(row["score"], dict)
                if told and "unseen" not in row["task"]:
                    found[name][head].append(row["score"])
    heads = list(columns.values())
    lines = [f"| run | {' | '.join(heads)} |", f"| --- |{' --- |' * len(heads)}"]
    for name, scores in found.items():
        cells = [_spread(scores[head]) if scores[head] else "" for head in heads]
        lines.append(f"| {_linked(name, files[name], root)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _linked(name: str, files: list[Path], root: str) -> str:
    links = [f"{root}{path.relative_to(ROOT)}" for path in files]
    if len(links) == 1:
        return f"[{name}]({links[0]})"
    return f"{name}, seeds " + " ".join(f"[{n}]({link})" for n, link in enumerate(links))


def _spread(scores: list[dict]) -> str:
    values = [score["value"] for score in scores]
    low, high = (scores[0]["low"], scores[0]["high"]) if len(scores) == 1 else (min(values), max(values))
    return f"{100 * sum(values) / len(values):.1f} ({100 * low:.0f} to {100 * high:.0f})"


def tasks_table(paths: Iterable[Path], root: str) -> str:
    """What `unimo benchmark` found: a line per task, its first metric. Verdicts as in `unimo.benchmark.paired`: with
    the paired difference, or by intervals that lie apart, which is what files without item sums have."""
    lines = [
        "| task | rows, metric | fine-tuned | from random weights | pre-trained is | best simple baseline |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for path in paths:
        lines.append(f"| **[{path.stem}]({root}{path.relative_to(ROOT)})** | | | | | |")
        seen = set()
        for row in json.loads(path.read_text())["tasks"]:
            if row["task"] in seen:
                continue
            seen.add(row["task"])
            score, random = row["score"], row["from_random"]
            name, simple = max(row["baselines"].items(), key=lambda each: each[1]["value"], default=("", None))
            cells = (
                row["task"],
                f"{score['n']:,} {row['split']}, {row['metric']}",
                *(_score(each, row["unit"]) for each in (score, random)),
                "" if random is None else _verdict(row),
                f"{_score(simple, row['unit'])} {name}".strip(),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _verdict(row: dict) -> str:
    if row.get("difference"):
        return f"{row['verdict']}, paired {_score(row['difference'], row['unit'])}"
    return f"{verdict(row['score'], row['from_random'])} (intervals)"


def _score(score: dict | None, unit: str) -> str:
    """With its 95 % interval, in percent or as it is."""
    if score is None:
        return ""
    scale, digits = (100, 1) if unit == "%" else (1, 2)
    known = (score[key] for key in ("value", "low", "high") if score.get(key) is not None)
    value, *ends = (f"{scale * each:.{digits}f}" for each in known)
    seeds = f", {len(score['seeds'])} seeds" if "seeds" in score else ""
    return value + (f" ({ends[0]} to {ends[1]}{seeds})" if len(ends) == 2 else "")


def papers_table(paths: Iterable[Path]) -> str:
    """The papers' tasks: command, published numbers, and ours where the same rows were scored."""
    ours = {row["task"]: row for path in paths for row in reversed(json.loads(path.read_text())["tasks"])}
    lines = [
        "| paper's task | `unimo finetune ...` | metric, split | UNIMO base | UNIMO-2 | ours (14.5 M, an hour) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task, numbers in PUBLISHED.items():
        first = next((each for each in numbers if each.model == "UNIMO base"), numbers[0])
        values = [next((each.value for each in numbers if each.model == model), "") for model in COLUMNS]
        here = ours.get(task)
        score = "" if here is None else f"{_score(here['score'], '%')} {here['split']}"  # times 100, as published
        name = story(task).splitlines()[0]
        lines.append(
            f"| {name.split(':')[0]} | `{task}` | {first.metric}, {first.split} | {' | '.join(values)} | {score} |"
        )
    return "\n".join(lines)


def campaign(path: Path) -> str:
    """The statement of a campaign, one heading lower, its plot, and where its numbers are."""
    lines = statement(json.loads(path.read_text())).strip().split("\n")
    lines = [f"#{line}" if line.startswith("#") else line for line in lines]
    source = f"From [{path.stem}](../results/campaign/{path.name})."
    return "\n".join([lines[0], "", source, "", f"![Differences](figures/{figure_of(path).name})", *lines[1:]])


def figure_of(path: Path) -> Path:
    return ROOT / "docs" / "figures" / f"campaign-{path.stem}.svg"


def campaigns_in_lines(paths: Iterable[Path]) -> str:
    """What each ingredient buys, a line for each of every campaign."""
    found = {path.stem: in_lines(json.loads(path.read_text())) for path in paths}
    return "\n".join(line.replace("- ", f"- {name}, ", 1) for name, lines in found.items() for line in lines)


def filled(page: str, tables: dict[str, str], gap: str) -> str:
    """A page's text with its tables made anew; every table must have its mark. gap: between the two."""
    for mark, table in tables.items():
        before, rest = page.split(f"<!-- {mark} -->")
        after = rest.split(f"<!-- end of {mark} -->")[1]
        page = f"{before}<!-- {mark} -->{gap}{table}{gap}<!-- end of {mark} -->{after}"
    return page


def pages(folder: Path) -> dict[Path, dict[str, str]]:
    """File -> its tables."""
    whole = [path for path in sorted(folder.glob("*.json")) if "scores" in json.loads(path.read_text())]
    ablations = [*sorted(folder.glob("unimo-scenes-*.json")), *sorted(folder.glob("ablations/*.json"))]
    tasks, campaigns = sorted(folder.glob("benchmark/*.json")), sorted(folder.glob("campaign/*.json"))
    headline = [path for path in whole if path.stem.startswith(IN_HEADLINE)]
    return {
        ROOT / "README.md": {
            "headline": runs_table(headline, HEADLINE, ""),
            "ingredients": campaigns_in_lines(campaigns),
            "papers": papers_table([path for path in tasks if path.stem.startswith("research")]),
        },
        ROOT / "docs" / "results.md": {
            "results": runs_table(whole, RUNS, "../"),
            "ablations": runs_table(ablations, ABLATIONS, "../"),
            "tasks": tasks_table(tasks, "../"),
        },
        ROOT / "docs" / "ingredients.md": {
            "campaigns": "\n".join(map(campaign, campaigns)),
        },
    }


if __name__ == "__main__":
    for path, tables in pages(ROOT / "results").items():
        text = filled(path.read_text(), tables, "\n" if path.name == "README.md" else "\n\n")  # it must be short
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif text != path.read_text():
            sys.exit(f"the tables of {path.name} are not those of results/: run python scripts/readme_results.py")
    for path in (ROOT / "results" / "campaign").glob("*.json"):
        if "--check" not in sys.argv[1:]:
            figure_of(path).write_bytes(forest_plot(json.loads(path.read_text())) or b"")
        elif not figure_of(path).is_file():
            sys.exit(f"no {figure_of(path).name}: run python scripts/readme_results.py")
