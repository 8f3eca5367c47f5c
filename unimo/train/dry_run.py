"""A dry run: one training step with tensors that have shapes and no memory; what a GPU would hold, send and compute.

    W processes · P parameters

The step is the run's own (model, objectives, batch, precision): there is no formula beside it. Attention holds what
fused kernels hold: queries, keys, values, the answer, and one number a token and head. Negatives of matching are drawn
at random, since there are no similarities. What a kernel needs for itself, and fragments, are not seen.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unimo import distributed
from unimo.batch import Batch, sent
from unimo.data.loader import Stream
from unimo.data.regions import WHOLE, ImageRegions
from unimo.model.attention import Plan
from unimo.model.build import build, shapes_only
from unimo.model.flops import REGIONS
from unimo.model.unified import Unified
from unimo.tokenizer import Tokenizer
from unimo.train.muon import Muon
from unimo.train.optimizer import make_optimizer
from unimo.train.settings import Run, wanted
from unimo.train.step import TrainStep

CAPTION = 20  # tokens of a typical caption, special ones included


@dataclass(frozen=True)
class Needs:
    """Of one process and step. memory: bytes by part, which together are the step's peak. operations: forward and
    backward. sent: bytes to others, for gradients and for contrastive features."""

    parameters: int
    memory: dict[str, int]
    largest: int
    operations: float
    sent: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.memory.values())


def dry_run(run: Run, world: int = 1, *, caption: int = CAPTION, form: Any = None) -> Needs:
    """What the first of `world` processes needs. form: of attention; None: as fused kernels."""
    objectives = replace(run.objectives, itm=replace(run.objectives.itm, hard=False))
    run = replace(run, objectives=objectives)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model = _model(run, fake)
    model.attention_form = form or _fused
    step = TrainStep(model, run.objectives.active()).train()
    for parameter in model.parameters():  # counted apart: they stay
        parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    batch = sent(typical_batch(run, world, caption), fake.from_tensor)
    live = Live([*model.parameters(), *tensors_of(batch)])
    dtype = torch.float32 if run.precision == "fp32" else torch.bfloat16
    with among(world), live, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss, _, operations = step(batch)
        held = live.now
        loss.backward()
    count = sum(p.numel() for p in model.parameters())
    memory = _states(run, model, world) | {
        "batch": sum(x.nbytes for x in tensors_of(batch)),
        "activations": held,
        "temporary": live.peak - held,
    }
    exchanged = {"gradients": round(2 * (world - 1) / world * 4 * count), "contrastive features": live.sent}
    return Needs(count, memory, live.largest, 3 * operations, exchanged)


def typical_batch(run: Run, world: int = 1, caption: int = CAPTION) -> Batch:
    """The first process's part of a step on captions of `caption` tokens and passages of full length."""
    lengths = {"pairs": caption - 2, "images": 0, "texts": run.batch.passage_length - 2}
    budgets = {"pairs": run.batch.pairs, "images": run.batch.images, "texts": run.batch.text_tokens}
    corpora: dict[str, Any] = {
        kind: Blank(budget, min(lengths[kind], run.batch.caption_length - 2) if kind == "pairs" else lengths[kind])
        for kind, budget in budgets.items()
        if budget and (not any(getattr(run.data, k) for k in budgets) or kind in wanted(run))
    }
    regions: dict[str, Any] = {kind: corpora[kind] for kind in ("pairs", "images") if kind in corpora}
    parts = math.lcm(run.batch.micro_batches, world)
    stream = BlankStream(
        corpora,
        replace(run.batch, micro_batches=parts),
        list(run.objectives.active().values()),
        size=run.model.pixels or run.model.image_size,
        tokenizer=Tokenizer.default(),
        seed=run.seed,
        world=world,
        regions=regions if run.model.member == "unimo" else None,
        steps=run.steps,
    )
    stream.shape = (run.model.region_size, run.model.region_classes)
    return stream.batch(max(0, (run.steps or 1) - 1))  # when every objective has begun


