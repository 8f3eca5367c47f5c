"""One process or many: the few collective steps everyone shares. Started with torchrun, absent otherwise."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn
from torch import Tensor


def start() -> tuple[int, int]:
    """Joins the group torchrun announces, if any; returns (rank, world size)."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return 0, 1
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group(backend, timeout=timedelta(minutes=10))
    return dist.get_rank(), dist.get_world_size()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks end to end, in rank order; gradients flow back to the rank that owns each row."""
    if world() == 1:
        return x
    if x.requires_grad:
        return torch.cat(torch.distributed.nn.all_gather(x))
    parts = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def total(x: Tensor) -> Tensor:
    """Sum over ranks, without gradient."""
    x = x.detach().clone()
    if world() > 1:
        dist.all_reduce(x)
    return x


def agree(flag: bool) -> bool:
    """True on every rank when it is true on any."""
    return bool(total(torch.tensor(float(flag), device=_device()))) if world() > 1 else flag


def barrier() -> None:
    if world() > 1:
        dist.barrier()


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _device() -> torch.device:
    on_gpu = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
