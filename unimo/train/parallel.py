"""Many processes that train one model: as copies (DDP), or each with a part of every matrix (FSDP2).

Copies average gradients while the backward pass runs. Parts hold weights, gradients and moments once over all
processes: a step gathers the weights it uses, and keeps them until its backward pass is over (as ZeRO-2 does; models of
a billion parameters have no need of more), and every process runs every layer in every step, or the others wait for it
in vain. Checkpoints hold whole tensors: any number of processes goes on with them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unimo import distributed
from unimo.errors import UsageError
from unimo.machine import free_memory
from unimo.model.transformer import Transformer
from unimo.train.job import LoopSettings
from unimo.train.step import TrainStep


def parallel(step: TrainStep, settings: LoopSettings) -> nn.Module:
    """The step as every process runs it; as it is where there is one. UsageError: an optimizer of whole matrices."""
    if settings.parallel == "fsdp" and settings.optimizer.matrix_optimizer == "muon":
        raise UsageError(
            "Muon moves whole matrices, of which each process holds a part",
            where="parallel, optimizer.matrix_optimizer",
            got="fsdp and muon",
            do="--set parallel=ddp, or --set optimizer.matrix_optimizer=adamw",
        )
    if distributed.world() == 1:
        return step
    if settings.parallel == "ddp":
        # The graph never changes: `TrainStep` sees to it that every step touches every parameter the run trains.
        return DistributedDataParallel(step, static_graph=True, gradient_as_bucket_view=True)
    from torch.distributed.fsdp import fully_shard

    last = step.model.fuser.layers[-1]  # finished row by row where it is read (`States`), so not called as a module
    for tower in step.modules():
        for layer in tower.layers if isinstance(tower, Transformer) else ():
            if layer is not last:
                fully_shard(layer, reshard_after_forward=False)
    fully_shard(step, reshard_after_forward=False)
    return step


def check_devices(settings: Any, device: torch.device) -> None:
    """UsageError for GPUs of several kinds; ResourceError for a pre-training step that does not fit into memory."""
    if device.type == "cuda":
        names = distributed.everyone(torch.cuda.get_device_name(device))
        if len(set(names)) > 1:
            found = "; ".join(f"rank {rank}: {name}" for rank, name in enumerate(names))
            expected = "GPUs of one kind: a step takes as long as on the slowest, and fits where the smallest allows"
            raise UsageError("the processes have different GPUs", where="torchrun", got=found, expected=expected)
    with distributed.collective_errors():
        if hasattr(settings, "batch") and distributed.rank() == 0:
            _check_memory(settings, device)


def _check_memory(run: Any, device: torch.device) -> None:
    """The plan of a step takes seconds, so that on a CPU a run is spared it that fits by a rough count."""
    from unimo.train.plan import check_fits, rough_bytes

    if device.type == "cuda":
        check_fits(run, distributed.world(), torch.cuda.get_device_properties(device).total_memory)
    elif (free := free_memory()) is not None:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes that torchrun started on this machine
        if rough_bytes(run) > free / here:
            check_fits(run, distributed.world(), free / here, "the free memory" + f" of {here} processes" * (here > 1))


@contextlib.contextmanager
def gathered(step: nn.Module) -> Iterator[None]:
    """Every process has whole weights meanwhile, for what is not a step."""
    shards: list[Any] = [module for module in step.modules() if hasattr(module, "unshard")]
    for module in shards:
        module.unshard()
    try:
        yield
    finally:
        for module in shards:
            module.reshard()


def whole(groups: dict[str, dict[str, Tensor]], keep: bool) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint, those in parts put together by all processes, on the host. keep: whether this
    process has a use for them.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for group, named in groups.items():
        for name, value in named.items():
            together = in_whole(value)
            if keep:
                found.setdefault(group, {})[name] = value if together is value else together.cpu()
    return found


def part_of(value: Tensor, like: Any) -> Tensor:
    """What this process holds of a whole tensor, if `like` is in parts and of its shape."""
    if hasattr(like, "full_tensor") and like.shape == value.shape:
        from torch.distributed.tensor import distribute_tensor

        value = value.to(like.device)
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value


def in_whole(value: Tensor) -> Tensor:
    """A tensor put together from its parts by all processes, if it is in parts."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
