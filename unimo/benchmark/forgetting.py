"""What a model could do before fine-tuning and can no longer: every zero-shot score before minus after, over the same
items.

scores of the model itself -> sums.json, what each group of items adds to each score
scores after fine-tuning   -> rows with the difference and its interval by the paired bootstrap
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unimo.disk import write_atomic
from unimo.errors import DataError
from unimo.json_files import load_json
from unimo.metrics.intervals import Score
from unimo.metrics.paired import paired_bootstrap

Row = dict[str, Any]  # of a report, its score a `Score` or a number
DATA = "data, "  # begins the facts that name the data of zero-shot tasks
MOST_BYTES = 1 << 30  # of a file of sums: hundreds of scores over a hundred thousand items


def write_before(path: Path, whole: Mapping[str, Any]) -> None:
    """Keeps what `forgotten` needs of the model's own report (`unimo.evaluation.evaluate`)."""
    scores = []
    for row in whole["scores"]:
        parts = row["score"].parts if isinstance(row["score"], Score) else None
        sums = parts.sums.tolist() if parts is not None and np.isfinite(parts.sums).all() else None
        named = {"task": row["task"], "metric": row["metric"], "unit": row.get("unit", "")}
        scores.append({**named, "score": _finite(row["score"]), "sums": sums})
    write_atomic(path, json.dumps({"data": _data(whole), "scores": scores}, allow_nan=False).encode())


def forgotten(path: Path, whole: Mapping[str, Any]) -> list[Row]:
    """Every score before and after, with before minus after: above 0 something was forgotten.

    path: as `write_before` left it. whole: the report of the fine-tuned model (`unimo.evaluation.evaluate`).
    A score that is no function of sums over items has a difference without an interval, an undefined one has none.
    Raises DataError where the data are others.
    """
    before = load_json(path, max_bytes=MOST_BYTES)
    # Baselines may have read what the model itself was trained on, which a fine-tuned one no longer names.
    data = {name: value for name, value in _data(whole).items() if before["data"].get(name, value) != value}
    if data:
        raise DataError(
            "the zero-shot tasks were scored on other data before fine-tuning",
            where=path,
            got="; ".join(f"{name} {value}" for name, value in data.items()),
            expected="; ".join(f"{name} {before['data'][name]}" for name in data),
            do="choose another --out, or bring the data back",
        )
    after = {(row["task"], row["metric"]): row["score"] for row in whole["scores"]}
    found = []
    for row in before["scores"]:
        if (later := after.get((row["task"], row["metric"]))) is not None:
            scores = {"before": row["score"], "after": _finite(later), "difference": _difference(row, later)}
            found.append({"ability": f"{row['task']}: {row['metric']}", "unit": row["unit"], **scores})
    return found


def _difference(before: Row, after: Score | float) -> Row | None:
    """Value, interval and number of items of before minus after; None where one of both is undefined."""
    first, second = before["score"], _finite(after)
    if first["value"] is None or second["value"] is None:
        return None
    found = {"value": first["value"] - second["value"], "low": None, "high": None, "n": second["n"]}
    parts = after.parts if isinstance(after, Score) else None
    if parts is not None and before["sums"] is not None and np.shape(before["sums"]) == parts.sums.shape:
        interval = _finite(paired_bootstrap(before["sums"], parts.sums, combine=parts.combine).difference)
        found |= {"low": interval["low"], "high": interval["high"]}
    return found


def _finite(score: Score | float) -> Row:
    """A score as JSON: what is not a finite number is None."""
    values = score.to_dict() if isinstance(score, Score) else {"value": score, "low": None, "high": None, "n": None}
    return {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in values.items()}


def _data(whole: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in whole["facts"].items() if name.startswith(DATA)}
