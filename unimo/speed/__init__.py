"""Timings, as ratios of two ways to the same end, measured in turns within one run.

Machines and what else they do differ; a ratio of neighbours in time differs little. Counted operations stand beside it.

turns.py      runs in turns, both orders; compare.py: two result files
embed.py      embeddings, beside CLIP; generate.py: captions, beside BLIP; peers.py: both; products.py: their floor
growth.py     what a larger corpus costs
load.py       opening a saved model
search.py     exact search, beside faiss
sharing.py    many texts beside one image
mask.py       the mask of a long packed row
onnx.py       exported graphs, float32 and int8
train.py      a training step; train_peers.py: those of FLAVA and CLIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from unimo.errors import UsageError
from unimo.machine import describe_machine
from unimo.speed import embed, generate, growth, load, mask, onnx, search, sharing, train

ROUNDS = 7
BENCHMARKS: dict[str, Callable[[str, int], Iterator[dict[str, Any]]]] = {
    "embed": embed.rows,
    "generate": generate.rows,
    "growth": growth.rows,
    "load": load.rows,
    "search": search.rows,
    "sharing": sharing.rows,
    "mask": mask.rows,
    "onnx": onnx.rows,
    "train": train.rows,
}


def measure(name: str | None, *, size: str = "small", rounds: int = ROUNDS) -> Iterator[dict[str, Any]]:
    """Rows of one benchmark, each as soon as it is measured. size: of the model, a name `unimo describe` knows."""
    if name not in BENCHMARKS:
        raise UsageError("no such benchmark", got=name, expected=", ".join(BENCHMARKS))
    machine = describe_machine()
    return ({**row, "machine": machine} for row in BENCHMARKS[name](size, rounds))
