"""A training job: what distinguishes pre-training from fine-tuning for the one loop, and the settings both share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from unimo.config import setting
from unimo.model.unified import Unified
from unimo.objectives import Objective
from unimo.train.early_stopping import EarlyStopping
from unimo.train.optimizer import OptimizerSettings

Say = Callable[[str], None]


@dataclass(frozen=True)
class LoopSettings:
    """The settings every run has, whatever it learns."""

    optimizer: OptimizerSettings = setting(OptimizerSettings(), "how the weights move")
    minutes: float | None = setting(None, "length of the run in minutes", above=0)
    seed: int = setting(0, "random seed")
    precision: Literal["auto", "bf16", "fp32"] = setting("auto", "auto, bf16 or fp32")
    workers: int = setting(0, "loader processes; 0 loads in the training process", at_least=0, at_most=1024)
    save_steps: int | None = setting(None, "steps between checkpoints", at_least=1)
    save_minutes: float = setting(10.0, "minutes between checkpoints when save_steps is none", at_least=0)
    keep: int = setting(2, "checkpoints kept", at_least=2)
    ema_decay: float = setting(
        0.0, "decay of an average of the weights (EMA), used for inference; 0 keeps none", at_least=0, at_most=0.999999
    )
    activation_checkpointing: bool = setting(False, "recompute activations in the backward pass to save memory")
    tensorboard: bool = setting(True, "write TensorBoard curves when the package is installed")


class TrainingJob(Protocol):
    """One run. may_change: settings that a resumed run may have changed. early_stopping: when the dev split is scored,
    or None.

    check: refuses settings that contradict each other, before anything is opened. open: opens the data; one process
    does it first, all others after it. From then on: fingerprints of the data, headline, steps (the length, or None
    where minutes are), min_steps (made however soon the minutes are over), active objectives, and facts to be kept in
    every checkpoint. build: the model as it begins. stream: its share of the batches by step number, a pure function
    (`unimo.data.loader.Stream`, or a task's). start: puts the weights in that it starts from. train_step: one step as a
    module, in place of the ordinary `TrainStep`.
    """

    settings: Any
    may_change: tuple[str, ...]
    fingerprints: dict[str, str]
    headline: str
    steps: int | None
    min_steps: int
    active: dict[str, Objective]
    facts: dict[str, Any]
    early_stopping: EarlyStopping | None
    train_step: Callable[[Unified, dict[str, Objective]], nn.Module] | None

    def check(self, world: int) -> None: ...

    def open(self, out: Path, say: Say) -> None: ...

    def stream(self, rank: int, world: int) -> Any: ...

    def build(self) -> Unified: ...

    def start(self, model: Unified, say: Say) -> None: ...
