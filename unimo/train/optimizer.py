"""How weights move: AdamW, or Muon for the matrices inside Transformer layers; and the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unimo.config import Contradiction, setting


@dataclass(frozen=True)
class OptimizerSettings:
    lr: float = setting(5e-5, "peak learning rate", at_least=0, at_most=10)
    warmup: float = setting(
        0.06,
        "fraction of the run over which the rate rises from 0; at 0 a released unimo schedule stays at its peak",
        at_least=0,
        at_most=1,
    )
    hold: float = setting(
        0.0,
        "fraction of the run up to which the rate stays at its peak: linear and cosine fall then",
        at_least=0,
        at_most=1,
    )
    final: float = setting(0.0, "last learning rate as a fraction of the peak", at_least=0, at_most=1)
    decay: Literal["linear", "cosine", "unimo", "unimo2", "noam", "piecewise"] = setting(
        "linear", "how the rate falls: linear, cosine, or as released: unimo, unimo2, noam, piecewise"
    )
    boundaries: tuple[float, ...] = setting(
        (0.6, 0.8), "piecewise: fractions of the run at which the rate changes", at_least=0, at_most=1
    )
    factors: tuple[float, ...] = setting(
        (1.0, 0.1, 0.01), "piecewise: fractions of the peak before and after each", at_least=0, at_most=1
    )
    beta1: float = setting(0.9, "Adam's first decay rate", at_least=0, below=1)
    beta2: float = setting(0.98, "Adam's second decay rate", at_least=0, below=1)
    epsilon: float = setting(1e-6, "Adam's epsilon", above=0, at_most=1)
    layer_decay: float = setting(
        1.0,
        "learning rate of each layer as a fraction of that of the layer above; 1: all alike",
        at_least=1e-6,
        at_most=1,
    )
    weight_decay: float = setting(
        0.01, "decoupled decay of weight matrices; LayerNorms, biases and scalars have none", at_least=0, at_most=100
    )
    clip: float = setting(1.0, "largest global gradient norm", above=0)
    matrix_optimizer: Literal["adamw", "muon"] = setting(
        "adamw", "what moves the matrices inside Transformer layers: adamw or muon; all else has adamw"
    )
    momentum: float = setting(0.95, "Muon's momentum", at_least=0, below=1)
    split_qkv: bool = setting(
        False,
        "Muon takes queries', keys' and values' weights for three matrices; false: for the one they are stored in",
    )
    epsilon_form: Literal["torch", "unimo"] = setting(
        "torch", "where epsilon stands: torch, or as released for UNIMO, beside the uncorrected root"
    )
    decayed: Literal["matrices", "released"] = setting(
        "matrices",
        "what decays: matrices, that is weights of linear maps and the word table, but no positions, [CLS], speakers, "
        "turns and dictionary entries; or as released all but LayerNorms and biases, temperatures too",
    )

    def contradictions(self) -> Iterator[Contradiction]:
        if self.hold and self.decay not in ("linear", "cosine"):
            yield Contradiction(
                "a released schedule is not held at its peak",
                ("hold", "decay"),
                got=f"{self.hold} and {self.decay}",
                expected="linear or cosine",
                do="--set optimizer.hold=0",
            )
        if self.decay == "noam" and not self.warmup:
            yield Contradiction(
                "noam falls with the root of the warm-up", ("warmup", "decay"), got=0, expected="a warm-up above 0"
            )
        if len(self.factors) != len(self.boundaries) + 1 or list(self.boundaries) != sorted(set(self.boundaries)):
            yield Contradiction(
                "steps of a piecewise rate that do not fit together",
                ("boundaries", "factors"),
                got=f"{self.boundaries} and {self.factors}",
                expected="rising boundaries, and one factor more than boundaries",
            )


class Optimizers:
    """Several optimizers of disjoint parameters that step as one and keep their state in one place."""

    def __init__(self, *parts: torch.optim.Optimizer, epsilon: float | None = None):
        """epsilon: Adam's, where it stands as in released UNIMO (see `make_optimizer`)."""
        self.parts, self.epsilon = parts, epsilon
        self.param_groups: list[dict[str, Any]] = [group for part in parts for group in part.param_groups]
        self.state = parts[0].state
        for part in parts[1:]:
            part.state = self.state

    def step(self) -> None:
        if self.epsilon is not None:
            steps = max((int(state["step"]) for state in self.state.values() if "step" in state), default=0)
            for group in self.parts[0].param_groups:
                group["eps"] = self.epsilon / math.sqrt(1 - group["betas"][1] ** (steps + 1))
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> Optimizers:
    """Fused AdamW; matrices decay, tables (see TABLES), LayerNorms, biases, temperatures and other vectors do not.

    matrix_optimizer="muon" gives the matrices inside Transformer layers to Muon, whose updates are as large as Adam's:
    one rate serves both. A group's "scale" is what layer-wise decay leaves of the rate.

    As released: UNIMO divides by sqrt(v) + epsilon before the bias of v is corrected (spec unimo, U2), which is this
    Adam with epsilon / sqrt(1 - beta2^t); UNIMO-2's patch bias decays, by a slip of its name rule (spec unimo2, V6).
    """
    named, scales = dict(model.named_parameters()), lr_scales(model, settings.layer_decay)
    muon_moves = settings.matrix_optimizer == "muon"
    inside = {name for name, p in named.items() if muon_moves and ".layers." in name and p.ndim == 2}
    rest = named.keys() - inside
    decays = {name for name in rest if _decays(name, named[name], settings.decayed)}
    stacked = {name for name in inside if settings.split_qkv and name.endswith("attention.qkv.weight")}

    def groups(wanted: Collection[str], **options: Any) -> list[dict[str, Any]]:
        """A group for each scale, in the order in which they first come."""
        by_scale: dict[float, list[Tensor]] = {}
        for name, parameter in named.items():
            if name in wanted:
                by_scale.setdefault(scales[name], []).append(parameter)
        return [{"params": params, "scale": scale, **options} for scale, params in by_scale.items()]

    adamw = torch.optim.AdamW(
        groups(decays, weight_decay=settings.weight_decay) + groups(rest - decays, weight_decay=0.0),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )
    epsilon = settings.epsilon if settings.epsilon_form == "unimo" else None
    if not inside:
        return Optimizers(adamw, epsilon=epsilon)
    from unimo.train.muon import Muon  # most runs need no more than AdamW

    muon = Muon(
        groups(inside - stacked, parts=1) + groups(stacked, parts=3),
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
    )
    return Optimizers(adamw, muon, epsilon=epsilon)


