"""What the loop is told about a run: pre-training and fine-tuning are one loop with other works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from unimo.model.unified import Unified
from unimo.objectives import Objective
from unimo.train.early_stopping import EarlyStopping
from unimo.train.optimizer import OptimizerSettings

Say = Callable[[str], None]


class LoopSettings(Protocol):
    """The settings every run has, whatever it learns. Exactly one of steps and minutes is its length."""

    @property
    def optimizer(self) -> OptimizerSettings: ...
    @property
    def minutes(self) -> float | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def save_steps(self) -> int | None: ...
    @property
    def save_minutes(self) -> float: ...
    @property
    def keep(self) -> int: ...
    @property
    def ema_decay(self) -> float: ...
    @property
    def activation_checkpointing(self) -> bool: ...
    @property
    def tensorboard(self) -> bool: ...


class TrainingJob(Protocol):
    """One run. may_change: settings that a resumed run may have changed. marks: when the dev split is asked, or None.

    check: refuses settings that contradict each other, before anything is opened. open: opens the data; one process
    does it first, all others after it. From then on: fingerprints of the data, headline, steps (the length, or None
    where minutes are), min_steps (made however soon the minutes are over), active objectives, and facts to be kept in
    every checkpoint. build: the model as it begins. stream: its share of the batches by step number, a pure function
    (`unimo.data.loader.Stream`, or a task's). start: puts the weights in that it starts from. learner: one step as a
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
