"""Regression: a number for a text, a pair of texts, an image or both, by the mean squared error (spec unimo §6.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder
from unimo.errors import DataError
from unimo.finetune.baselines import nearest_rows
from unimo.finetune.batches import TaskRows
from unimo.finetune.head_task import HeadTask
from unimo.finetune.split import Examples
from unimo.finetune.task_type import (
    REQUEST,
    Row,
    answered,
    company,
    groups_of,
    in_passes,
    labelled,
    precision_of,
    report_row,
)
from unimo.inference import Pipeline
from unimo.metrics import METRICS
from unimo.metrics.intervals import mean_score
from unimo.model.unified import Fused, Towers, Unified
from unimo.objectives.objective import Part


@dataclass(frozen=True)
class Regression(HeadTask):
    """head: of kind number; what it learns is (target - centre) / spread. sees: look at images."""

    metrics: tuple[str, ...] = ("pearson", "spearman")
    weight: float = 1.0
    parts: tuple[str, ...] = ("regress",)

    def check(self, examples: Examples) -> None:
        self.check_inputs(examples)
        wrong = [row.id for row in examples.rows if row.target is not None and not math.isfinite(_number(row.target))]
        if wrong:
            raise DataError(
                "a target that is no number",
                where=examples.source or examples.name,
                got=f"{len(wrong)} rows: {', '.join(wrong[:5])}",
                expected="a finite number in every row",
                do="for classes fine-tune classification",
            )

    def corrupt(self, builder: BatchBuilder) -> None:
        builder = self.read(builder)
        targets = np.array([_number(one.example.target) for one in builder.examples])
        builder.extra["regress.targets"] = ((targets - self.head.centre) / self.head.spread).astype(np.float32)

    def outputs(self, model: Unified, fused: dict[str, Fused]) -> Tensor:
        """(n,) in units of the head's spread, from its centre."""
        return model.task_logits(fused[REQUEST]).float()[:, 0]

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        apart = self.outputs(model, fused) - batch.extra["regress.targets"]
        return {"regress": Part(apart.square().sum(), len(apart), self.weight)}

    @torch.inference_mode()
    def predict(self, pipeline: Pipeline, rows: TaskRows, batch_size: int | None = None) -> list[float]:
        found: dict[int, float] = {}
        for numbers in in_passes(rows, company(pipeline, batch_size)):
            _, _, fused = answered(self, pipeline, rows, numbers)
            with precision_of(pipeline):
                outputs = self.outputs(pipeline.model, fused)
            found |= {i: self.head.centre + self.head.spread * x for i, x in zip(numbers, outputs.tolist())}
        return [found[i] for i in range(len(rows))]

    def written(self, prediction: float) -> dict[str, Any]:
        return {"prediction": prediction}

    def baseline(self, train: Examples, examples: Examples) -> dict[str, list[float]]:
        """The mean of training, and the number of the most similar training row."""
        known = numbers_of(train)
        near = nearest_rows(train, examples)
        return {
            "mean of training": [float(known.mean())] * len(examples),
            **({} if near is None else {"nearest training row": [_number(train.rows[i].target) for i in near]}),
        }

    def score(self, predictions: Sequence[float], examples: Examples, seed: int = 0) -> list[Row]:
        here = labelled(examples)
        rows = [examples.rows[i] for i in here]
        said = [predictions[i] for i in here]
        targets = [_number(row.target) for row in rows]
        groups, found = groups_of(rows), []
        for metric in self.metrics:
            if metric == "squared_error":
                squares = np.square(np.array(said) - np.array(targets))
                score = mean_score(squares, groups=groups, seed=seed)
            else:
                function: Any = METRICS[metric]
                score = function(said, targets, groups=groups, seed=seed)
            found.append(report_row(self.head.task, metric, score, ""))
        return found


def numbers_of(examples: Examples) -> np.ndarray:
    """(n,) the targets of a split that are numbers."""
    return np.array([_number(row.target) for row in examples.rows if row.target is not None])


def _number(target: object) -> float:
    """The target of a row; not a number where it has none."""
    return float(target) if isinstance(target, (int, float)) else math.nan
