"""Timings, as ratios of two ways to the same end, measured in turns within one run.

    K texts beside one image · R rows of an image · T packed tokens

Machines and what else they do differ; a ratio of neighbours in time differs little. Counted operations stand beside it.
`sharing` and `onnx` build their own model, `mask` needs none.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from unimo.batch import GROUND, IMAGE, TEXT, Batch, Regions, Texts
from unimo.config import override
from unimo.errors import UsageError
from unimo.inference import Pipeline
from unimo.inference.onnx import OnnxModel, export
from unimo.machine import describe_machine
from unimo.model.attention import Plan
from unimo.model.block_mask import block_mask
from unimo.model.build import ModelSettings, build
from unimo.model.flops import batch_cost
from unimo.model.unified import Request, Unified

ROUNDS = 7


def measure(name: str, *, size: str = "small", rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Rows of one benchmark. size: of the model, a name `unimo describe` knows."""
    if name not in BENCHMARKS:
        raise UsageError("no such benchmark", got=name, expected=", ".join(BENCHMARKS))
    machine = describe_machine()
    return [{**row, "machine": machine} for row in BENCHMARKS[name](size, rounds)]


def sharing(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """UNIMO: K texts beside one copy of an image (prefix fusion) against a copy for each (joint fusion).

    Forward and backward, 2 images of 36 regions and [IMG], captions of 20 tokens, float32.
    """
    images, rows, length = 2, 37, 20
    for k in (1, 4, 20):
        regions = Regions(torch.randn(images, rows, 64), torch.rand(images, rows, 5), torch.full((images,), rows))
        texts = _texts(images * k, length)
        batch = Batch(0, torch.zeros(0, 3, 1, 1), texts, {}, {}, {}, regions=regions)
        image = torch.arange(images).repeat_interleave(k)
        runs, costs = {}, {}
        for fusion, share in (("joint", False), ("prefix", True)):
            small = ModelSettings(member="unimo", region_size=64, vocabulary=1000, dropout=0.0, attention_dropout=0.0)
            model = build(override(small, [f"size={size}", f"fusion={fusion}"]))
            request = {"pairs": Request(image, torch.arange(len(texts)), share=share)}
            runs[fusion] = _step(model, batch, request)
            costs[fusion] = batch_cost(model, batch, request)
        seconds = in_turns(runs, rounds)
        ratios = [a / b for a, b in zip(seconds["joint"], seconds["prefix"])]
        yield {
            "benchmark": "sharing",
            "K": k,
            "speed-up": round(statistics.median(ratios), 2),
            "spread": [round(min(ratios), 2), round(max(ratios), 2)],
            "fewer operations": round(costs["joint"] / costs["prefix"], 2),
            "seconds, joint": round(statistics.median(seconds["joint"]), 4),
        }


def _step(model: Unified, batch: Batch, requests: dict[str, Request]) -> Callable[[], None]:
    def run() -> None:
        fused = model.fuse(model.towers(batch), requests)["pairs"]
        (fused.image_cls().sum() + fused.text_cls().sum()).backward()

    return run


def _texts(n: int, length: int) -> Texts:
    ids: Tensor = torch.arange(n * length) % 900 + 4
    return Texts(ids, 2 + torch.arange(length).repeat(n), torch.full_like(ids, TEXT), length * torch.arange(n + 1))


SEQUENCES = {  # of the fused row of recipe `base`: role -> tokens
    "pairs": {IMAGE: 197, GROUND: 100, TEXT: 64},
    "passages": {GROUND: 100, TEXT: 412},
}


def mask(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """FlexAttention's mask of 100,000 tokens; and of 1,000 against torch's own, which lays out every pair of tokens.

    size says nothing here.
    """
    for name, parts in SEQUENCES.items():
        long, short = (_row_of(parts, tokens) for tokens in (100_000, 1_000))
        runs = {"long": _calls(block_mask, long), "short": _calls(block_mask, short), "whole": _calls(_whole, short)}
        seconds = in_turns(runs, rounds)
        ratios = [a / b for a, b in zip(seconds["whole"], seconds["short"])]
        yield {
            "benchmark": "mask",
            "sequences": name,
            "T": len(long),
            "milliseconds": round(1000 * statistics.median(seconds["long"]), 1),
            "T, short": len(short),
            "speed-up, short": round(statistics.median(ratios), 1),
            "spread": [round(min(ratios), 1), round(max(ratios), 1)],
        }


def _calls(function: Callable[[Plan], Any], plan: Plan) -> Callable[[], None]:
    def run() -> None:
        function(plan)

    return run


def _whole(plan: Plan) -> Any:
    n = len(plan)
    return create_block_mask(lambda batch, head, q, k: plan.allowed(q, k), None, None, n, n, device="cpu")


def _row_of(parts: dict[int, int], tokens: int) -> Plan:
    n, length = tokens // sum(parts.values()), sum(parts.values())
    role = torch.tensor([role for role, count in parts.items() for _ in range(count)]).repeat(n)
    return Plan(torch.arange(n).repeat_interleave(length), role, torch.arange(length).repeat(n))


def in_turns(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round, one after the other; the first round only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(1 + rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if i:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def onnx(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Exported graphs by onnxruntime against torch: random weights, 224 pixels, texts of 13 words, float32."""
    torch.manual_seed(0)
    pipeline = Pipeline(build(override(ModelSettings(), [f"size={size}", "image_size=224"])), precision="fp32")
    with tempfile.TemporaryDirectory() as folder:
        sizes = export(pipeline, f"{folder}/graphs")
        for row in compare_graphs(pipeline, OnnxModel(f"{folder}/graphs"), rounds):
            yield row | {f"MB, {name.removesuffix('.onnx')}": round(n / 1e6, 1) for name, n in sizes.items()}


def compare_graphs(pipeline: Pipeline, graphs: OnnxModel, rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of `onnx`: embeddings of one and eight inputs, and a caption of ten words."""
    images = list(np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8))
    texts = ["two dogs run over a field of snow and a man looks at them"] * 8
    calls: dict[str, Callable[[Any], Any]] = {
        "1 image": lambda model: model.encode_image(images[:1]),
        "8 images": lambda model: model.encode_image(images),
        "8 texts": lambda model: model.encode_text(texts),
        "caption": lambda model: model.caption(images[:1], max_length=10),
    }
    for name, call in calls.items():
        seconds = in_turns({"torch": partial(call, pipeline), "onnx": partial(call, graphs)}, rounds)
        ratios = [a / b for a, b in zip(seconds["torch"], seconds["onnx"])]
        yield {
            "benchmark": "onnx",
            "what": name,
            "speed-up": round(statistics.median(ratios), 2),
            "spread": [round(min(ratios), 2), round(max(ratios), 2)],
            **{f"milliseconds, {way}": round(1000 * statistics.median(some), 1) for way, some in seconds.items()},
        }


BENCHMARKS: dict[str, Callable[[str, int], Iterator[dict[str, Any]]]] = {
    "sharing": sharing,
    "mask": mask,
    "onnx": onnx,
}
