"""What a GPU does with this package, in at most eight minutes: is it right, where does it wait, how fast is it?

    python scripts/gpu_check.py --out results/gpu.json
    python scripts/gpu_check.py --device cpu --tiny --out check.json      the same checks, small, without a GPU

Checks follow one another until the time is over; the file is written after each of them, and a check that fails leaves
its error there. Batches are those of the recipe `base` on 8 GPUs, with blank images and made-up texts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimo import recipes
from unimo.batch import GROUND, IMAGE, KNOWN, TEXT, WRITTEN, Batch, read_back
from unimo.config import override
from unimo.inference import Pipeline
from unimo.machine import autocast_dtype, describe_machine, matmul_rate
from unimo.model.attention import Plan, attend
from unimo.model.build import build
from unimo.model.unified import Unified
from unimo.train.dry_run import dry_run, typical_batch
from unimo.train.loop import set_up
from unimo.train.optimizer import make_optimizer
from unimo.train.settings import Run
from unimo.train.step import TrainStep

RANKS = 8
TINY = (
    "model.size=tiny", "model.width=32", "model.heads=2", "model.image_depth=1", "model.text_depth=1",
    "model.grounded_depth=1", "model.image_size=32", "batch.pairs=64", "batch.images=16", "batch.text_tokens=2048",
    "batch.passage_length=64",
)  # fmt: skip
LEVERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "activation checkpointing": {"activation_checkpointing": True},
    "towers in chunks of 32": {"tower_chunk": 32},
    "layers compiled": {"torch_compile": True},
}


class Check:
    """The checks of one device. tiny: small sizes and few rounds."""

    def __init__(self, device: torch.device, tiny: bool):
        self.device, self.tiny = device, tiny
        self.run = override(recipes.find("base"), TINY if tiny else ())
        self.dtype = autocast_dtype("auto", device)
        self.rounds = 2 if tiny else 10

    # ---- the machine ---------------------------------------------------------------------------------------------

    def products(self) -> dict[str, Any]:
        """TFLOP/s of square products, and of the layers' own."""
        width = self.run.model.dimension("width")
        rows = 256 if self.tiny else 65536
        found = {"square": matmul_rate(self.device, self.dtype, 256 if self.tiny else 8192) / 1e12}
        for name, (k, n) in {"qkv": (width, 3 * width), "in": (width, 4 * width), "out": (4 * width, width)}.items():
            a, b = (torch.randn(*shape, device=self.device).to(self.dtype) for shape in ((rows, k), (k, n)))
            found[name] = 2 * rows * k * n / self.seconds(lambda a=a, b=b: a @ b) / 1e12
        return {name: round(rate, 3) for name, rate in found.items()}

    # ---- is it right -----------------------------------------------------------------------------------------------

    def attention(self) -> dict[str, Any]:
        """Largest difference of each form from the reference, relative to its largest value: answer and gradients."""
        plan = random_plan([5, 130, 77, 260, 31], self.device)
        whole = self.attended(plan, "reference")
        found = {}
        for form in ("dense", "flex") if self.device.type == "cuda" else ("dense",):
            parts = self.attended(plan, form)
            found[form] = {
                name: float((a - b).abs().max() / b.abs().max())
                for name, a, b in zip(("answer", "q", "k", "v"), parts, whole)
            }
        return found

    def attended(self, plan: Plan, form: str) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        leaves = [torch.randn(len(plan), 64, generator=generator).to(self.device).requires_grad_() for _ in range(3)]
        out = attend(*leaves, plan, 1, form=form)
        out.square().sum().backward()
        return [out.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[misc]

    # ---- a training step ---------------------------------------------------------------------------------------------

    def step(self) -> dict[str, Any]:
        """`base` on its own batch: waits and recompilations, memory against what was foretold, time."""
        foretold = dry_run(self.run, RANKS)
        training = Training(self.run, self.device, self.dtype)
        batches = [typical_batch(self.run, RANKS, caption).to(self.device) for caption in (18, 20, 22)]
        for batch in batches:
            training(batch)
        compiled = graphs()
        waits = self.waits(lambda: [training(batch) for batch in batches]) / len(batches)
        recompiled = graphs() - compiled
        row = self.timed(training, batches[1])
        return row | {
            "waits per step": waits if self.device.type == "cuda" else None,
            "recompiled after the first steps": recompiled,
            "foretold GiB": round(foretold.total / 2**30, 3),
            "foretold by part": {name: round(size / 2**30, 3) for name, size in foretold.memory.items()},
        }

    def levers(self) -> dict[str, Any]:
        """The same step otherwise."""
        batch = typical_batch(self.run, RANKS).to(self.device)
        found = {}
        for name, change in LEVERS.items():
            found[name] = self.timed(Training(replace(self.run, **change), self.device, self.dtype), batch)
        dense = Training(self.run, self.device, self.dtype)
        dense.model.attention_form = "dense"
        return found | {"dense attention": self.timed(dense, batch)}

    def timed(self, training: Training, batch: Batch) -> dict[str, Any]:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        training(batch)
        seconds = self.seconds(lambda: training(batch))
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else None
        share = 3 * training.cost / seconds / matmul_rate(self.device, self.dtype, 256 if self.tiny else 8192)
        pairs = len(batch.keys["pairs"])
        return {
            "seconds": round(seconds, 4), "pairs/s": round(pairs / seconds, 1), "of matmul": round(share, 4),
            "peak GiB": None if peak is None else round(peak, 3),
        }  # fmt: skip

    # ---- answers -----------------------------------------------------------------------------------------------------

    def answers(self) -> dict[str, Any]:
        """Images and texts embedded, captions written, vectors compared, each a second."""
        pipeline = self.pipeline()
        n, side = (4 if self.tiny else 512), self.run.model.image_size
        images = list(np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8))
        texts = ["two dogs run over a field of snow and a man looks at them"] * n
        few = max(2, n // 16)
        vectors = torch.randn(1000 if self.tiny else 1_000_000, pipeline.model.width, device=self.device)
        asked = torch.randn(32, pipeline.model.width, device=self.device)
        calls: dict[str, tuple[int, Callable[[], Any]]] = {
            "images embedded": (n, lambda: pipeline.encode_image(images, batch_size=128)),
            "texts embedded": (n, lambda: pipeline.encode_text(texts, batch_size=128)),
            "captions, 5 beams": (few, lambda: pipeline.caption(images[:few], num_beams=5, max_length=12)),
            "queries over the vectors": (32, lambda: (asked @ vectors.T).topk(10)),
        }
        return {name: round(count / self.seconds(call, 3), 1) for name, (count, call) in calls.items()}

    def peers(self) -> dict[str, Any]:
        """transformers' CLIP of the same size, random weights: images embedded a second, and ours beside it."""
        if self.tiny or importlib.util.find_spec("transformers") is None:
            return {"not compared": "tiny" if self.tiny else "transformers is not installed"}
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        config = CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        config.patch_size, config.image_size = 16, 224
        clip = CLIPVisionModelWithProjection(config).to(self.device, self.dtype).eval()
        pipeline, rows = self.pipeline(), 256
        pixels = torch.randint(0, 256, (rows, 3, 224, 224), dtype=torch.uint8, device=self.device)
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype):
            ours = rows / self.seconds(lambda: pipeline.model.encode_images(pixels))
            theirs = rows / self.seconds(lambda: clip((pixels / 255).to(self.dtype)))
        return {"images/s": round(ours, 1), "CLIP, images/s": round(theirs, 1), "ratio": round(ours / theirs, 3)}

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def pipeline(self) -> Pipeline:
        torch.manual_seed(0)
        return Pipeline(build(self.run.model).to(self.device).eval())

    def seconds(self, call: Callable[[], Any], rounds: int | None = None) -> float:
        """Median of several calls, each waited for; the first is not counted."""
        found = []
        for i in range(1 + (rounds or self.rounds)):
            began = time.perf_counter()
            call()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            if i:
                found.append(time.perf_counter() - began)
        return statistics.median(found)

    def waits(self, call: Callable[[], Any]) -> int:
        """How often a call waits for the GPU; 0 on a CPU, which nobody waits for."""
        if self.device.type != "cuda":
            call()
            return 0
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(one.message) for one in caught)


