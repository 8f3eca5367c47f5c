"""The mechanics that the released fine-tuning scripts share (spec unimo §6.1)."""

from __future__ import annotations

from typing import Literal

from unimo.finetune.settings import Finetuning, Reading, TaskData
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


def of_texts(
    task: str,
    *,
    metrics: tuple[str, ...] = ("accuracy",),
    positive: str | None = None,
    kind: Literal["classification", "regression"] = "classification",
) -> Finetuning:
    """What the GLUE scripts have in common (spec unimo §6.2): texts in, one answer out; the middle of the grid.

    The grid: batch 16 and 32, rates 1e-5, 2e-5, 3e-5, five seeds, best dev result. The released scripts run one process
    over eight GPUs and count its batch once, so that they end at an eighth of their schedule (§6.1); this is the
    schedule that was meant. positive: class of F1 and Matthews.
    """
    return Finetuning(
        task=task,
        kind=kind,
        data=TaskData(reader=task),
        read=Reading(max_length=512, positive=positive),
        metrics=metrics,
        batch_size=32,
        epochs=10.0,
        optimizer=adam(2e-5),
    )
