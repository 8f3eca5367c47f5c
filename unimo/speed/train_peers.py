"""Training steps of published models of base size, from transformers, on as many pairs as ours: random content.

FLAVA has what it can use of our batch (pairs, lone images, passages; codes of patches are given), CLIP B/16 the pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unimo.speed.peers import library

LENGTH, PASSAGE = 14, 96  # tokens of a caption and of a passage
Losses = Callable[[nn.Module], Tensor]


def peers(pairs: int, images: int, passages: int, dtype: torch.dtype) -> dict[str, Callable[[], Callable[[], None]]]:
    """Name -> what makes a peer and returns its step. UsageError: transformers is not installed."""
    transformers = library()

    def flava() -> Callable[[], None]:
        config = transformers.FlavaConfig()
        config.init_codebook = False
        model = transformers.FlavaForPreTraining(config)
        return _step(model, partial(_flava_loss, pairs=pairs, images=images, passages=passages), dtype)

    def clip() -> Callable[[], None]:
        model = transformers.CLIPModel(transformers.CLIPConfig(vision_config={"patch_size": 16}))
        return _step(model, partial(_clip_loss, pairs=pairs), dtype)

    return {"FLAVA": flava, "CLIP B/16": clip}


def _flava_loss(model: Any, pairs: int, images: int, passages: int) -> Tensor:
    image_labels, text_labels = _image_labels(pairs + images), torch.full((pairs, LENGTH), -100)
    text_labels[:, 3:5] = 7
    patches = {"bool_masked_pos": image_labels >= 0, "mim_labels": image_labels.clone()}
    of_pairs = {name: x[:pairs] for name, x in patches.items()}
    words, pixels = _words(pairs, LENGTH), _pixels(pairs + images)
    matches = torch.arange(pairs) % 2
    loss: Tensor = model(
        input_ids=words, input_ids_masked=words, pixel_values=pixels[:pairs], mlm_labels=text_labels,
        itm_labels=matches, return_loss=True, **of_pairs,
    ).loss  # fmt: skip
    if images:
        of_images = {name: x[pairs:] for name, x in patches.items()}
        loss = loss + model(pixel_values=pixels[pairs:], return_loss=True, **of_images).loss
    if passages:
        words, labels = _words(passages, PASSAGE), torch.full((passages, PASSAGE), -100)
        labels[:, ::7] = 7
        loss = loss + model(input_ids=words, input_ids_masked=words, mlm_labels=labels, return_loss=True).loss
    return loss


def _clip_loss(model: Any, pairs: int) -> Tensor:
    return model(input_ids=_words(pairs, LENGTH), pixel_values=_pixels(pairs), return_loss=True).loss


def _step(model: nn.Module, losses: Losses, dtype: torch.dtype) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = losses(model)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _image_labels(n: int) -> Tensor:
    """(n, 14, 14): codes of four patches in ten, -1 elsewhere."""
    places = torch.arange(n * 196).reshape(n, 14, 14)
    return torch.where(places % 5 < 2, places % 8192, -1)


def _words(n: int, length: int) -> Tensor:
    return torch.arange(n * length).reshape(n, length) % 20_000 + 4


def _pixels(n: int) -> Tensor:
    return torch.rand(n, 3, 224, 224)
