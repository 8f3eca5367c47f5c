"""What the released fine-tuning scripts share (spec unimo §6.1): Adam, and recipes by what is read and predicted."""

from __future__ import annotations

from typing import Any, Literal

from unimo.finetune.settings import Finetuning, Reading, TaskData, Writing
from unimo.train.optimizer import OptimizerSettings


def adam(
    lr: float,
    *,
    warmup: float = 0.06,
    weight_decay: float = 0.0,
    beta2: float = 0.98,
    decay: Literal["unimo", "unimo2", "piecewise"] = "unimo",
) -> OptimizerSettings:
    """Adam with epsilon 1e-6, clipping at 1, and by default the line that is not shifted by its warm-up."""
    return OptimizerSettings(lr=lr, warmup=warmup, decay=decay, beta2=beta2, epsilon=1e-6, weight_decay=weight_decay)


def glue(task: str, *, positive: str | None = None, **settings: Any) -> Finetuning:
    """Texts in, one answer out (spec unimo §6.2); the middle of the grid. positive: class of F1 and Matthews.

    The grid: batch 16 and 32, rates 1e-5, 2e-5, 3e-5, five seeds, best dev result. The released scripts run one process
    over eight GPUs and count its batch once, so that they end at an eighth of their schedule (§6.1); this is the
    schedule that was meant.
    """
    defaults: dict[str, Any] = {"metrics": ("accuracy",), "batch_size": 32, "epochs": 10.0, "optimizer": adam(2e-5)}
    read = Reading(max_length=512, positive=positive)
    return Finetuning(task=task, data=TaskData(reader=task), read=read, **defaults | settings)


def about_images(task: str, lr: float, *, read: dict[str, Any], **settings: Any) -> Finetuning:
    """A class for one text beside an image: answers to questions, entailment. read: settings of `Reading`."""
    defaults: dict[str, Any] = {"data": TaskData(reader=task), "optimizer": adam(lr)}
    reading = Reading(**{"texts": 1, "sees": True, "reads": "both", "fusion": "sum", **read})
    return Finetuning(task=task, read=reading, **defaults | settings)


def writing(task: str, lr: float, write: Writing, **settings: Any) -> Finetuning:
    """A text to be written."""
    defaults: dict[str, Any] = {"data": TaskData(reader=task), "optimizer": adam(lr, weight_decay=0.01)}
    return Finetuning(task=task, kind="generation", write=write, **defaults | settings)
