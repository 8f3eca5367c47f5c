"""Classification: one of k classes, or any of k answers with scores, of a text, a pair, an image, or both.

    n rows · k classes or answers

GLUE, SNLI, NLI with images, NLVR, VQA, ImageNet and a user's own labels (spec unimo §6.2, §6.7, §6.10). Classes are
asked by a softmax. Answers of VQA have soft scores: each is asked by a sigmoid, and the losses of a row add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder
from unimo.finetune.baselines import most_frequent, nearest_rows
from unimo.finetune.batches import TaskRows
from unimo.finetune.head_task import HeadTask
from unimo.finetune.labels import unseen_labels
from unimo.finetune.split import Example, Examples
from unimo.finetune.task_type import (
    REQUEST,
    Row,
    answered,
    check_texts,
    company,
    groups_of,
    in_passes,
    labelled,
    precision_of,
    report_row,
)
from unimo.inference import Pipeline
from unimo.metrics import METRICS
from unimo.metrics.intervals import fraction_score
from unimo.model.unified import Fused, Towers, Unified
from unimo.objectives.objective import IGNORE_INDEX, Part

SHOWN = 5  # classes named in a prediction, likeliest first


@dataclass(frozen=True)
class Classified:
    """answer: a label. likely: the likeliest labels, at most SHOWN, with the softmax's probabilities, or with those of
    each answer's sigmoid. Of all k labels they would be n x k numbers."""

    answer: str
    likely: dict[str, float]


