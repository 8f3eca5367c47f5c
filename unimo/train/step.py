"""One step of all objectives as a module: losses to differentiate, and numbers to log."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimo import distributed
from unimo.batch import Batch
from unimo.errors import UsageError
from unimo.model.flops import batch_cost
from unimo.model.unified import Fused, Unified
from unimo.objectives import objective
from unimo.objectives.objective import Objective, Part


class TrainStep(nn.Module):
    """One step of all objectives as a module, so that DistributedDataParallel sees its forward.

    forward: Batch -> (loss to differentiate, {"loss" and every part: mean over ranks}, this rank's forward operations).
    """

    def __init__(self, model: Unified, active: dict[str, Objective]):
        super().__init__()
        self.model, self.active = model, active
        self.names = [name for objective in active.values() for name in objective.parts]

    def compute(self, batch: Batch) -> tuple[dict[str, Part], dict[str, Fused]]:
        return objective.step(self.model, batch, self.active)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float], float]:
        parts, fused = self.compute(batch)
        # A rank may lack a part that others have (a bin without a text to write): all use the same names.
        absent = Part(torch.zeros((), device=batch.pixels.device), 0, 0.0)
        rows = [parts.get(name, absent) for name in self.names]
        totals = torch.stack([row.total.float() for row in rows])
        weights = totals.new_tensor([row.weight for row in rows])
        counts = torch.stack([torch.as_tensor(row.count, dtype=torch.float32, device=totals.device) for row in rows])
        present = totals.new_tensor([name in parts for name in self.names])
        count, total, weighted, present = distributed.total(torch.stack([counts, totals, weights * totals, present]))
        if not present.any():
            raise UsageError(
                "no objective had anything to predict",
                where="objectives, batch",
                got=f"{', '.join(self.active)} of {', '.join(k for k, v in batch.keys.items() if v)}",
                expected="a stream that an objective reads (dictionary only watches what others fuse)",
                do="give data of another kind, or switch another objective on",
            )
        count = count.clamp_min(1)
        # DistributedDataParallel averages gradients over ranks; the mean we want is sum over ranks / count.
        loss = (weights * totals / count).sum() * distributed.world()
        if not loss.requires_grad:  # nothing to predict here: a zero with a graph, for the others' sake
            loss = loss + 0.0 * self.model.words.word.weight.sum()
        values = torch.cat([(weighted / count).sum()[None], total / count]).tolist()
        means = {name: value for name, value, here in zip(self.names, values[1:], present.tolist()) if here}
        requests = {name: one.request for name, one in fused.items()}
        read = next((one.states.read for one in fused.values()), 0)  # all lie in one row
        return loss, {"loss": values[0], **means}, batch_cost(self.model, batch, requests, read)
