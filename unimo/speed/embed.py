"""Embeddings: weights kept in bf16 against cast at every call, and transformers' CLIP of equal size.

CLIP is given pixels that are ready and its weights in bf16; ours begins from arrays and token ids.
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
from unimo.speed.peers import VOCABULARY, clip, pixels
from unimo.speed.turns import Runs, compared

SIDE = 224
TEXTS = {"1 text of 20 tokens": [20], "16 texts of 20": [20] * 16, "16 texts of 8 to 42": np.linspace(8, 42, 16)}


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """size: of the model. In bf16 where the processor multiplies it, else in float32."""
    torch.manual_seed(0)
    settings = override(ModelSettings(), [f"size={size}", f"image_size={SIDE}"])
    model = build(settings)
    frozen, plain, exact = Pipeline(model, frozen=True), Pipeline(model), Pipeline(model, precision="fp32")
    width, heads = settings.dimension("width"), settings.dimension("heads")
    try:
        peer = clip(width, settings.dimension("image_depth"), heads, SIDE).to(frozen.dtype)
    except ImportError as fault:
        raise UsageError("a peer to compare with is missing", got=fault, do="pip install transformers") from fault
    facts = {"benchmark": "embed", "size": size, "dtype": str(frozen.dtype).removeprefix("torch.")}
    images = list(np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8))
    for n in (1, 4):
        ready = pixels(n, SIDE, frozen.dtype)
        runs: Runs = {
            "kept": partial(frozen.encode_image, images[:n]),
            "cast at every call": partial(plain.encode_image, images[:n]),
            "CLIP": partial(_quietly, peer.get_image_features, pixel_values=ready),
        }
        cosine = _lowest_cosine(frozen.encode_image(images[:n]), exact.encode_image(images[:n]))
        yield from compared(f"{n} images" if n > 1 else "1 image", runs, rounds, **facts, **cosine)
    for what, lengths in TEXTS.items():
        ids = _ids(lengths)
        runs = {
            "kept": partial(frozen.encode_text, ids),
            "cast at every call": partial(plain.encode_text, ids),
            "CLIP": partial(_quietly, peer.get_text_features, **_padded(ids)),
        }
        cosine = _lowest_cosine(frozen.encode_text(ids), exact.encode_text(ids))
        yield from compared(what, runs, rounds, **facts, **cosine)


def _ids(lengths: Any) -> list[Any]:
    """Texts of so many tokens, those that frame them included."""
    rng = np.random.default_rng(0)
    return [rng.integers(1000, VOCABULARY - 10, int(n) - 2) for n in lengths]


def _padded(ids: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """The same texts as CLIP reads them: framed, and padded to the longest."""
    longest = max(map(len, ids)) + 2
    rows = np.full((len(ids), longest), VOCABULARY - 1, np.int64)  # its last token ends a text, and pads it
    for row, some in zip(rows, ids):
        row[0], row[1 : 1 + len(some)] = VOCABULARY - 2, some
    mask = np.arange(longest) < np.array([[len(some) + 2] for some in ids])
    return {"input_ids": torch.from_numpy(rows), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def _quietly(function: Any, **inputs: torch.Tensor) -> Any:
    with torch.inference_mode():
        return function(**inputs)


def _lowest_cosine(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    return {"lowest cosine with float32": round(float((a * b).sum(-1).min()), 5)}
