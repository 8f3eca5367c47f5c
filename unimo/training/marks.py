"""The dev split during a run: when it is asked, which checkpoint answered best, and when to stop hoping."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unimo.model.unified import Unified


@dataclass
class Marks:
    """ask: the model's score on the dev split, larger is better. every: steps between two questions.

    patience: questions without a new best after which the run stops; 0: never. given: (step, score) so far, in order;
    what is needed to go on after a stop, see `to_state`.
    """

    ask: Callable[[Unified], float]
    every: int
    patience: int = 0
    given: list[tuple[int, float]] = field(default_factory=list)

    def is_due(self, step: int, done: bool) -> bool:
        """Whether the dev split is asked after so many steps; always when the run is done, never twice at a step."""
        asked = bool(self.given) and self.given[-1][0] == step
        return not asked and (done or step % self.every == 0)

    def add(self, step: int, score: float) -> bool:
        """Takes a score; whether it is better than all before. A score that is no number is the worst."""
        best = self.best
        self.given.append((step, score if score == score else float("-inf")))
        return best is None or self.given[-1][1] > best[1]

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, score) of the best so far, of equals the first; None before the first question."""
        return max(self.given, key=lambda one: (one[1], -one[0]), default=None)

    @property
    def patience_is_over(self) -> bool:
        best = self.best
        return bool(self.patience) and best is not None and self._since(best[0]) >= self.patience

    def _since(self, step: int) -> int:
        return sum(one[0] > step for one in self.given)

    def to_state(self) -> list[list[Any]]:
        """For a checkpoint's JSON, which knows no infinity."""
        return [[step, None if score == float("-inf") else score] for step, score in self.given]

    def from_state(self, state: list[list[Any]]) -> None:
        self.given = [(int(step), float("-inf") if score is None else float(score)) for step, score in state]


@contextlib.contextmanager
def answering(model: nn.Module, averaged: dict[str, Tensor]) -> Iterator[None]:
    """The model as it answers: without dropout, and with its averaged weights where there are any."""
    own = {name: p.detach().clone() for name, p in model.named_parameters()} if averaged else {}
    try:
        model.eval()
        _put(model, averaged)
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
