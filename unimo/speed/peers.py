"""Models of transformers with random weights, as large as ours, to be timed beside them."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY = 49408  # of CLIP's texts


def clip(width: int, depth: int, heads: int, side: int) -> Any:
    """CLIP (Radford et al. 2021) with patches of 16 pixels, both towers of these sizes."""
    import transformers

    size = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    size |= {"intermediate_size": 4 * width, "projection_dim": width}
    config = transformers.CLIPConfig(
        vision_config={**size, "image_size": side, "patch_size": 16}, text_config={**size, "vocab_size": VOCABULARY}
    )
    return transformers.CLIPModel(config).eval()


def blip(width: int, depth: int, heads: int, side: int) -> Any:
    """BLIP (Li et al. 2022) that writes captions, with patches of 16 pixels."""
    import transformers

    size = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    size |= {"intermediate_size": 4 * width}
    text = {**size, "encoder_hidden_size": width, "vocab_size": 30524}
    vision = {**size, "image_size": side, "patch_size": 16}
    config = transformers.BlipConfig(vision_config=vision, text_config=text, projection_dim=width)
    return transformers.BlipForConditionalGeneration(config).eval()


def pixels(n: int, side: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)).to(dtype)
