"""Many texts beside one copy of an image against a copy for each.

K texts beside one image · R rows of an image
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from unimo.batch import TEXT, Batch, Regions, Texts
from unimo.config import override
from unimo.model.build import ModelSettings, build
from unimo.model.flops import batch_cost
from unimo.model.unified import Request, Unified
from unimo.speed.turns import in_turns, milliseconds, speed_up


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
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
        yield {
            "benchmark": "sharing",
            "K": k,
            "speed-up": speed_up(seconds["joint"], seconds["prefix"]),
            "fewer operations": round(costs["joint"] / costs["prefix"], 2),
            "milliseconds, joint": milliseconds(seconds["joint"]),
        }


def _step(model: Unified, batch: Batch, requests: dict[str, Request]) -> Callable[[], None]:
    def run() -> None:
        fused = model.fuse(model.towers(batch), requests)["pairs"]
        (fused.image_cls().sum() + fused.text_cls().sum()).backward()

    return run


def _texts(n: int, length: int) -> Texts:
    ids: Tensor = torch.arange(n * length) % 900 + 4
    return Texts(ids, 2 + torch.arange(length).repeat(n), torch.full_like(ids, TEXT), length * torch.arange(n + 1))
