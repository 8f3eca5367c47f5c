"""Exact search among vectors of length 1: ours, IndexFlatIP of faiss, and all products in double precision.

    n rows · Q queries · D width

Ten rows are looked for; ours must be those of double precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from unimo.errors import UsageError
from unimo.retrieval.exact import Vectors
from unimo.speed.turns import Runs, speed_ratios

SIZES, WIDTH, FOUND = (100_000, 1_000_000), 768, 10


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """size says nothing here."""
    try:
        import faiss
    except ImportError as fault:
        raise UsageError("a peer to compare with is missing", got=fault, do="pip install faiss-cpu") from fault
    faiss.omp_set_num_threads(torch.get_num_threads())
    for n in SIZES:
        held = Vectors(np.arange(n), _of_length_one(n))
        index = faiss.IndexFlatIP(WIDTH)
        for first in range(0, n, 65536):
            index.add(held.rows[first : first + 65536].astype(np.float32))
        for q in (1, 32):
            queries = _of_length_one(q, seed=1)
            exact, single = queries.astype(np.float64), queries.astype(np.float32)
            double = partial(_double, exact, held.rows)
            if not np.array_equal(held.nearest(exact, FOUND), double()):
                raise AssertionError("a row was lost")
            runs: Runs = {"ours": partial(held.nearest, exact, FOUND), "faiss": partial(index.search, single, FOUND)}
            runs = {**runs, "double precision": double} if n == min(SIZES) else runs
            yield from speed_ratios("search", runs, rounds, benchmark="search", n=n, Q=q, D=WIDTH)


def _of_length_one(n: int, seed: int = 0) -> np.ndarray:
    """(n, D) float16."""
    drawn = np.random.default_rng(seed)
    parts = [drawn.standard_normal((min(65536, n - i), WIDTH), dtype=np.float32) for i in range(0, n, 65536)]
    return np.concatenate([(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16) for x in parts])


def _double(queries: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Every product in double precision: the plain form."""
    blocks = (rows[i : i + 4096].astype(np.float64) for i in range(0, len(rows), 4096))
    scores = np.concatenate([queries @ block.T for block in blocks], axis=1).astype(np.float32)
    return [np.argsort(-row, kind="stable")[:FOUND] for row in scores]
