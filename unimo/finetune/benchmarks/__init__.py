"""All benchmarks by name, with their official recipes: an entry in the file of what they read and answer."""

from __future__ import annotations

from unimo.finetune.benchmarks import generation, glue, images, retrieval
from unimo.finetune.benchmarks.benchmark import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    name: entry
    for file in (glue, images, retrieval, generation)
    for name, entry in vars(file).items()
    if isinstance(entry, Benchmark)
}