# Rows of these are looked up, or are the vectors themselves: nothing multiplies them, so decay bounds no map; it only
# draws rows that are seldom used to zero (dictionary entries without votes). So are ViTs trained (timm's
# no_weight_decay).
# The word table decays as in BERT, RoBERTa and the release: it is the language model's output matrix too.
TABLES = ("cls", "positions", "position.weight", "speaker.weight", "turn.weight", "dictionary.entries")

EMBEDDINGS = {"words": "text_encoder", "patches": "image_encoder", "regions": "encoder"}  # and the tower on top of them


def lr_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Name of each parameter -> what it has of the learning rate: decay ** (layers above it).

    What stands on all layers (heads, poolers, the dictionary) has 1. The towers of UNIMO-2 are below its Grounded
    Transformer, and embeddings below the lowest layer of their tower.
    """
    names = [name for name, _ in model.named_parameters()]
    if decay == 1:
        return dict.fromkeys(names, 1.0)
    depth: dict[str, int] = {}
    for name in names:
        tower, inside, rest = name.partition(".layers.")
        if inside:
            depth[tower] = max(depth.get(tower, 0), 1 + int(rest.partition(".")[0]))
    top = "grounded_encoder" if "grounded_encoder" in depth else "encoder"
    return {name: decay ** _layers_above(name, depth, top) for name in names}


def _layers_above(name: str, depth: dict[str, int], top: str) -> int:
    part = name.partition(".")[0]
    if part in EMBEDDINGS:
        tower, layer = EMBEDDINGS[part], -1
        tower = tower if tower in depth else top
    elif part in depth:
        tower, inside = part, name.partition(".layers.")[2]
        layer = int(inside.partition(".")[0]) if inside else depth[part]  # the norm behind its last layer
    else:
        return 0
    return depth[tower] - layer + (0 if tower == top else depth[top])


def _decays(name: str, parameter: Tensor, rule: str) -> bool:
    if rule == "matrices":
        return parameter.ndim > 1 and not any(f".{name}".endswith(f".{table}") for table in TABLES)
    return name.endswith("patches.projection.bias") or not ("norm" in name or name.endswith(".bias"))


def learning_rate(settings: OptimizerSettings, progress: float) -> float:
    """The rate at `progress` in [0, 1] of the run: up linearly, then down to `final`.

    The released forms (spec unimo §6.1, unimo2 §6) count from the run's beginning: after the warm-up unimo goes on at
    1 - progress, a jump, but without a warm-up stays at its peak; unimo2 goes on at 1 - (progress - warmup); noam falls
    with the root; piecewise has no warm-up.
    """
    warmup = settings.warmup
    if settings.decay == "piecewise":
        return settings.lr * settings.factors[sum(progress >= boundary for boundary in settings.boundaries)]
    if progress < warmup:
        return settings.lr * progress / warmup
    if settings.decay == "unimo":
        return settings.lr * max(0.0, 1 - progress) if warmup else settings.lr
    if settings.decay == "unimo2":
        return settings.lr * max(0.0, 1 - (progress - warmup))
    if settings.decay == "noam":
        return settings.lr * math.sqrt(warmup / progress)
    begins = max(warmup, settings.hold)
    rest = min(1.0, max(0.0, progress - begins) / max(1e-9, 1 - begins))
    fall = 1 - rest if settings.decay == "linear" else 0.5 * (1 + math.cos(math.pi * rest))
    return settings.lr * (settings.final + (1 - settings.final) * fall)


def rate_of_step(settings: OptimizerSettings, progress: float, fraction: float) -> float:
    """The rate of a step that begins at `progress` and takes `fraction` of the run.

    linear and cosine: that of the step's middle, so that the first step moves the weights, and the last one too.
    Released schedules: that of its beginning, as released; their first step after a warm-up from 0 moves nothing.
    """
    return learning_rate(settings, progress + (fraction / 2 if settings.decay in ("linear", "cosine") else 0.0))


def moments(model: nn.Module, optimizer: Optimizers) -> dict[str, Tensor]:
    """The optimizers' state by parameter name; parameters that never had a gradient have none."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def put_back(model: nn.Module, optimizer: Optimizers, saved: dict[str, Tensor]) -> None:
    """The inverse of `moments`."""
    parameters = dict(model.named_parameters())
    for name, value in saved.items():
        owner, _, key = name.rpartition(".")
        optimizer.state[parameters[owner]][key] = value.to(parameters[owner].device)
