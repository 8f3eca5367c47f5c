"""Ours and models of transformers of equal size, with random weights, to be timed side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from unimo.config import override
from unimo.extras import optional
from unimo.inference import Pipeline
from unimo.model.build import ModelSettings, build

VOCABULARY = 49408  # of CLIP's texts
SIDE = 224


def library() -> Any:
    """transformers; UsageError where it is missing."""
    return optional("transformers", "a comparison with its models", "pip install transformers")


@dataclass(frozen=True)
class Contest:
    """Our model with its weights `kept` in bf16 and `cast` at every call (where the processor multiplies bf16; else in
    float32), and a `peer` of the same width, depth and precision. facts: of each row; images: arrays for ours."""

    settings: ModelSettings
    kept: Pipeline
    cast: Pipeline
    peer: Any
    facts: dict[str, Any]
    images: list[np.ndarray]

    @classmethod
    def of(cls, benchmark: str, size: str, peer: Callable[[int, int, int, int], nn.Module]) -> Contest:
        torch.manual_seed(0)
        settings = override(ModelSettings(), [f"size={size}", f"image_size={SIDE}"])
        model = build(settings)
        kept = Pipeline(model, frozen=True)
        width, depth, heads = (settings.dimension(name) for name in ("width", "image_depth", "heads"))
        other = peer(width, depth, heads, SIDE).to(kept.dtype)
        facts = {"benchmark": benchmark, "size": size, "dtype": str(kept.dtype).removeprefix("torch.")}
        images = list(np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8))
        return cls(settings, kept, Pipeline(model), other, facts, images)


def clip(width: int, depth: int, heads: int, side: int) -> Any:
    """CLIP (Radford et al. 2021) with patches of 16 pixels, both towers of these sizes."""
    transformers = library()
    size = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    size |= {"intermediate_size": 4 * width, "projection_dim": width}
    config = transformers.CLIPConfig(
        vision_config={**size, "image_size": side, "patch_size": 16}, text_config={**size, "vocab_size": VOCABULARY}
    )
    return transformers.CLIPModel(config).eval()


def blip(width: int, depth: int, heads: int, side: int) -> Any:
    """BLIP (Li et al. 2022) that writes captions, with patches of 16 pixels."""
    transformers = library()
    size = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    size |= {"intermediate_size": 4 * width}
    text = {**size, "encoder_hidden_size": width, "vocab_size": 30524}
    vision = {**size, "image_size": side, "patch_size": 16}
    config = transformers.BlipConfig(vision_config=vision, text_config=text, projection_dim=width)
    return transformers.BlipForConditionalGeneration(config).eval()


def pixels(n: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(dtype)
