"""Exported graphs by onnxruntime, float32 and int8, against torch and, for embeddings, transformers' CLIP.

CLIP is given pixels that are ready, and as many tokens; ours begin from arrays and strings.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unimo.inference import Pipeline
from unimo.inference.onnx import AGREEMENT, FACTS, PRECISIONS, OnnxModel, export
from unimo.json_files import load_json
from unimo.speed.embed import padded, quietly, random_texts
from unimo.speed.peers import Contest, clip, pixels
from unimo.speed.turns import in_turns, milliseconds, speed_up

IMAGES = list(np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8))
TEXT = "two dogs run over a field of snow and a man looks at them while it rains and"  # with its frame 20 tokens
CALLS: dict[str, Callable[[Any], Any]] = {
    "1 image": lambda model: model.encode_image(IMAGES[:1]),
    "4 images": lambda model: model.encode_image(IMAGES),
    "1 text of 20 tokens": lambda model: model.encode_text([TEXT]),
    "16 texts of 20": lambda model: model.encode_text([TEXT] * 16),
    "caption of 10 words": lambda model: model.caption(IMAGES[:1], max_length=10),
}
# Of CLIP: dtype -> method, inputs.
PEER_CALLS: dict[str, Callable[[torch.dtype], tuple[str, dict[str, torch.Tensor]]]] = {
    "1 image": lambda dtype: ("get_image_features", {"pixel_values": pixels(1, dtype)}),
    "4 images": lambda dtype: ("get_image_features", {"pixel_values": pixels(4, dtype)}),
    "1 text of 20 tokens": lambda _: ("get_text_features", padded(random_texts([20]))),
    "16 texts of 20": lambda _: ("get_text_features", padded(random_texts([20] * 16))),
}


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """size: of the model; random weights, 224 pixels. CLIP and torch in float32 too, where they have bf16."""
    both = Contest.of("onnx", size, clip)
    exact = Pipeline(both.cast.model, precision="fp32")
    others = {_named("torch", one): one for one in (exact, both.kept)}
    peers = {_named("CLIP", one): one for one in (copy.deepcopy(both.peer).float(), both.peer)}
    with tempfile.TemporaryDirectory() as folder:
        graphs: dict[str, OnnxModel] = {}
        facts: dict[str, dict[str, Any]] = {}
        for precision in PRECISIONS:
            sizes = export(exact, f"{folder}/{precision}", precision=precision)
            graphs[precision] = OnnxModel(f"{folder}/{precision}")
            facts[precision] = {"MB of graphs": round(sum(sizes.values()) / 1e6, 1)}
            for kind, cosine in load_json(Path(folder, precision, FACTS)).get(AGREEMENT, {}).items():
                facts[precision][f"lowest cosine with float32, {kind}s"] = cosine["lowest"]
        for row in compare_graphs(graphs, others, rounds, peers):
            yield {"benchmark": "onnx", "size": size, **row, **facts[row["graphs"]]}


def compare_graphs(
    graphs: Mapping[str, OnnxModel], others: Mapping[str, Any], rounds: int, peers: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each of the graphs and of what it is timed against: embeddings, and a caption."""
    for what, call in CALLS.items():
        runs: dict[str, Callable[[], Any]] = {name: partial(call, one) for name, one in {**graphs, **others}.items()}
        for name, peer in (peers or {}).items() if what in PEER_CALLS else ():
            method, inputs = PEER_CALLS[what](peer.dtype)
            runs[name] = partial(quietly, getattr(peer, method), **inputs)
        seconds = in_turns(runs, rounds)
        for ours in graphs:
            for other in [name for name in runs if name not in graphs or (name, ours) == ("fp32", "int8")]:
                yield {
                    "what": what,
                    "graphs": ours,
                    "against": other,
                    "speed-up": speed_up(seconds[other], seconds[ours]),
                    "milliseconds, graphs": milliseconds(seconds[ours]),
                    "milliseconds, other": milliseconds(seconds[other]),
                }


def _named(library: str, model: Any) -> str:
    return f"{library} {str(model.dtype).removeprefix('torch.')}"
