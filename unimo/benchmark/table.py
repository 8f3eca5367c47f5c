"""The table of the benchmark suite, from the reports of its parts, and its page with what was forgotten.

scores of a fine-tuned task -> rows beside baselines, random weights and published numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unimo.benchmark.paired import Sums, against_random
from unimo.benchmark.plan import Entry
from unimo.finetune.benchmarks.published_scores import PUBLISHED
from unimo.formatting import number, with_interval
from unimo.metrics.seeds import over_seeds

Row = dict[str, Any]
PRETRAINED = "pretrained"  # folder of what the model itself can do
UNTRAINED = {"Retrieval": "understanding, cross-modal", "Captions": "generation, cross-modal"}  # zero-shot tasks
LESSER = ("R@5", "R@10")  # not in the tables; the JSON file has them
EMPTY: Row = {
    "baselines": {}, "from_random": None, "verdict": None, "difference": None, "published": [], "steps": None,
    "minutes_trained": None,
}  # fmt: skip
GROUPS = ("understanding, single-modal", "understanding, cross-modal", "generation, single-modal")  # then the last
ABOUT_SCORES = (
    "Scores with 95 % intervals. Verdict: the model beside random weights, same steps and schedule, on the same items: "
    "in brackets the difference with its paired 95 % interval; without brackets items could not be paired, and no "
    "difference means that the two intervals meet. Published: other models, data and machines; the split in brackets."
)
ABOUT_FORGETTING = (
    "Abilities of the model before and after fine-tuning. Before minus after: above 0, something was forgotten. "
    "Intervals of differences are paired, by a bootstrap over the same items; one of no width: no item changed. R@5 "
    "and R@10 are in benchmark.json."
)


def task_rows(
    entry: Entry,
    own: Sequence[Sequence[Row]],
    random: Sequence[Sequence[Row]] = (),
    facts: Mapping[str, str] = {},
    sums: tuple[Sequence[Sums], Sequence[Sums]] = ((), ()),
) -> list[Row]:
    """One row for each metric of the split that is reported: test where it has labels, else dev.

    own, random: of each seed, score rows of the task fine-tuned from the model, and from random weights. facts: of the
    first seed's report. sums: item sums of own and random. The verdict is the model's, beside random weights
    (`unimo.benchmark.paired`).
    """
    split = "test" if any(row["task"].endswith(", test") for row in own[0]) else "dev"
    here = [row for row in own[0] if row["task"].endswith(f", {split}")]
    found = []
    for row in here:
        metric, _, baseline = row["metric"].partition(", ")
        if baseline:
            continue
        score, partner = (_of_seeds(seeds, row["task"], metric) for seeds in (own, random))
        said, difference = against_random((row["task"], metric), score, partner, *sums) if partner else (None, None)
        beside = [(other["metric"].partition(", "), other["score"]) for other in here]
        found.append(
            EMPTY
            | {
                "group": entry.group,
                "task": entry.called,
                "about": entry.about,
                "metric": metric,
                "unit": row.get("unit", ""),
                "split": split,
                "score": score,
                "baselines": {name: one for (of, _, name), one in beside if name and of == metric},
                "from_random": partner,
                "verdict": said,
                "difference": difference,
                "published": [one.to_dict() for one in PUBLISHED.get(entry.task, ())],
                "steps": facts.get("steps"),
                "minutes_trained": facts.get("minutes trained"),
                "folder": entry.called,
            }
        )
    return found


def _of_seeds(seeds: Sequence[Sequence[Row]], task: str, metric: str) -> Row | None:
    found = [row["score"] for rows in seeds for row in rows if (row["task"], row["metric"]) == (task, metric)]
    return over_seeds(found) if found and all(found) else None


def untrained_rows(before: Sequence[Row]) -> list[Row]:
    """Zero-shot scores of the model itself that belong to a group."""
    named = {"about": "zero-shot, without fine-tuning", "split": "of abilities", "folder": PRETRAINED}
    return [
        {**EMPTY, **named, "group": group, "unit": "", **row}
        for row in before
        for name, group in UNTRAINED.items()
        if row["task"].startswith(name) and not is_lesser(row["metric"])
    ]


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Understanding before generation, one modality before two; tasks as they come."""
    return sorted(rows, key=lambda row: [row["group"] == group for group in GROUPS], reverse=True)


def is_lesser(metric: str) -> bool:
    return metric.partition(",")[0].endswith(LESSER)


# ---- the page


def page(whole: Mapping[str, Any]) -> dict[str, Any]:
    """What benchmark.json says as a report for `unimo.evaluation.report`."""
    tables = [
        {
            "title": "Benchmark suite",
            "note": ABOUT_SCORES,
            "columns": [
                "group", "task", "metric", "split", "score", "baselines", "random weights", "verdict", "published",
            ],
            "rows": [_task_cells(row) for row in whole["tasks"]],
        },
        {
            "title": "Forgetting",
            "note": ABOUT_FORGETTING,
            "columns": ["fine-tuned for", "ability", "before", "after", "before - after"],
            "rows": [
                [row["task"], row["ability"], *(with_interval(row[k], row["unit"]) for k in ("before", "after")),
                 with_interval(row["difference"], row["unit"], signed=True)]
                for row in whole["forgetting"]
                if not is_lesser(row["ability"])
            ],
        },
    ]  # fmt: skip
    kept = [table for table in tables if table["rows"]]
    report = {name: whole[name] for name in ("title", "facts", "notes")}
    return {**report, "summary": summary(whole), "tables": kept}


def summary(whole: Mapping[str, Any]) -> str:
    """How many tasks were made, and what became of the comparison with random weights, by each task's first metric."""
    first: dict[str, Row] = {}
    for row in whole["tasks"]:
        if row["folder"] != PRETRAINED:
            first.setdefault(row["task"], row)
    verdicts = [row["verdict"] for row in first.values() if row["verdict"]]
    counted = ", ".join(f"{verdicts.count(one)} {one}" for one in ("better", "worse", "no difference"))
    compared = f" beside random weights: {counted}." if verdicts else "."
    missing = f" Not made: {', '.join(whole['missing'])}." if whole["missing"] else ""
    model = f"{whole['facts']['parameters']} parameters ({whole['facts']['checkpoint']})"
    return f"{len(first)} tasks fine-tuned from {model}{compared}{missing}"


def _task_cells(row: Row) -> list[str]:
    unit, chance = row["unit"], (row["score"] or {}).get("chance")
    baselines = [f"{name} {number(score['value'], unit)}" for name, score in row["baselines"].items()]
    baselines += [] if chance is None else [f"chance {number(chance, unit)}"]
    published = [f"{one['model']} {one['metric']} {one['value']} ({one['split']})" for one in row["published"]]
    return [
        row["group"],
        row["task"] + (" (not fine-tuned)" if row["folder"] == PRETRAINED else ""),
        row["metric"],
        row["split"],
        with_interval(row["score"], unit),
        "; ".join(baselines) or "–",
        with_interval(row["from_random"], unit) if row["from_random"] else "–",
        _verdict_cell(row),
        "; ".join(published) or "–",
    ]


def _verdict_cell(row: Row) -> str:
    apart = row.get("difference")
    return (row["verdict"] or "–") + (f" ({with_interval(apart, row['unit'], signed=True)})" if apart else "")
