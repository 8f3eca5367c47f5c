"""What a corpus ten times as large costs: the order of texts, a resumed run, and what is near a caption.

    n texts

Captions are of eight words, word number r drawn in proportion to 1 / r, as words are in natural texts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from unimo.data.schedule import Bins
from unimo.nearest import TfIdf, nearest

SIZES = (10_000, 100_000, 1_000_000)
VOCABULARY, WORDS, QUERIES, WIDTH = 30_000, 8, 256, 176


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """size and rounds say nothing here: every cost is measured once, in seconds of the processor."""
    for n in SIZES:
        yield {"benchmark": "growth", "n": n, **_schedule(n), **_words(n), **_vectors(n)}


def _seconds(since: float, digits: int = 3) -> float:
    return round(time.process_time() - since, digits)


def _schedule(n: int) -> dict[str, Any]:
    bins = Bins(np.random.default_rng(0).integers(8, 130, n), 2048, 0, "texts")
    began = time.process_time()
    bins[0]
    first = _seconds(began)
    resumed, began = Bins(bins.lengths, 2048, 0, "texts"), time.process_time()
    resumed[10 * (len(bins.edges(0)) - 1)]
    return {"first bin, s": first, "resumed after ten epochs, s": _seconds(began)}


def _words(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    drawn = np.minimum(np.exp(rng.random((n, WORDS)) * np.log(VOCABULARY)).astype(np.int64), VOCABULARY)
    began = time.process_time()
    index = TfIdf(drawn.astype(str).tolist(), list)
    indexed, began = _seconds(began), time.process_time()
    index.search(index.rows[rng.integers(0, n, QUERIES)], 120, below=0.5)
    each = round(1000 * (time.process_time() - began) / QUERIES, 2)
    return {"texts indexed by words, s": indexed, "a search by words, ms": each}


def _vectors(n: int) -> dict[str, Any]:
    vectors = np.random.default_rng(0).standard_normal((n, WIDTH), dtype=np.float32)
    began = time.process_time()
    nearest(vectors[:QUERIES], (vectors[i : i + 4096] for i in range(0, n, 4096)), 20)
    each = 1000 * (time.process_time() - began) / QUERIES
    return {f"a search among vectors of {WIDTH}, ms": round(each, 2)}