class Training:
    """A model that is trained: a call makes one step."""

    def __init__(self, run: Run, device: torch.device, dtype: torch.dtype):
        torch.manual_seed(0)
        self.model: Unified = build(run.model).to(device)
        self.device, self.dtype, self.cost = device, dtype, 0.0
        set_up(self.model, run, device)
        self.model.attention_form = "flex" if device.type == "cuda" else "dense"
        self.step = TrainStep(self.model, run.objectives.active()).train()
        self.optimizer = make_optimizer(self.model, run.optimizer)

    def __call__(self, batch: Batch) -> dict[str, float]:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss, report, self.cost = self.step(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        losses = self.step.losses(read_back(torch.cat([report, norm[None]])).tolist()[:-1])
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses


def graphs() -> int:
    """Graphs that torch.compile has made so far."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def random_plan(lengths: list[int], device: torch.device) -> Plan:
    """Sequences of images, grounded tokens and texts; every other text is written after a known beginning."""
    owner, role, order = [], [], []
    for i, n in enumerate(lengths):
        image, ground = n // 3, n // 5
        text = n - image - ground
        of_text = [KNOWN] * (text // 2) + [WRITTEN] * (text - text // 2) if i % 2 else [TEXT] * text
        owner += [i] * n
        role += [IMAGE] * image + [GROUND] * ground + of_text
        order += [*[0] * (image + ground), *range(text)]
    return Plan(*(torch.tensor(x) for x in (owner, role, order)), device=device)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a GPU does with this package, in at most eight minutes.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a machine without a GPU")
    parser.add_argument("--seconds", type=float, default=480, help="no check begins after so long")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    check = Check(torch.device(given.device), given.tiny)
    began, found = time.monotonic(), {"machine": describe_machine(), "device": given.device, "tiny": given.tiny}
    for name in ("products", "attention", "step", "levers", "answers", "peers"):
        if time.monotonic() - began > given.seconds:
            found[name] = {"not begun": f"{given.seconds:g} seconds were over"}
            continue
        try:
            found[name] = getattr(check, name)()
        except Exception as error:  # the other checks are worth their time
            found[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
        found["seconds"] = round(time.monotonic() - began, 1)
        print(name, json.dumps(found[name]), flush=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(any("error" in part for part in found.values() if isinstance(part, dict)))


if __name__ == "__main__":
    sys.exit(main())
