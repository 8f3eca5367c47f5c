"""What each item adds to each score, kept beside a report, so that two models can be compared item by item.

evaluation.npz, beside evaluation.json: for row i of the scores, i.sums (G, S) over G groups of items; and `rows`, (n,)
lines "i kind items task metric" by tabs, where kind says what makes a score of sums (`COMBINE`) and items names what
was scored.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from unimo.disk import write_atomic
from unimo.errors import DataError
from unimo.metrics.captions import BLEU_OF_SUMS
from unimo.metrics.classification import f1_of_sums, matthews_of_sums
from unimo.metrics.intervals import Combine, Score, mean_of_sums, perplexity_of_sums
from unimo.metrics.paired import Comparison, paired_bootstrap

COMBINE: dict[str, Combine] = {
    "mean": mean_of_sums,
    "perplexity": perplexity_of_sums,
    "F1": f1_of_sums,
    "Matthews": matthews_of_sums,
    **{f"BLEU-{order}": combine for order, combine in BLEU_OF_SUMS.items()},
}
FILE = "evaluation.npz"


@dataclass(frozen=True)
class ItemSums:
    """sums: (G, S). items: equal where two models were scored on the same ones. combine: sums -> score."""

    items: str
    sums: np.ndarray
    combine: Combine

    @property
    def value(self) -> float:
        """The score of all items."""
        return float(self.combine(self.sums.sum(0, keepdims=True))[0])


def write_sums(scores: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Those of all scores that are functions of sums over named items, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    rows = []
    for i, row in enumerate(scores):
        parts = row["score"].parts if isinstance(row["score"], Score) else None
        kind = next((name for name, combine in COMBINE.items() if parts and parts.combine is combine), None)
        if parts is not None and kind and row.get("items"):
            arrays[f"{i}.sums"] = parts.sums
            rows.append("\t".join([str(i), kind, row["items"], row["task"], row["metric"]]))
    stream = io.BytesIO()
    np.savez_compressed(stream, rows=np.array(rows, np.str_), **arrays)  # type: ignore[arg-type]
    write_atomic(path, stream.getvalue())


def read_sums(path: Path) -> dict[tuple[str, str], ItemSums]:
    """(task, metric) -> sums; nothing where there is no file. DataError for one that is damaged."""
    if not path.is_file():
        return {}
    found = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for line in stored["rows"].tolist():
                number, kind, items, task, metric = line.split("\t")
                found[task, metric] = ItemSums(items, stored[f"{number}.sums"], COMBINE[kind])
    except (OSError, ValueError, KeyError, BadZipFile) as fault:
        what, do = "not the item scores of an evaluation", "unimo evaluate the run again, or remove the file"
        raise DataError(what, where=path, got=fault, do=do) from fault
    return found


def paired(first: ItemSums | None, second: ItemSums | None) -> Comparison | None:
    """First minus second over the same items; None where these were not the same, or a score has no sums."""
    if first is None or second is None or first.items != second.items or first.sums.shape != second.sums.shape:
        return None
    if not (np.isfinite(first.sums).all() and np.isfinite(second.sums).all()):
        return None
    return paired_bootstrap(first.sums, second.sums, combine=first.combine)
