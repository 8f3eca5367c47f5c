"""Adversarial training of VILLA's kind: answers must hold under the worst small perturbation (spec unimo §6.8).

    n samples · T packed tokens · R regions · F their features · D width

Each of K steps runs the model three times, with the same weights: clean, with the words' embeddings perturbed, with the
regions' features perturbed. Answers to perturbed inputs should be right, and close to the clean answer. Between steps
the perturbation ascends the gradient. The losses of all steps add up to one update of the weights. What is known
before (object tags), padding and missing regions is never perturbed, and has no part in any norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import KNOWN, PADDING, Batch
from unimo.config import Contradiction, setting

Forward = Callable[[Batch], tuple[Tensor, Tensor]]
SMALLEST_NORM = 1e-8


@dataclass(frozen=True)
class Adversarial:
    steps: int = setting(4, "K, perturbations before one update of the weights", at_least=1, at_most=1000)
    lr: float = setting(0.05, "step size of the ascent", at_least=0, at_most=1e6)
    initial_norm: float = setting(
        0.4, "size of the random first perturbation; 0 begins at nothing", at_least=0, at_most=1e6
    )
    max_norm: float = setting(0.4, "bound of the perturbation, see `projection`; 0: none", at_least=0, at_most=1e6)
    norm: Literal["l2", "inf"] = setting("l2", "how perturbations are measured, per sample: l2 or inf")
    projection: Literal["released", "villa"] = setting(
        "released", "released: too large a gradient shrinks the whole perturbation; villa: the perturbation's own norm"
    )
    sides: tuple[Literal["text", "image"], ...] = setting(("text", "image"), "what is perturbed: text, image or both")
    kl_weight: float = setting(
        1.0, "weight of the divergence between clean and perturbed answers", at_least=0, at_most=1e6
    )
    clean: bool = setting(True, "also learn from the clean answer, and stay near it")

    def contradictions(self) -> Iterator[Contradiction]:
        if len(set(self.sides)) != len(self.sides) or not self.sides:
            got = ", ".join(self.sides) or "none"
            yield Contradiction("each side is perturbed once", ("sides",), got=got, expected="text, image or both")


def adversarial_losses(
    forward: Forward, batch: Batch, settings: Adversarial, deltas: dict[str, Tensor]
) -> Iterator[Tensor]:
    """One loss a step, to be sent backward one after the other before the weights move.

    ask: batch -> (logits (n, k), their mean cross-entropy). deltas: side -> first perturbation, see
    `initial_deltas`; replaced by the next one after each step.
    """
    for _ in range(settings.steps):
        losses = []
        logits, loss = forward(batch)
        if settings.clean:
            losses.append(loss / settings.steps)
        for side in settings.sides:
            delta = deltas[side].detach().requires_grad_()
            perturbed_logits, perturbed_loss = forward(perturbed(batch, side, delta))
            (gradient,) = torch.autograd.grad(perturbed_loss / settings.steps, delta, retain_graph=True)
            gradient = gradient * perturbable(batch, side)[..., None]
            losses.append(perturbed_loss / settings.steps)
            if settings.clean:
                losses.append(settings.kl_weight * symmetric_divergence(logits, perturbed_logits))
            deltas[side] = ascend(delta.detach(), gradient, owners(batch, side), settings)
        yield torch.stack(losses).sum()


def perturbed(batch: Batch, side: str, delta: Tensor) -> Batch:
    """The batch with a perturbation added to its words' embeddings, (T, D), or its regions' features, (N, R, F)."""
    if side == "text":
        return replace(batch, texts=replace(batch.texts, delta=delta))
    assert batch.regions is not None, "only regions can be perturbed"
    return replace(batch, regions=replace(batch.regions, features=batch.regions.features + delta))


def initial_deltas(batch: Batch, width: int, settings: Adversarial, generator: torch.Generator) -> dict[str, Tensor]:
    """Random deltas of what is asked about: object tags and other KNOWN words stay as they are."""
    found: dict[str, Tensor] = {}
    for side in settings.sides:
        valid = perturbable(batch, side)
        size = width
        if side == "image":
            assert batch.regions is not None
            size = batch.regions.features.shape[2]
        delta = torch.rand(*valid.shape, size, generator=generator, device=valid.device) * 2 - 1
        delta = delta * valid[..., None] * settings.initial_norm
        if settings.norm == "l2":
            owner = owners(batch, side)
            count = torch.zeros(int(owner.max()) + 1, device=valid.device).index_add_(0, owner, valid.flatten().float())
            delta = delta / (count * size).clamp_min(1).sqrt()[owner].view(*valid.shape, 1)
        found[side] = delta
    return found


def perturbable(batch: Batch, side: str) -> Tensor:
    """Which rows may be perturbed: (T,) words that are neither KNOWN nor PADDING, or (N, R) regions that are there."""
    if side == "text":
        given = torch.tensor([KNOWN, PADDING], device=batch.texts.roles.device)
        return ~torch.isin(batch.texts.roles, given)
    assert batch.regions is not None, "only regions can be perturbed"
    place = torch.arange(batch.regions.features.shape[1], device=batch.regions.lengths.device)
    return place < batch.regions.lengths[:, None]


def owners(batch: Batch, side: str) -> Tensor:
    """The sample of every row of a perturbation, flattened."""
    if side == "text":
        return batch.texts.owner
    assert batch.regions is not None
    n, rows, _ = batch.regions.features.shape
    return torch.arange(n, device=batch.regions.features.device).repeat_interleave(rows)


def ascend(delta: Tensor, gradient: Tensor, owner: Tensor, settings: Adversarial) -> Tensor:
    """The next delta: a step along the gradient, then back within bounds. Norms are of all a sample's rows together."""
    size = _norm(gradient, owner, settings.norm)
    moved = delta + settings.lr * gradient / size.clamp_min(SMALLEST_NORM)
    if not settings.max_norm:
        return moved
    if settings.norm == "inf":
        return moved.clamp(-settings.max_norm, settings.max_norm)
    if settings.projection == "villa":
        size = _norm(moved, owner, "l2")
    return moved * torch.where(size > settings.max_norm, settings.max_norm / size, 1.0)


def _norm(x: Tensor, owner: Tensor, kind: str) -> Tensor:
    """The norm of each sample, for every one of its rows: (..., 1)."""
    rows, n = x.flatten(0, -2), int(owner.max()) + 1
    if kind == "inf":
        of_sample = x.new_zeros(n).scatter_reduce_(0, owner, rows.abs().amax(-1), "amax")
    else:
        of_sample = x.new_zeros(n).index_add_(0, owner, rows.square().sum(-1)).sqrt()
    return of_sample[owner].view(*x.shape[:-1], 1)


def symmetric_divergence(a: Tensor, b: Tensor) -> Tensor:
    """KL(a || b) + KL(b || a) of two tables of logits, (n, k), averaged over rows."""
    a, b = a.log_softmax(-1), b.log_softmax(-1)
    return F.kl_div(a, b, reduction="batchmean", log_target=True) + F.kl_div(
        b, a, reduction="batchmean", log_target=True
    )
