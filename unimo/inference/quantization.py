"""Int8 forms of exported graphs, by onnxruntime, and how far their embeddings are from those of float32.

Dynamic quantization: weights of linear maps are int8 with a scale for each output, tables that ids are looked up in
with one; what maps are applied to becomes uint8 at every call, with one scale for the whole batch. So an embedding
depends a little on what else its batch holds. The patches' convolution, attention and norms stay float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unimo.extras import optional
from unimo.inference.encoding import ImageInput
from unimo.tokenizer import Tokenizer

RANDOM = 8  # images and texts, where none are given
TOKENS = 20  # of a random text
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else onnxruntime advises what the exporter has done


def quantize(graph: Path, target: Path) -> None:
    """Writes the int8 form of a graph."""
    onnx = optional("onnx", "int8 graphs", "pip install 'unimo[onnx]'")
    library = optional("onnxruntime.quantization", "int8 graphs", "pip install 'unimo[onnx]'")
    model = onnx.load(graph)
    onnx.helper.set_model_props(model, PREPARED)
    kinds = ["MatMul", "Gemm", "Gather"]
    options = {"per_channel": True, "weight_type": library.QuantType.QInt8}
    library.quantize_dynamic(model, target, op_types_to_quantize=kinds, **options)


def agreement(
    exact: Any, other: Any, images: Sequence[ImageInput] | None = None, texts: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Cosines of two `OnnxModel`s' embeddings: {"image": {"lowest", "mean", "n", "of": given or random}, "text": ...}.

    images, texts: samples of what the model is for; None: random ones, which say less.
    """
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (RANDOM, exact.side, exact.side, 3), dtype=np.uint8)
    ids = rng.integers(1000, Tokenizer.vocab_size // 2, (RANDOM, TOKENS))
    found = {}
    for kind, given, random in (("image", images, list(noise)), ("text", texts, [*map(exact.tokenizer.decode, ids)])):
        some = list(random if given is None else given)
        a, b = ((model.encode_image if kind == "image" else model.encode_text)(some) for model in (exact, other))
        cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        measured = {"lowest": round(float(cosines.min()), 5), "mean": round(float(cosines.mean()), 5)}
        found[kind] = {**measured, "n": len(some), "of": "random" if given is None else "given"}
    return found
