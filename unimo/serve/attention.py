"""Attention rollout: how much of each image patch reaches each token through the layers in which both meet.

    T tokens of the fused row · L tokens of the text · P patches · H heads

Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (2020): the mean of the heads and the residual count
half each, layers are multiplied. In UNIMO-2 a text that is read sees patches through grounded tokens alone, which one
layer's weights would not show. It tells where the layers looked, not why an answer came out as it did.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimo.batch import TEXT, WRITTEN
from unimo.inference import ImageInput, Pipeline
from unimo.model.attention import Plan
from unimo.model.unified import Request, Towers, Unified


@torch.inference_mode()
def rollout(pipeline: Pipeline, image: ImageInput, ids: np.ndarray, *, written: bool = False) -> np.ndarray:
    """(L, P) of framed ids beside an image, each row summing to 1.

    written: ids as a caption being written; a token's row is then that of the state which chose it, one before it.
    """
    model: Unified = pipeline.model
    layers: Any = model.fuser.layers
    seen, texts = pipeline.encode_images([image]), pipeline.encoder.pack([ids])
    texts = replace(texts, roles=torch.full_like(texts.ids, WRITTEN if written else TEXT))
    towers = Towers(seen.hidden.float(), model.encode_texts(texts), texts, image_lengths=seen.lengths)
    model.count_votes(towers)
    inputs: list[tuple[Any, Tensor, Plan]] = []
    hooks = [
        layer.attention.register_forward_pre_hook(lambda part, given: inputs.append((part, given[0], given[1])))
        for layer in layers
    ]
    try:
        only = torch.zeros(1, dtype=torch.int64, device=pipeline.device)
        fused = model.fuse(towers, {"read": Request(only, only)})["read"]
    finally:
        for hook in hooks:
            hook.remove()
    reach = torch.eye(len(inputs[0][2]), device=pipeline.device)
    for attention, x, plan in inputs:
        weights = attention.weights(x, plan, torch.arange(len(plan), device=x.device)).mean(0)
        reach = (weights + torch.eye(len(plan), device=x.device)) / 2 @ reach
    image_length = int(fused.image_length[0])
    first = image_length + int(fused.ground_length[0])
    rows = reach[first : first + len(ids), 1:image_length]  # without the image's [CLS]
    if written:
        rows = torch.cat([rows[:1], rows[:-1]])
    return (rows / rows.sum(1, keepdim=True).clamp_min(1e-12)).cpu().numpy()
