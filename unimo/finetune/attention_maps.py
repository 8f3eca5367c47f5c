"""Attention map of one prediction: how the last layer in which images and texts meet spreads over the image.

    P parts of an image: patches (UNIMO-2) or regions (UNIMO) · H heads

The row of attention is that of the token that the task's head pools: that of the text where it may see the image,
else that of the image. It tells where this layer looked, not why the answer came out as it did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from unimo.data.regions import ImageRegions
from unimo.finetune.batches import TaskRows
from unimo.finetune.head_task import HeadTask
from unimo.finetune.task_type import REQUEST, forward, precision_of
from unimo.model.attention import Plan

if TYPE_CHECKING:
    from unimo.inference.model import Pipeline

AttentionMap = list[list[float]]  # left, top, right, bottom in 0..1 of the image, and a fraction of the attention, each
MIN_SIDE = 192  # pixels of a drawn image, so that the squares of a tiny one can be seen
DARKEST = 50  # of 255: the light on a part without attention


@torch.inference_mode()
def attention_map(task: HeadTask, pipeline: Pipeline, rows: TaskRows, number: int) -> AttentionMap:
    """Boxes (P) of one row's image with their fractions of the attention, which add up to 1; mean of the heads."""
    seen: dict[str, Any] = {}
    attention: Any = pipeline.model.fuser.layers[-1].attention
    hook = attention.register_forward_pre_hook(lambda _, given: seen.update(x=given[0], plan=given[1]))
    try:
        one = forward(task, pipeline, rows, [number])[2][REQUEST]
    finally:
        hook.remove()
    image = int(one.image_starts[0])
    first, last = image + 1, image + int(one.image_length[0])
    text = int(one.starts[0] + one.image_length[0] + one.ground_length[0])
    plan: Plan = seen["plan"]
    from_text = task.reads_texts and bool(plan.allowed(torch.tensor(text), torch.tensor(first)))
    with precision_of(pipeline):
        query = torch.tensor([text if from_text else image], device=seen["x"].device)
        weights = attention.weights(seen["x"], plan, query)[:, 0, first:last].mean(0)
    fractions = (weights / weights.sum().clamp_min(1e-12)).float().cpu().numpy()
    boxes = _boxes(rows, number, len(fractions))
    return [[round(float(x), 4) for x in (*box, fraction)] for box, fraction in zip(boxes, fractions)]


def _boxes(rows: TaskRows, number: int, parts: int) -> np.ndarray:
    """(P, 4) of the regions, or of the patches row by row."""
    image = rows.seen(number)
    if isinstance(image, ImageRegions):
        return image.boxes[1:, :4]
    grid = round(parts**0.5)
    row, column = np.divmod(np.arange(parts), grid)
    return np.stack([column, row, column + 1, row + 1], 1) / grid


def drawn(image: Image.Image, parts: AttentionMap) -> Image.Image:
    """The image, and beside it the same, the darker the less attention there, seen from the part with the most."""
    scale = max(1, -(-MIN_SIDE // max(image.size)))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    light = Image.new("L", image.size, DARKEST)
    most = max(fraction for *_, fraction in parts) or 1.0
    for left, top, right, bottom, fraction in sorted(parts, key=lambda part: part[-1]):  # where regions overlap, most
        corners = (left * image.width, top * image.height, right * image.width - 1, bottom * image.height - 1)
        if corners[0] < corners[2] and corners[1] < corners[3]:
            ImageDraw.Draw(light).rectangle(corners, fill=DARKEST + round((255 - DARKEST) * fraction / most))
    both = Image.new("RGB", (2 * image.width + 4, image.height), (255, 255, 255))
    both.paste(image, (0, 0))
    both.paste(Image.composite(image, Image.new("RGB", image.size), light), (image.width + 4, 0))
    return both
