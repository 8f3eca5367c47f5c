"""Regression: a number for a text, a pair of texts, an image or both, by the mean squared error (spec unimo §6.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder
from unimo.finetune.batches import TaskRows
from unimo.finetune.example import Example
from unimo.finetune.head_task import HeadTask
from unimo.finetune.task_type import ReportRow, bad_rows, groups_of, report_row
from unimo.metrics import METRICS
from unimo.metrics.intervals import mean_score
from unimo.model.unified import Fused, Towers, Unified
from unimo.objectives.objective import Part

if TYPE_CHECKING:
    from unimo.finetune.split import Examples
    from unimo.inference.model import Pipeline


@dataclass(frozen=True)
class Regression(HeadTask):
    """head: of kind number; what it learns is (target - centre) / spread."""

    metrics: tuple[str, ...] = ("pearson", "spearman")
    weight: float = 1.0
    parts: tuple[str, ...] = ("regress",)

    def check(self, examples: Examples) -> None:
        super().check(examples)
        wrong = [row.id for row in examples.rows if row.target is not None and not math.isfinite(number_of(row))]
        if wrong:
            expected, do = "a finite number in every row", "for classes fine-tune classification"
            raise bad_rows("a target that is no number", examples, wrong, expected=expected, do=do)

    def corrupt(self, builder: BatchBuilder) -> None:
        builder = self.read(builder)
        targets = np.array([number_of(one.example) for one in builder.examples])
        builder.extra["regress.targets"] = ((targets - self.head.centre) / self.head.spread).astype(np.float32)

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        errors: Tensor = self.logits(model, batch, fused)[:, 0] - batch.extra["regress.targets"]
        return {"regress": Part(errors.square().sum(), len(errors), self.weight)}

    def predict_rows(self, pipeline: Pipeline, rows: TaskRows, numbers: Sequence[int]) -> list[float]:
        outputs = self.predicted_logits(pipeline, rows, numbers)[:, 0].tolist()
        return [self.head.centre + self.head.spread * x for x in outputs]

    def metric_rows(self, metric: str, predicted: Sequence[Any], rows: Sequence[Example], seed: int) -> list[ReportRow]:
        targets, groups = [number_of(row) for row in rows], groups_of(rows)
        if metric == "squared_error":
            score = mean_score(np.square(np.array(predicted) - np.array(targets)), groups=groups, seed=seed)
        else:
            function: Any = METRICS[metric]
            score = function(predicted, targets, groups=groups, seed=seed)
        return [report_row(self.head.task, metric, score, "")]


def numbers_of(examples: Examples) -> np.ndarray:
    """(n,) the targets of a split that are numbers."""
    return np.array([number_of(row) for row in examples.rows if row.target is not None])


def number_of(example: Example) -> float:
    """The target of a row; not a number where it has none."""
    return float(example.target) if isinstance(example.target, (int, float)) else math.nan
