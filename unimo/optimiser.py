"""How weights move: AdamW, or Muon for the matrices inside Transformer layers; and the learning rate over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unimo.config import setting


@dataclass(frozen=True)
class Optimiser:
    rate: float = setting(5e-5, "peak learning rate")
    warmup: float = setting(0.06, "share of the run over which the rate rises from 0")
    final: float = setting(0.0, "last learning rate as a share of the peak")
    decay: Literal["linear", "cosine"] = setting("linear", "how the rate falls: linear or cosine")
    beta1: float = setting(0.9, "Adam's first decay rate")
    beta2: float = setting(0.98, "Adam's second decay rate")
    epsilon: float = setting(1e-6, "Adam's epsilon")
    weight_decay: float = setting(0.01, "decoupled decay of weight matrices; LayerNorms, biases and scalars have none")
    clip: float = setting(1.0, "largest global gradient norm")
    layers: Literal["adamw", "muon"] = setting(
        "adamw", "what moves the matrices inside Transformer layers: adamw or muon; all else has adamw"
    )
    momentum: float = setting(0.95, "Muon's momentum")


class Optimisers:
    """Several optimisers of disjoint parameters that step as one and keep their state in one place."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        self.param_groups: list[dict[str, Any]] = [group for part in parts for group in part.param_groups]
        self.state = parts[0].state
        for part in parts[1:]:
            part.state = self.state

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)


def make_optimiser(model: nn.Module, settings: Optimiser) -> Optimisers:
    """Fused AdamW; matrices decay, LayerNorms, biases, temperatures and other vectors do not.

    layers="muon" gives the matrices inside Transformer layers to Muon (Jordan et al. 2024: momentum, orthogonalised),
    scaled so that its updates are as large as Adam's (Liu et al. 2025, arXiv:2502.16982) and one rate serves both.
    """
    inside = {name for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2}
    orthogonal = [p for name, p in model.named_parameters() if settings.layers == "muon" and name in inside]
    rest = [p for name, p in model.named_parameters() if settings.layers != "muon" or name not in inside]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )
    if not orthogonal:
        return Optimisers(adamw)
    muon = torch.optim.Muon(
        orthogonal,
        lr=settings.rate,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return Optimisers(adamw, muon)


def learning_rate(settings: Optimiser, progress: float) -> float:
    """The rate at `progress` in [0, 1] of the run: up linearly, then down to `final`."""
    if progress < settings.warmup:
        return settings.rate * progress / settings.warmup
    rest = min(1.0, (progress - settings.warmup) / max(1e-9, 1 - settings.warmup))
    fall = 1 - rest if settings.decay == "linear" else 0.5 * (1 + math.cos(math.pi * rest))
    return settings.rate * (settings.final + (1 - settings.final) * fall)


def moments(model: nn.Module, optimiser: Optimisers) -> dict[str, Tensor]:
    """The optimisers' state by parameter name; parameters that never had a gradient have none."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def put_back(model: nn.Module, optimiser: Optimisers, saved: dict[str, Tensor]) -> None:
    """The inverse of `moments`."""
    parameters = dict(model.named_parameters())
    for name, value in saved.items():
        owner, _, key = name.rpartition(".")
        optimiser.state[parameters[owner]][key] = value.to(parameters[owner].device)
