"""A training step of UNIMO-2: as a fraction of the matrix-product rate, with Muon in float32, and beside peers.

Random weights and content: PAIRS pairs, an eighth as many lone images in two views, a passage to fill and one to write;
model, objectives and optimizer of recipe `photos` (sizes tiny and small) or `base`. Timed is what the processor spends
on the step, not the clock: other work on the machine is not in it. Models of base size have peers to be compared with,
one after the other; it takes some 16 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from unimo import recipes
from unimo.batch import Batch
from unimo.config import override
from unimo.data.batch_builder import BatchBuilder, SampledExample
from unimo.machine import autocast_dtype, keep_freed_memory
from unimo.model.build import build
from unimo.speed.train_peers import peers
from unimo.speed.turns import in_turns, measured, milliseconds, speed_up
from unimo.tokenizer import Tokenizer
from unimo.train import muon
from unimo.train.optimizer import make_optimizer
from unimo.train.settings import Run
from unimo.train.step import TrainStep

PAIRS = {"tiny": 128, "small": 32}  # of a step; 8 for larger models
SQUARE = 2048  # side of the matrices whose product sets the rate
ON_A_PART = ("mlm", "itm", "seq2seq")  # objectives of a part of the pairs
CAPTION, PASSAGE = 12, 94  # words, without [CLS] and [SEP]


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for the step itself, and one for each way or peer it is compared with."""
    keep_freed_memory()
    run = _recipe(size)
    step = Step(run)
    n = len(step.batch.keys["pairs"])
    square = torch.ones(SQUARE, SQUARE, dtype=step.dtype)
    seconds = in_turns({"step": step, "product": partial(torch.mm, square, square)}, rounds)
    shortest = 3 * step.operations / (2 * SQUARE**3) * min(seconds["product"])
    yield {
        "benchmark": "train",
        "size": size,
        "pairs": n,
        "precision": str(step.dtype).removeprefix("torch."),
        "milliseconds": milliseconds(seconds["step"]),
        "Gflop": round(3 * step.operations / 1e9, 1),
        "fraction of the matrix-product rate": measured([shortest / each for each in seconds["step"]], 2),
    }
    others: dict[str, Callable[[], Callable[[], object]]] = {}
    if run.optimizer.matrix_optimizer == "muon":
        others["Muon in float32"] = lambda: partial(_muon_in_float32, step)
    if size == "base":
        others |= peers(n, -(-n // 8), 2, step.dtype)
    for name, made in others.items():
        seconds = in_turns({"step": step, name: made()}, rounds)
        yield {
            "benchmark": "train",
            "size": size,
            "against": name,
            "speed-up": speed_up(seconds[name], seconds["step"]),
            f"milliseconds, {name}": milliseconds(seconds[name]),
        }


def _recipe(size: str) -> Run:
    """With as large a part of PAIRS in every objective as the recipe has of its own pairs."""
    run = recipes.find("photos" if size in PAIRS else "base")
    pairs, of = PAIRS.get(size, 8), run.batch.pairs
    parts = [f"{name}.pairs={max(1, getattr(run.objectives, name).pairs * pairs // of)}" for name in ON_A_PART]
    objectives = override(run.objectives, parts)
    return replace(run, model=override(run.model, [f"size={size}"]), objectives=objectives)


class Step:
    """One update of a model on one batch; calling it makes another. operations: of its forward pass."""

    def __init__(self, run: Run):
        torch.manual_seed(0)
        self.model = build(run.model).train()
        active = run.objectives.active()
        self.train_step, self.optimizer = TrainStep(self.model, active), make_optimizer(self.model, run.optimizer)
        self.dtype = autocast_dtype("auto", torch.device("cpu"))
        self.batch = content(run, PAIRS.get(str(run.model.size), 8))
        self.operations = 0.0

    def __call__(self) -> None:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            loss, _, self.operations = self.train_step(self.batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def content(run: Run, pairs: int) -> Batch:
    """A batch of random images and words, hidden and written as the run's objectives would."""
    drawn, tokenizer, side = np.random.default_rng(0), Tokenizer.default(), run.model.image_size
    builder = BatchBuilder(0, side, tokenizer)

    def sample(i: int, words: int) -> SampledExample:
        ids = drawn.integers(4, tokenizer.vocab_size - 1, words)
        return SampledExample(f"sample {i}", i, ids, (i,), place=i)

    def image(group: str) -> None:
        builder.add_image(group, drawn.integers(0, 256, (3, side, side), dtype=np.uint8))

    for i in range(pairs):
        builder.pairs.append(sample(i, CAPTION))
        image("pairs")
    builder.extra |= {"pairs.image": list(range(pairs)), "pairs.caption": list(range(pairs))}
    lone = -(-pairs // 8)
    for i in range(lone):
        builder.images.append(sample(i, 0))
    for group in ["images.a"] * lone + ["images.b"] * lone:
        image(group)
    builder.masked.append(sample(0, PASSAGE))
    builder.fragments.append(sample(1, PASSAGE))
    for objective in run.objectives.active().values():
        objective.corrupt(builder)
    return builder.finish()


def _muon_in_float32(step: Callable[[], object]) -> None:
    with patch.object(muon, "fast_dtype", lambda device: torch.float32):
        step()
