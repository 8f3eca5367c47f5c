"""Classification: one of k classes, or any of k answers with scores, of a text, a pair, an image, or both.

    n rows · k classes or answers

GLUE, SNLI, NLI with images, NLVR, VQA, ImageNet and a user's own labels (spec unimo §6.2, §6.7, §6.10). Classes have a
softmax. Answers of VQA have soft scores: each has a sigmoid, and the losses of a row add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder
from unimo.finetune.batches import TaskRows
from unimo.finetune.example import Example
from unimo.finetune.head_task import HeadTask
from unimo.finetune.labels import check_labels
from unimo.finetune.task_type import ReportRow, bad_rows, groups_of, report_row
from unimo.metrics import METRICS
from unimo.metrics.intervals import fraction_score
from unimo.model.unified import Fused, Towers, Unified
from unimo.objectives.objective import IGNORE_INDEX, Part

if TYPE_CHECKING:
    from unimo.finetune.split import Examples
    from unimo.inference.model import Pipeline

SHOWN = 5  # classes named in a prediction, likeliest first


@dataclass(frozen=True)
class Classified:
    """answer: a label. likely: the likeliest labels, at most SHOWN, with their probabilities by softmax or sigmoid."""

    answer: str
    likely: dict[str, float]


@dataclass(frozen=True)
class Classification(HeadTask):
    """positive: class of F1 and Matthews. texts: how many a row must have. unseen: whether labels that training did not
    have are refused, or never right."""

    metrics: tuple[str, ...] = ("accuracy",)
    positive: str | None = None
    texts: int | None = None
    unseen: Literal["error", "wrong"] = "error"
    weight: float = 1.0
    parts: tuple[str, ...] = ("classify", "classify.accuracy")

    def check(self, examples: Examples) -> None:
        super().check(examples)
        wrong = [row.id for row in examples.rows if self.texts is not None and len(row.texts) != self.texts]
        if wrong:
            what = f"rows with another number of texts than {self.head.task} takes"
            do = "name the columns to be read (--column text=...); entailment by an image must not read its premise"
            raise bad_rows(what, examples, wrong, key="read.texts", expected=f"{self.texts} in every row", do=do)
        if self.head.kind == "classes" and self.unseen == "error":
            check_labels(examples, self.head.labels)

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
            return np.asarray(self.numbers.get(str(example.target), IGNORE_INDEX), np.int64)
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
        fraction = total / (len(rows) + (len(total) if self.head.kind == "classes" else 2))
        fraction = np.minimum(fraction, 1 - 1e-3)
        logits = np.log(fraction) if self.head.kind == "classes" else np.log(fraction / (1 - fraction))
        return logits.astype(np.float32)

    def loss_of(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """Sum over the rows of a batch, and their number."""
        labels = batch.extra["classify.labels"]
        if self.head.kind == "classes":
            return F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORE_INDEX), len(labels)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum"), len(labels)

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        logits, labels = self.logits(model, batch, fused), batch.extra["classify.labels"]
        total, count = self.loss_of(logits, batch)
        best = logits.detach().argmax(-1)
        right = (best == labels).sum() if self.head.kind == "classes" else labels.gather(1, best[:, None]).sum()
        return {"classify": Part(total, count, self.weight), "classify.accuracy": Part(right, count, 0.0)}

    def predict_rows(self, pipeline: Pipeline, rows: TaskRows, numbers: Sequence[int]) -> list[Classified]:
        logits = self.predicted_logits(pipeline, rows, numbers)
        probabilities = (logits.softmax(-1) if self.head.kind == "classes" else logits.sigmoid()).cpu().numpy()
        likely = np.argsort(-probabilities, axis=1, kind="stable")[:, :SHOWN]
        labels = self.head.labels
        return [
            Classified(labels[best], {labels[j]: float(row[j]) for j in some})  # of equals the first label
            for best, some, row in zip(logits.argmax(-1).tolist(), likely, probabilities)
        ]

    def written(self, prediction: Classified) -> dict[str, Any]:
        return {"prediction": prediction.answer, "probabilities": prediction.likely}

    def metric_rows(self, metric: str, predicted: Sequence[Any], rows: Sequence[Example], seed: int) -> list[ReportRow]:
        """predicted: `Classified`, or bare answers of a baseline."""
        answers = [one.answer if isinstance(one, Classified) else one for one in predicted]
        options: dict[str, Any] = {"groups": groups_of(rows), "seed": seed}
        function: Any = METRICS.get(metric)
        note = ""
        if metric == "soft_accuracy":
            score = fraction_score([answers_of(row).get(a, 0.0) for a, row in zip(answers, rows)], **options)
        elif metric in ("vqa_accuracy", "daquar_accuracy"):
            score = function(answers, [people_of(row) for row in rows], **options)
        elif metric in ("f1", "matthews"):
            positive = self.positive or max(self.head.labels)
            score = function(answers, [str(row.target) for row in rows], positive=positive, **options)
            note = f"positive class: {positive}"
        else:
            chance = 1 / len(self.head.labels) if self.head.kind == "classes" else None
            score = function(answers, [best_answer(row) for row in rows], chance=chance, **options)
        return [report_row(self.head.task, metric, score, "" if metric == "matthews" else "%", note)]


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
