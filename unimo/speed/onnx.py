"""Exported graphs by onnxruntime against torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from unimo.config import override
from unimo.inference import Pipeline
from unimo.inference.onnx import OnnxModel, export
from unimo.model.build import ModelSettings, build
from unimo.speed.turns import in_turns, milliseconds, speed_up


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
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
        yield {
            "benchmark": "onnx",
            "what": name,
            "speed-up": speed_up(seconds["torch"], seconds["onnx"]),
            **{f"milliseconds, {way}": milliseconds(some) for way, some in seconds.items()},
        }
