"""A training job: what distinguishes pre-training from fine-tuning for the one loop, and the settings both share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from unimo.config import setting
from unimo.model.unified import Unified
from unimo.objectives.objective import Objective
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
    torch_compile: bool = setting(False, "compile what follows the attention in each layer; for GPUs")
    tower_chunk: int | None = setting(
        None,
        "images, or texts, that UNIMO-2's towers encode at once; the backward pass encodes each chunk again, so that "
        "a contrastive batch of any size fits (gradient cache); none: all at once, nothing again",
        at_least=1,
    )
    parallel: Literal["ddp", "fsdp"] = setting(
        "ddp", "what several processes hold: ddp, each all of the model, or fsdp, each a part of every matrix"
    )
    log: Literal["auto", "none", "tensorboard", "wandb", "trackio"] = setting(
        "auto", "where curves go beside log.jsonl; auto: TensorBoard where it is installed"
    )


class TrainingJob(Protocol):
    """One run, as the loop sees it.

    check: refuses settings that contradict each other, before anything is opened. open: opens the data; one process
    does it first, all others after it. The attributes below `settings` are known from then on.
    """

    settings: Any
    may_change: tuple[str, ...]  # settings that a resumed run may have changed
    fingerprints: dict[str, str]  # of the data
    headline: str
    steps: int | None  # the length, or None where `minutes` is
    min_steps: int  # made however soon the minutes are over
    active: dict[str, Objective]
    facts: dict[str, Any]  # kept in every checkpoint
    early_stopping: EarlyStopping | None  # when the dev split is evaluated
    train_step: Callable[[Unified, dict[str, Objective]], nn.Module] | None  # in place of the ordinary `TrainStep`

    def check(self, world: int) -> None: ...

    def open(self, out: Path, say: Say) -> None: ...

    def stream(self, rank: int, world: int) -> Any:
        """This rank's batches by step number, a pure function (`unimo.data.loader.Stream`, or a task's)."""

    def build(self) -> Unified:
        """The model as it begins."""

    def start(self, model: Unified, say: Say) -> None:
        """Puts the weights in that the model starts from."""
