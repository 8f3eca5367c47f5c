"""The dev split during a run: when it is scored, which checkpoint was best, and when to stop early."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unimo.model.unified import Unified

WORST = float("-inf")


class ValidationScore(NamedTuple):
    """One evaluation of the dev split. score: larger is better. progress: fraction of the schedule that was done."""

    step: int
    score: float
    loss: float
    progress: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """Larger is better: the score; of equal scores the lower loss; of equal losses the later step.

        A score may stand still (Matthews is 0 while every answer is the same class) where the loss already falls.
        """
        return self.score, -self.loss, self.step


class Validation(NamedTuple):
    """What the dev split says of a model. score: larger is better. metrics: more numbers for the log."""

    score: float
    loss: float
    metrics: dict[str, float] = {}  # noqa: RUF012  never written to


@dataclass
class EarlyStopping:
    """Early stopping. evaluate: the model's (score, loss) on the dev split, or a `Validation`. every: steps between two
    scores. times: if not 0, so many scores spread evenly over the schedule instead.

    patience: scores without a new best after which the run stops; 0: never. begins: fraction of the schedule from which
    on scores count for patience: before, the rate is still high, and scores say little of where it ends. min_steps:
    steps that are made whatever the scores are. given: all scores so far, in order.
    """

    evaluate: Callable[[Unified], tuple[float, float] | Validation]
    every: int = 1
    patience: int = 0
    begins: float = 0.0
    min_steps: int = 0
    times: int = 0
    given: list[ValidationScore] = field(default_factory=list)

    def is_due(self, step: int, progress: float) -> bool:
        """Whether the dev split is scored after so many steps; always when the run is done, never twice at a step."""
        scored = bool(self.given) and self.given[-1].step == step
        if self.times:
            before = self.given[-1].progress if self.given else 0.0
            due = int(progress * self.times + 1e-9) > int(before * self.times + 1e-9)
        else:
            due = step % self.every == 0
        return not scored and (progress >= 1 or due)

    def add(self, step: int, score: float, loss: float, progress: float) -> bool:
        """Takes a score; whether it is the best so far. A score or loss that is no number is the worst."""
        new = ValidationScore(step, score if score == score else WORST, loss if loss == loss else -WORST, progress)
        self.given.append(new)
        return self.best == new

    @property
    def best(self) -> ValidationScore | None:
        """None before the first score."""
        return max(self.given, key=lambda score: score.rank, default=None)

    @property
    def patience_is_over(self) -> bool:
        best = self.best
        if not self.patience or best is None or self.given[-1].step < self.min_steps:
            return False
        waited = [score for score in self.given if score.step > best.step and score.progress >= self.begins]
        return len(waited) >= self.patience

    def to_state(self) -> list[list[Any]]:
        """For a checkpoint's JSON, which knows no infinity."""
        return [[value if abs(value) != -WORST else None for value in score] for score in self.given]

    def from_state(self, state: list[list[Any]]) -> None:
        self.given = [
            ValidationScore(step, WORST if score is None else score, -WORST if loss is None else loss, progress)
            for step, score, loss, progress in state
        ]


@contextlib.contextmanager
def answering(model: nn.Module, ema: dict[str, Tensor]) -> Iterator[None]:
    """The model as it answers: without dropout, and with its averaged weights where there are any."""
    own = {name: p.detach().clone() for name, p in model.named_parameters()} if ema else {}
    try:
        model.eval()
        _put(model, ema)
        yield
    finally:
        _put(model, own)
        model.train()


@torch.no_grad()
def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters() if weights else ():
        parameter.copy_(weights[name])


def forget_later(folder: Path, step: int) -> None:
    """Removes the best weights of steps that will now be made again."""
    for path in folder.glob("step-*"):
        if int(path.name[len("step-") :].split(".")[0]) > step:
            shutil.rmtree(path)
