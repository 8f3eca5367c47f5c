"""Embeddings: weights kept in bf16 against cast at every call, and transformers' CLIP of equal size.

CLIP is given pixels that are ready and its weights in bf16; ours begins from arrays and token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from unimo.inference import Pipeline
from unimo.speed.peers import VOCABULARY, Contest, clip, pixels
from unimo.speed.products import NAME, products_alone
from unimo.speed.turns import speed_ratios

TEXTS = {"1 text of 20 tokens": [20], "16 texts of 20": [20] * 16, "16 texts of 8 to 42": np.linspace(8, 42, 16)}


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """size: of the model."""
    both = Contest.of("embed", size, clip)
    exact = Pipeline(both.cast.model, precision="fp32")
    for n in (1, 4):
        ready = pixels(n, both.kept.dtype)
        runs: dict[str, Callable[[], Any]] = {
            "kept": partial(both.kept.encode_image, both.images[:n]),
            "cast at every call": partial(both.cast.encode_image, both.images[:n]),
            "CLIP": partial(quietly, both.peer.get_image_features, pixel_values=ready),
        }
        runs |= {NAME: products_alone(runs["kept"])}
        cosine = _lowest_cosine(both.kept.encode_image(both.images[:n]), exact.encode_image(both.images[:n]))
        what = f"{n} images" if n > 1 else "1 image"
        yield from speed_ratios(what, runs, rounds, bound=NAME, **both.facts, **cosine)
    for what, lengths in TEXTS.items():
        ids = random_texts(lengths)
        runs = {
            "kept": partial(both.kept.encode_text, ids),
            "cast at every call": partial(both.cast.encode_text, ids),
            "CLIP": partial(quietly, both.peer.get_text_features, **padded(ids)),
        }
        runs |= {NAME: products_alone(runs["kept"])}
        cosine = _lowest_cosine(both.kept.encode_text(ids), exact.encode_text(ids))
        yield from speed_ratios(what, runs, rounds, bound=NAME, **both.facts, **cosine)


def random_texts(lengths: Any) -> list[Any]:
    """Texts of so many tokens, those that frame them included."""
    rng = np.random.default_rng(0)
    return [rng.integers(1000, VOCABULARY - 10, int(n) - 2) for n in lengths]


def padded(ids: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """The same texts as CLIP reads them: framed, and padded to the longest."""
    longest = max(map(len, ids)) + 2
    rows = np.full((len(ids), longest), VOCABULARY - 1, np.int64)  # its last token ends a text, and pads it
    for row, some in zip(rows, ids):
        row[0], row[1 : 1 + len(some)] = VOCABULARY - 2, some
    mask = np.arange(longest) < np.array([[len(some) + 2] for some in ids])
    return {"input_ids": torch.from_numpy(rows), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def quietly(function: Any, **inputs: torch.Tensor) -> Any:
    with torch.inference_mode():
        return function(**inputs)


def _lowest_cosine(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    return {"lowest cosine with float32": round(float((a * b).sum(-1).min()), 5)}