class Blank:
    """A corpus without content: n samples with a text of `length` tokens each."""

    def __init__(self, n: int, length: int):
        self.n, self.length = n, length
        self.caption_offsets = np.arange(n + 1)
        self.token_counts = np.full(n, length)
        self.lengths = np.full(n, 1 + REGIONS)

    def __len__(self) -> int:
        return self.n

    @property
    def keys(self) -> list[str]:
        return [""] * self.n

    def tokens(self, i: int, j: int = 0) -> np.ndarray:
        return 1000 + (i + 7 * np.arange(self.length)) % 40000


class BlankStream(Stream):
    """Batches of blank corpora: black images, empty regions. shape: features and classes of a region."""

    shape = (0, 0)

    def _seen(self, kind: str, item: int, names: Any) -> Any:
        if kind not in self.regions:
            return np.zeros((3, self.size, self.size), np.uint8)
        rows = 1 + REGIONS
        features, boxes, classes = (np.zeros((rows, n), np.float32) for n in (self.shape[0], 5, self.shape[1]))
        return ImageRegions(features, (boxes + WHOLE).astype(np.float32), classes)


class Live(TorchDispatchMode):
    """Bytes of the fake tensors that are alive, beside `known` ones: now, at most, and of the largest; bytes sent."""

    def __init__(self, known: list[Tensor]):
        super().__init__()
        self.now = self.peak = self.largest = self.sent = 0
        self.known = {x.untyped_storage()._cdata for x in known}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            self.sent += bytes_sent(function, args)
        answer = function(*args, **(kwargs or {}))
        for x in tree_leaves(answer):
            if isinstance(x, FakeTensor):
                self._add(x.untyped_storage())
        return answer

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known or not size:
            return
        self.known.add(key)
        self.now += size
        self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def bytes_sent(function: Any, args: Any) -> int:
    """What a process sends in one collective step of a ring."""
    world, name = dist.get_world_size(), function.__name__
    size = sum(x.nbytes for x in tree_leaves(args[0]) if isinstance(x, Tensor))  # of what comes out
    return round((2 if "allreduce" in name else 1) * size * (world - 1) / world)


@contextmanager
def among(world: int) -> Iterator[None]:
    """As the first of `world` processes whose others are not there (torch's fake process group)."""
    if world == 1 or dist.is_initialized():  # in a run, nobody waits for for the dry run of one process
        with patch.object(distributed, "world", lambda: 1), patch.object(distributed, "rank", lambda: 0):
            yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        distributed.stop()


def tensors_of(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []

    def take(x: Tensor) -> Tensor:
        found.append(x)
        return x

    sent(batch, take)
    return found


def _model(run: Run, fake: FakeTensorMode) -> Unified:
    with shapes_only():
        model = build(run.model)
    with fake:
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(torch.empty(parameter.shape)))
            if hasattr(module, "checkpointing"):
                module.checkpointing = run.activation_checkpointing  # type: ignore[assignment]
    if run.tower_chunk is not None:
        model.tower_chunk = run.tower_chunk  # type: ignore[assignment]
    return model


def _states(run: Run, model: Unified, world: int) -> dict[str, int]:
    """float32 weights, gradients and moments, and an average of the weights; in parts with parallel=fsdp."""
    weights = sum(4 * p.numel() for p in model.parameters())
    parts = make_optimizer(model, run.optimizer).parts
    moments = sum(
        (4 if isinstance(part, Muon) else 8) * p.numel()
        for part in parts
        for g in part.param_groups
        for p in g["params"]
    )
    states = {"weights": weights, "gradients": weights, "moments": moments}
    states |= {"average": weights} if run.ema_decay else {}
    if run.parallel == "fsdp" and world > 1:
        # Gathered weights stay until the backward pass is over; gradients are parts but for those outside of layers.
        outside = sum(4 * p.numel() for name, p in model.named_parameters() if ".layers." not in name)
        states = {name: size // world for name, size in states.items()}
        states["gathered weights"] = weights
        states["gradients"] += outside
    return states


def _fused(q: Tensor, k: Tensor, v: Tensor, plan: Plan, heads: int) -> Tensor:
    return _FusedAttention.apply(q, k, v, heads)


class _FusedAttention(torch.autograd.Function):
    """The shapes of fused attention."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        out, log_sums = torch.empty_like(q), q.new_empty(heads, len(q), dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None
