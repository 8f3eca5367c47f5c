"""Two runs of a campaign beside each other: every task a paired test over its items, Holm's correction over the tasks.

    S seeds · G groups of items

Sums over items add up over the seeds that both runs have, so that an item's difference is its mean over seeds; seeds
that scored different items are pooled. Better or worse is a difference whose corrected p is below 0.05 and whose sign
is the same with every seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unimo.benchmark.plan import Entry
from unimo.benchmark.suite import Job, scores_of
from unimo.benchmark.table import PRETRAINED, is_lesser
from unimo.evaluation.item_sums import FILE, ItemSums, paired, read_sums
from unimo.metrics.paired import holm
from unimo.metrics.seeds import over_seeds
from unimo.metrics.verdict import SIGNIFICANT, is_smaller_better

ZERO_SHOT = "zero-shot"  # the group of scores without fine-tuning; corrected apart from the tasks
Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """One run with one seed. rows: (group, task) -> row of the first metric of its report. sums: of the same, where a
    score is a function of sums over items."""

    seed: int
    rows: Mapping[tuple[str, str], Row]
    sums: Mapping[tuple[str, str], ItemSums]


def scored(folder: Path, entries: Sequence[Entry], *, random: bool, seed: int) -> Scored:
    """What `unimo.benchmark.suite` left in a folder."""
    rows: dict[tuple[str, str], Row] = {}
    sums: dict[tuple[str, str], ItemSums] = {}
    for entry in entries:
        place = folder / Job(entry, random).folder
        every = scores_of(place)["scores"]
        tested = [row for row in every if row["task"].endswith(", test")] or every
        if tested:
            _take((entry.group, entry.called), tested[0], read_sums(place / FILE), rows, sums)
    if not random:
        kept = read_sums(folder / PRETRAINED / FILE)
        for row in scores_of(folder / PRETRAINED)["scores"]:
            named = ", " not in row["metric"] and not is_lesser(row["metric"])
            if named and (row["task"], row["metric"]) in kept:
                _take((ZERO_SHOT, f"{row['task']}: {row['metric']}"), row, kept, rows, sums)
    return Scored(seed, rows, sums)


def _take(key: tuple[str, str], row: Row, kept: Mapping, rows: dict, sums: dict) -> None:
    rows[key] = row
    if (found := kept.get((row["task"], row["metric"]))) is not None:
        sums[key] = found


def rows_with_and_without(with_it: Sequence[Scored], without: Sequence[Scored]) -> list[Row]:
    """One row for each score that both have, with minus without; p-values corrected within the tasks and within the
    zero-shot scores. Without an own test, for lack of sums over the same items, the verdict is "unknown"."""
    others = {one.seed: one for one in without}
    couples = [(one, others[one.seed]) for one in with_it if one.seed in others]
    keys = (
        [key for key in couples[0][0].rows if all(key in one.rows for two in couples for one in two)] if couples else []
    )
    rows = [_compared(key, couples) for key in keys]
    for family in ([row for row in rows if (row["group"] == ZERO_SHOT) == zero_shot] for zero_shot in (False, True)):
        tested = [row for row in family if row["p"] is not None]
        for row, p in zip(tested, holm([row["p"] for row in tested])):
            row["p_holm"] = p
            row["verdict"] = _verdict(row)
    return rows


def _compared(key: tuple[str, str], couples: Sequence[tuple[Scored, Scored]]) -> Row:
    group, task = key
    first = couples[0][0].rows[key]
    scores = [over_seeds([two[side].rows[key]["score"] for two in couples]) for side in (0, 1)]
    row: Row = {
        "group": group, "task": task, "metric": first["metric"], "unit": first.get("unit", ""),
        "seeds": [one.seed for one, _ in couples], "score_with": scores[0], "score_without": scores[1],
        "difference": None, "by_seed": [], "p": None, "p_holm": None, "verdict": "unknown",
    }  # fmt: skip
    own, other = ([two[side].sums.get(key) for two in couples] for side in (0, 1))
    test = paired(added(own), added(other))
    if test is not None:
        row |= {"difference": test.difference.to_dict(), "p": test.p_value}
        row["by_seed"] = [one.value - two.value for one, two in zip(own, other) if one and two]
    return row


def added(seeds: Sequence[ItemSums | None]) -> ItemSums | None:
    """The sums of several seeds in one; None where one lacks them. Seeds that scored other items stand side by side:
    an item of two seeds then counts as two."""
    every = [one for one in seeds if one is not None]
    if len(every) < len(seeds) or not every:
        return None
    if len({(one.items, one.sums.shape) for one in every}) == 1:
        return replace(every[0], sums=np.sum([one.sums for one in every], axis=0))
    items = " ".join(one.items for one in every)
    return replace(every[0], items=items, sums=np.concatenate([one.sums for one in every]))


def _verdict(row: Row) -> str:
    signs = {np.sign(value) for value in row["by_seed"]}
    if row["p_holm"] >= SIGNIFICANT or len(signs) > 1 or not row["difference"]["value"]:
        return "no difference"
    return "better" if (row["difference"]["value"] < 0) is is_smaller_better(row["metric"]) else "worse"
