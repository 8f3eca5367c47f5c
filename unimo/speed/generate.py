"""Captions by beam search: weights kept in bf16 against cast at every call, and transformers' BLIP of equal size.

Both write captions of exactly so many words from images that are ready to be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from unimo.config import override
from unimo.errors import UsageError
from unimo.inference import Pipeline
from unimo.model.build import ModelSettings, build
from unimo.speed.peers import blip, pixels
from unimo.speed.turns import Runs, compared

SIDE, WORDS = 224, 20


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """size: of the model. In bf16 where the processor multiplies it, else in float32."""
    torch.manual_seed(0)
    settings = override(ModelSettings(), [f"size={size}", f"image_size={SIDE}"])
    model = build(settings)
    frozen, plain = Pipeline(model, frozen=True), Pipeline(model)
    width, heads = settings.dimension("width"), settings.dimension("heads")
    try:
        peer = blip(width, settings.dimension("image_depth"), heads, SIDE).to(frozen.dtype)
    except ImportError as fault:
        raise UsageError("a peer to compare with is missing", got=fault, do="pip install transformers") from fault
    facts = {"benchmark": "generate", "size": size, "dtype": str(frozen.dtype).removeprefix("torch.")}
    images = list(np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8))
    for n, beams in ((1, 1), (4, 5)):
        options: dict[str, Any] = {"num_beams": beams, "max_length": WORDS, "min_length": WORDS}
        ready = pixels(n, SIDE, frozen.dtype)
        runs: Runs = {
            "kept": partial(frozen.caption, images[:n], **options),
            "cast at every call": partial(plain.caption, images[:n], **options),
            "BLIP": partial(_write, peer, ready, beams),
        }
        what = f"{n} image{'s' * (n > 1)}, {beams} beam{'s' * (beams > 1)}, {WORDS} words"
        yield from compared(what, runs, rounds, **facts)


def _write(peer: Any, ready: torch.Tensor, beams: int) -> None:
    with torch.inference_mode():
        peer.generate(pixel_values=ready, num_beams=beams, min_new_tokens=WORDS, max_new_tokens=WORDS)