@dataclass(frozen=True)
class Classification(HeadTask):
    """head: what the model reads and the names it knows. sees: look at images. positive: class of F1 and Matthews.
    texts: how many a row must have. unseen: whether labels that training did not have are refused, or never right."""

    metrics: tuple[str, ...] = ("accuracy",)
    positive: str | None = None
    texts: int | None = None
    unseen: Literal["error", "wrong"] = "error"
    weight: float = 1.0
    parts: tuple[str, ...] = ("classify", "classify.accuracy")

    def check(self, examples: Examples) -> None:
        """Rows without what is read, and classes that training did not have, end a run before it begins."""
        self.check_inputs(examples)
        check_texts(examples, self.texts, self.head.task)
        if self.head.kind == "classes" and self.unseen == "error":
            unseen_labels(examples, self.head.labels)

    # ---- asked ----------------------------------------------------------------------------------------------------

    def corrupt(self, builder: BatchBuilder) -> None:
        builder = self.read(builder)
        builder.extra["classify.labels"] = np.stack([self.label(one.example) for one in builder.examples])

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Label -> its number: made once, for looking it up must not cost a row as much as there are labels."""
        return {label: i for i, label in enumerate(self.head.labels)}

    def label(self, example: Example) -> np.ndarray:
        """The number of the class, () int64; or the score of every answer, (k,) float32."""
        if self.head.kind == "classes":
            target = example.target
            return np.asarray(IGNORE_INDEX if target is None else self.numbers.get(str(target), IGNORE_INDEX), np.int64)
        scores = np.zeros(len(self.head.labels), np.float32)
        for answer, score in answers_of(example).items():
            if answer in self.numbers:
                scores[self.numbers[answer]] = score
        return scores

    def prior(self, train: Examples) -> np.ndarray:
        """(k,) float32 logits that say how frequent each label is in training, one row added to each."""
        total = np.ones(len(self.head.labels))
        rows = [row for row in train.rows if row.target is not None]
        for row in rows:
            for answer, score in answers_of(row).items():
                if answer in self.numbers:
                    total[self.numbers[answer]] += np.float32(score)
        share = total / (len(rows) + (len(total) if self.head.kind == "classes" else 2))
        share = np.minimum(share, 1 - 1e-3)
        logits = np.log(share) if self.head.kind == "classes" else np.log(share / (1 - share))
        return logits.astype(np.float32)

    def logits(self, model: Unified, batch: Batch, fused: dict[str, Fused]) -> Tensor:
        return model.task_logits(fused[REQUEST]).float()

    def loss_of(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """Sum over the rows of a batch, and their number."""
        labels = batch.extra["classify.labels"]
        if self.head.kind == "classes":
            return F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORE_INDEX), len(labels)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum"), len(labels)

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        logits, labels = self.logits(model, batch, fused), batch.extra["classify.labels"]
        total, count = self.loss_of(logits, batch)
        said = logits.detach().argmax(-1)
        right = (said == labels).sum() if self.head.kind == "classes" else labels.gather(1, said[:, None]).sum()
        return {"classify": Part(total, count, self.weight), "classify.accuracy": Part(right, count, 0.0)}

    # ---- answered -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, pipeline: Pipeline, rows: TaskRows, batch_size: int | None = None) -> list[Classified]:
        found: dict[int, Classified] = {}
        for numbers in in_passes(rows, company(pipeline, batch_size)):
            batch, _, fused = answered(self, pipeline, rows, numbers)
            with precision_of(pipeline):
                logits = self.logits(pipeline.model, batch, fused)
            probabilities = (logits.softmax(-1) if self.head.kind == "classes" else logits.sigmoid()).cpu().numpy()
            best = logits.argmax(-1).tolist()  # of equals the first label
            likely = np.argsort(-probabilities, axis=1, kind="stable")[:, :SHOWN]
            for number, i, some, row in zip(numbers, best, likely, probabilities):
                found[number] = Classified(self.head.labels[i], {self.head.labels[j]: float(row[j]) for j in some})
        return [found[i] for i in range(len(rows))]

    def written(self, prediction: Classified) -> dict[str, Any]:
        return {"prediction": prediction.answer, "probabilities": prediction.likely}

    def baseline(self, train: Examples, examples: Examples) -> dict[str, list[str]]:
        """The class (or answer) most frequent in training, and that of the most similar training row."""
        said = [best_answer(row) for row in train.rows if row.target is not None]
        near = nearest_rows(train, examples)
        return {
            "most frequent": [most_frequent(said)] * len(examples),
            **({} if near is None else {"nearest training row": [best_answer(train.rows[i]) for i in near]}),
        }

    def score(self, predictions: Sequence[Any], examples: Examples, seed: int = 0) -> list[Row]:
        """Every metric over the labelled rows. predictions: `Classified`, or bare answers of a baseline."""
        here = labelled(examples)
        rows = [examples.rows[i] for i in here]
        said = [p.answer if isinstance(p, Classified) else p for p in (predictions[i] for i in here)]
        groups = groups_of(rows)
        found = []
        for metric in self.metrics:
            note = ""
            function: Any = METRICS.get(metric)
            if metric == "soft_accuracy":
                values = fraction_score(
                    [answers_of(row).get(a, 0.0) for a, row in zip(said, rows)], groups=groups, seed=seed
                )
            elif metric in ("vqa_accuracy", "daquar_accuracy"):
                values = function(said, [people_of(row) for row in rows], groups=groups, seed=seed)
            elif metric in ("f1", "matthews"):
                positive = self.positive or max(self.head.labels)
                targets = [str(row.target) for row in rows]
                values = function(said, targets, positive=positive, groups=groups, seed=seed)
                note = f"positive class: {positive}"
            else:
                chance = 1 / len(self.head.labels) if self.head.kind == "classes" else None
                targets = [best_answer(row) for row in rows]
                values = function(said, targets, groups=groups, chance=chance, seed=seed)
            unit = "" if metric == "matthews" else "%"
            found.append(report_row(self.head.task, metric, values, unit, note))
        return found


# ---- answers


def answers_of(example: Example) -> dict[str, float]:
    """The right answers of a row with their scores: one string is the only right answer, of several each is right."""
    target = example.target
    if isinstance(target, dict):
        return target
    if isinstance(target, tuple):
        return dict.fromkeys(target, 1.0)
    return {} if target is None else {str(target): 1.0}


def people_of(example: Example) -> list[str]:
    """What each person answered, where the file says it; else the right answers."""
    people = example.extra.get("answers")
    return [str(one) for one in people] if people else list(answers_of(example))


def best_answer(example: Example) -> str:
    answers = answers_of(example)
    return max(sorted(answers), key=lambda answer: answers[answer]) if answers else ""
