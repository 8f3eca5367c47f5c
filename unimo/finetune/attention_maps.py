"""Which parts of an image an answer looked at: attention of the last layer in which images and texts meet.

    P parts of an image: patches (UNIMO-2) or regions (UNIMO) · H heads

What is read is the attention of the token that the task's head pools: that of the text where it may see the image,
else that of the image. It tells where this layer looked, not why the answer came out as it did.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from unimo.data.regions import ImageRegions
from unimo.finetune.batches import TaskRows
from unimo.finetune.classification import Classification
from unimo.finetune.regression import Regression
from unimo.finetune.task_type import REQUEST, answered, precision_of
from unimo.inference import Pipeline
from unimo.model.attention import Plan

Look = list[list[float]]  # left, top, right, bottom in 0..1 of the image, and a share of the attention, each
LEAST_SIDE = 192  # pixels of a drawn image, so that the squares of a tiny one can be seen
DARKEST = 50  # of 255: the light on a part that was not looked at


@torch.inference_mode()
def looked_at(kind: Classification | Regression, pipeline: Pipeline, rows: TaskRows, number: int) -> Look:
    """Boxes (P) of one row's image with their shares of the attention, which add up to 1; mean of the heads."""
    seen: dict[str, Any] = {}
    attention: Any = pipeline.model.fuser.layers[-1].attention
    hook = attention.register_forward_pre_hook(lambda _, given: seen.update(x=given[0], plan=given[1]))
    try:
        one = answered(kind, pipeline, rows, [number])[2][REQUEST]
    finally:
        hook.remove()
    first, last = int(one.image_starts[0]) + 1, int(one.image_starts[0] + one.image_length[0])
    asking = int(one.image_starts[0])
    text = int(one.starts[0] + one.image_length[0] + one.ground_length[0])
    plan: Plan = seen["plan"]
    if kind.reads_texts and bool(plan.allowed(torch.tensor(text), torch.tensor(first))):
        asking = text
    with precision_of(pipeline):
        weights = attention_of(attention, seen["x"], plan, asking)[:, first:last].mean(0)
    shares = (weights / weights.sum().clamp_min(1e-12)).float().cpu().numpy()
    return [
        [round(float(x), 4) for x in (*box, share)] for box, share in zip(_boxes(rows, number, len(shares)), shares)
    ]


def attention_of(attention: Any, x: Tensor, plan: Plan, asking: int) -> Tensor:
    """(H, T) what the token `asking` of a packed row (T, D) looks at, as `unimo.model.attention.attend` weighs it."""
    tokens = torch.arange(len(plan), device=x.device)
    q, k, _ = (part[: len(plan)].unflatten(-1, (attention.heads, -1)) for part in attention.qkv(x).chunk(3, -1))
    scores = torch.einsum("hd,thd->ht", q[asking], k) * q.shape[-1] ** -0.5
    allowed = plan.allowed(tokens[asking], tokens)
    return scores.float().masked_fill(~allowed, -torch.inf).softmax(-1)


def _boxes(rows: TaskRows, number: int, parts: int) -> np.ndarray:
    """(P, 4) of the regions, or of the patches row by row."""
    image = rows.seen(number)
    if isinstance(image, ImageRegions):
        return image.boxes[1:, :4]
    grid = round(parts**0.5)
    row, column = np.divmod(np.arange(parts), grid)
    return np.stack([column, row, column + 1, row + 1], 1) / grid


def drawn(image: Image.Image, look: Look) -> Image.Image:
    """The image, and beside it the same, the darker the less was looked there than at the part most looked at."""
    scale = max(1, -(-LEAST_SIDE // max(image.size)))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    light = Image.new("L", image.size, DARKEST)
    most = max(share for *_, share in look) or 1.0
    for left, top, right, bottom, share in sorted(look, key=lambda part: part[-1]):  # of overlapping regions the most
        corners = (left * image.width, top * image.height, right * image.width - 1, bottom * image.height - 1)
        if corners[0] < corners[2] and corners[1] < corners[3]:
            level = DARKEST + round((255 - DARKEST) * share / most)
            ImageDraw.Draw(light).rectangle(corners, fill=level)
    both = Image.new("RGB", (2 * image.width + 4, image.height), (255, 255, 255))
    both.paste(image, (0, 0))
    black = Image.new("RGB", image.size)
    both.paste(Image.composite(image, black, light), (image.width + 4, 0))
    return both


__all__ = ["Look", "attention_of", "drawn", "looked_at"]
