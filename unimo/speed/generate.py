"""Captions by beam search: weights kept in bf16 against cast at every call, and transformers' BLIP of equal size.

Both write captions of exactly so many words from images that are ready to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from unimo.speed.peers import Contest, blip, pixels
from unimo.speed.products import NAME, products_alone
from unimo.speed.turns import speed_ratios

WORDS = 20


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """size: of the model."""
    both = Contest.of("generate", size, blip)
    for n, beams in ((1, 1), (4, 5)):
        options: dict[str, Any] = {"num_beams": beams, "max_length": WORDS, "min_length": WORDS}
        ready = pixels(n, both.kept.dtype)
        runs: dict[str, Callable[[], Any]] = {
            "kept": partial(both.kept.caption, both.images[:n], **options),
            "cast at every call": partial(both.cast.caption, both.images[:n], **options),
            "BLIP": partial(_write, both.peer, ready, beams),
        }
        runs |= {NAME: products_alone(runs["kept"])}
        what = f"{n} image{'s' * (n > 1)}, {beams} beam{'s' * (beams > 1)}, {WORDS} words"
        yield from speed_ratios(what, runs, rounds, bound=NAME, **both.facts)


def _write(peer: Any, ready: torch.Tensor, beams: int) -> None:
    with torch.inference_mode():
        peer.generate(pixel_values=ready, num_beams=beams, min_new_tokens=WORDS, max_new_tokens=WORDS)
