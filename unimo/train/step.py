"""One step of all objectives as a module: losses to differentiate, and numbers to log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unimo import distributed
from unimo.batch import Batch
from unimo.errors import UsageError
from unimo.model.flops import batch_cost
from unimo.model.unified import Fused, Unified
from unimo.objectives import objective
from unimo.objectives.objective import Objective, Part

FUSED = ("encoder", "grounded_encoder", "ground_norm", "dictionary.entries")  # what "fused" stands for


def trained(model: nn.Module, active: Mapping[str, Objective]) -> Iterator[nn.Parameter]:
    """The parameters beside the towers' that the objectives of a run train (`Objective.trains`).

    One step, or one process, may hold nothing for some of them: a bin of texts without a word to write. Then their
    gradient is zero, not absent, so that every step has the same graph and any number of processes trains the same.
    """
    names = {name for one in active.values() for name in getattr(one, "trains", ())}
    names |= set(FUSED) if "fused" in names else set()
    for name, parameter in model.named_parameters():
        if any(f"{name}.".startswith(f"{part}.") for part in names):
            yield parameter


class TrainStep(nn.Module):
    """One step of all objectives as a module, so that DistributedDataParallel sees its forward.

    forward: Batch -> (loss to differentiate, what is reported of it, forward operations of this rank). What is
    reported stays on the device, for the loop to look at when it likes: `losses` gives it names.
    """

    def __init__(self, model: Unified, active: dict[str, Objective]):
        super().__init__()
        self.model, self.active = model, active
        self.names = [name for objective in active.values() for name in objective.parts]

    def compute(self, batch: Batch) -> tuple[dict[str, Part], dict[str, Fused]]:
        return objective.step(self.model, batch, self.active)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, float]:
        parts, fused = self.compute(batch)
        device = batch.device
        # A rank may lack a part that others have (a bin without a text to write): all use the same names.
        weights, present, known = torch.tensor(
            [_known(parts.get(name)) for name in self.names], dtype=torch.float32
        ).T.to(device, non_blocking=True)
        zero = torch.zeros((), device=device)
        totals = torch.stack([parts[name].total.float() if name in parts else zero for name in self.names])
        unknown = [_unknown(parts.get(name), zero) for name in self.names]
        counts = known + torch.stack(unknown)
        count, total, weighted, present = distributed.total(torch.stack([counts, totals, weights * totals, present]))
        count = count.clamp_min(1)
        # DistributedDataParallel averages gradients over ranks; the mean we want is sum over ranks / count.
        loss = (weights * totals / count).sum() * distributed.world()
        if distributed.world() > 1 or not loss.requires_grad:
            # A parameter that is in shards now is a layer's, and every step runs every layer.
            wanted = trained(self.model, self.active) if loss.requires_grad else self.model.parameters()
            loss = _Touched.apply(loss, *(p for p in wanted if not hasattr(p, "full_tensor")))
        report = torch.cat([(weighted / count).sum()[None], total / count, present])
        return loss, report, self._cost(batch, fused)

    def losses(self, report: list[float]) -> dict[str, float]:
        """Loss and every part that some rank had: means over all ranks. UsageError: there was none."""
        n = len(self.names)
        loss, means, present = report[0], report[1 : 1 + n], report[1 + n :]
        if not any(present):
            raise UsageError(
                "no objective had anything to predict",
                where="objectives, batch",
                got=", ".join(self.active),
                expected="a stream that an objective reads (dictionary only watches what others fuse)",
                do="give data of another kind, or switch another objective on",
            )
        return {"loss": loss, **{name: mean for name, mean, here in zip(self.names, means, present) if here}}

    def _cost(self, batch: Batch, fused: dict[str, Fused]) -> float:
        requests = {name: one.request for name, one in fused.items()}
        read = next((one.states.read for one in fused.values()), 0)  # all lie in one row
        return batch_cost(self.model, batch, requests, read)


def _known(part: Part | None) -> tuple[float, float, float]:
    """Weight, whether it is there, and its count as far as the host knows it."""
    if part is None:
        return 0.0, 0.0, 0.0
    return part.weight, 1.0, 0.0 if isinstance(part.count, Tensor) else float(part.count)


def _unknown(part: Part | None, zero: Tensor) -> Tensor:
    """The count that only the device knows."""
    count = None if part is None else part.count
    return count.float().to(zero.device, non_blocking=True) if isinstance(count, Tensor) else zero


class _Touched(torch.autograd.Function):
    """The loss as it is, with a gradient of zero for parameters that it does not depend on."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.like = [(parameter.shape, parameter.dtype) for parameter in parameters]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        zeros = (gradient.new_zeros((), dtype=dtype).expand(shape) for shape, dtype in ctx.like)
        return gradient, *zeros
