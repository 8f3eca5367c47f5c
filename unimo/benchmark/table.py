"""the table of the benchmark suite, from the reports of its parts, and how it is shown with what was forgotten.

scores of a fine-tuned task -> rows beside baselines, random weights and published numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unimo.benchmark.plan import Entry
from unimo.benchmark.published_scores import PUBLISHED
from unimo.metrics.seeds import over_seeds
from unimo.metrics.verdict import is_smaller_better, verdict

Row = dict[str, Any]
PRETRAINED = "pretrained"  # folder of what the model itself can do
UNTRAINED = {"Retrieval": "understanding, cross-modal", "Captions": "generation, cross-modal"}  # asked without training
LESSER = ("R@5", "R@10")  # not in the tables; the JSON file has them


def task_rows(
    entry: Entry, told: Sequence[Sequence[Row]], random: Sequence[Sequence[Row]] = (), facts: Mapping[str, str] = {}
) -> list[Row]:
    """One row for each metric of the split that is told: test where it has labels, else dev.

    told, random: of each seed, score rows of the task fine-tuned from the model, and from random weights. facts: of the
    first seed's report. The verdict is the model's, beside random weights.
    """
    split = "test" if any(row["task"].endswith(", test") for row in told[0]) else "dev"
    here = [row for row in told[0] if row["task"].endswith(f", {split}")]
    found = []
    for row in here:
        metric, _, baseline = row["metric"].partition(", ")
        if baseline:
            continue
        others = [(r["metric"].partition(", "), r["score"]) for r in here]
        score, partner = (_of_seeds(seeds, row["task"], row["metric"]) for seeds in (told, random))
        found.append(
            {
                "group": entry.group,
                "task": entry.called,
                "about": entry.about,
                "metric": metric,
                "unit": row.get("unit", ""),
                "split": split,
                "score": score,
                "baselines": {name: score for (of, _, name), score in others if name and of == metric},
                "from_random": partner,
                "verdict": verdict(score, partner, smaller_is_better=is_smaller_better(metric)) if partner else None,
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
    """Abilities of the model itself that belong to a group."""
    return [
        {"group": group, "task": row["task"], "about": "zero-shot, without fine-tuning", "metric": row["metric"],
         "unit": row.get("unit", ""), "split": "of abilities", "score": row["score"], "baselines": {},
         "from_random": None, "verdict": None, "published": [], "steps": None, "minutes_trained": None,
         "folder": PRETRAINED}
        for row in before
        for name, group in UNTRAINED.items()
        if row["task"].startswith(name) and not is_lesser(row["metric"])
    ]  # fmt: skip


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Understanding before generation, one modality before two; tasks as they come."""

    def place(row: Row) -> tuple[bool, bool]:
        return not row["group"].startswith("understanding"), not row["group"].endswith("single-modal")

    return sorted(rows, key=place)


def is_lesser(metric: str) -> bool:
    return metric.partition(",")[0].endswith(LESSER)


# ---- how it is shown


def page(whole: Mapping[str, Any]) -> dict[str, Any]:
    """What benchmark.json says as a report for `unimo.evaluation.report`."""
    tables = [
        {
            "title": "Benchmark suite",
            "note": "Scores with 95 % intervals. Verdict: the model beside random weights, same steps and schedule; no "
            "difference where the intervals meet. Published: other models, data and machines; the split in brackets.",
            "columns": [
                "group", "task", "metric", "split", "score", "baselines", "random weights", "verdict", "published",
            ],
            "rows": [
                [
                    row["group"],
                    row["task"] + (" (not fine-tuned)" if row["folder"] == PRETRAINED else ""),
                    row["metric"],
                    row["split"],
                    _spelled(row["score"], row["unit"]),
                    "; ".join(_baselines(row)) or "–",
                    _spelled(row["from_random"], row["unit"]) if row["from_random"] else "–",
                    row["verdict"] or "–",
                    "; ".join(f"{p['model']} {p['metric']} {p['value']} ({p['split']})" for p in row["published"])
                    or "–",
                ]
                for row in whole["tasks"]
            ],
        },
        {
            "title": "Forgetting",
            "note": "Abilities of the model before and after fine-tuning. Before minus after: above 0, something was "
            "forgotten. Intervals of differences are paired, by a bootstrap over the same items; one of no width: no "
            "item changed. R@5 and R@10 are in benchmark.json.",
            "columns": ["fine-tuned for", "ability", "before", "after", "before - after"],
            "rows": [
                [row["task"], row["ability"], *(_spelled(row[k], row["unit"]) for k in ("before", "after")),
                 _spelled(row["difference"], row["unit"], signed=True)]
                for row in whole["forgetting"]
                if not is_lesser(row["ability"])
            ],
        },
    ]  # fmt: skip
    kept = [table for table in tables if table["rows"]]
    return {"title": whole["title"], "facts": whole["facts"], "tables": kept, "notes": whole["notes"]}


def _baselines(row: Row) -> list[str]:
    told = [f"{name} {_spelled(score, row['unit'], short=True)}" for name, score in row["baselines"].items()]
    chance = (row["score"] or {}).get("chance")
    return told if chance is None else [*told, f"chance {_number(chance, row['unit'])} {row['unit']}".rstrip()]


def _spelled(score: Row | None, unit: str, *, signed: bool = False, short: bool = False) -> str:
    """value [low, high] unit"""
    if not score or score.get("value") is None:
        return "undefined"
    sure = not short and score.get("low") is not None and score.get("high") is not None
    told = _number(score["value"], unit, signed)
    if sure:
        told += f" [{_number(score['low'], unit, signed)}, {_number(score['high'], unit, signed)}]"
    return f"{told} {unit}".rstrip()


def _number(value: float, unit: str, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{value * 100:{sign}.1f}" if unit == "%" else f"{value:{sign}.3f}"


__all__ = ["PRETRAINED", "in_order", "page", "task_rows", "untrained_rows"]
