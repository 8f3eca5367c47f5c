"""Which model encoded an index, and vectors of length 1 from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from unimo.errors import WeightsError
from unimo.inference import ImageInput, Pipeline, load

TEXTS_AT_ONCE = 512
IMAGES_AT_ONCE = 128


def identity(pipeline: Pipeline) -> dict[str, Any]:
    """What decides its embeddings but for rounding: SHA-256 over settings, weights and their names; and precision."""
    settings = pipeline.facts.get("settings")
    model = settings.get("model") if isinstance(settings, dict) else None
    digest = hashlib.sha256(json.dumps([type(pipeline.model).__name__, model], sort_keys=True).encode())
    for name, weight in sorted(pipeline.model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().float().numpy().tobytes())  # numpy has no bfloat16
    return {"sha256": digest.hexdigest(), "precision": str(pipeline.dtype).removeprefix("torch.")}


def source_of(pipeline: Pipeline) -> str:
    """Where the model lies: a path that holds from any folder, or a name on the hub; "" for one made in memory."""
    path = str(pipeline.facts.get("path", ""))
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def load_same(source: str | Path, expected: dict[str, Any], *, device: str | None = None) -> Pipeline:
    """The model of an index. Raises WeightsError if it is not there, or not the one the index was made with."""
    if not str(source):
        raise WeightsError(
            "the index does not say where its model is",
            expected="the model it was made with",
            do="name it with --model",
        )
    pipeline = load(source, device=device)
    check_same(pipeline, expected, where=source)
    return pipeline


def check_same(pipeline: Pipeline, expected: dict[str, Any], *, where: object) -> None:
    found = identity(pipeline)["sha256"]
    if found != expected.get("sha256"):
        raise WeightsError(
            "this is not the model the index was made with",
            where=where,
            got=f"sha256 {found[:16]}…",
            expected=f"sha256 {str(expected.get('sha256'))[:16]}…",
            do="name that model with --model, or make the index anew",
        )


def embed_images(pipeline: Pipeline, images: Iterable[ImageInput]) -> np.ndarray:
    """(n, D) float32 of length 1; see `unit`."""
    return unit(pipeline.encode_images(images).embedding)


def embed_texts(pipeline: Pipeline, texts: Sequence[str | np.ndarray]) -> np.ndarray:
    """(n, D) float32 of length 1; see `unit`. texts: strings, or ids without specials."""
    steps = range(0, len(texts), TEXTS_AT_ONCE)
    parts = [unit(pipeline.encode_texts(texts[i : i + TEXTS_AT_ONCE]).embedding) for i in steps]
    return np.concatenate(parts)


def unit(embedding: Tensor) -> np.ndarray:
    """(n, D) -> float32 rows of length 1, or of NaN where that cannot be (not finite, or zero).

    Released UNIMO-2 does not normalise texts in its score (spec unimo2 §4.3); in an index all are, else long vectors
    would be near everything.
    """
    rows = embedding.float().cpu().numpy()
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isfinite(lengths) & (lengths > 0), rows / lengths, np.float32("nan"))
