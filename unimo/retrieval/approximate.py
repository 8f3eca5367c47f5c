"""Search that looks at some of the rows only: an inverted file or a graph of faiss (extra `faiss`).

Both are built in memory, once for an opened index, which takes longer than one exact search: they pay for a process
that answers many queries over millions of rows. IVF (Sivic and Zisserman, "Video Google", 2003): about 4 √n cells, of
which 1 in 32 is looked at. HNSW (Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
hierarchical navigable small world graphs", 2018): 32 links a row, 128 looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from unimo.faiss_library import load_faiss
from unimo.nearest import Found

Method = Literal["ivf", "hnsw"]
METHODS: tuple[Method, ...] = ("ivf", "hnsw")

_TRAINED_ON = 40  # rows for each cell
_LINKS, _LOOKED_AT = 32, 128


class Approximate:
    """n rows of width D in memory: 4 n D bytes, and 8 · 32 n more for a graph. n: known before.

    Raises UsageError without faiss.
    """

    def __init__(self, blocks: Iterable[np.ndarray], n: int, width: int, method: Method = "ivf"):
        faiss = load_faiss("--approximate-above")
        rows = np.empty((n, width), np.float32)
        first = 0
        for block in blocks:
            rows[first : first + len(block)] = block
            first += len(block)
        if method == "hnsw":
            self.index = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
            self.index.hnsw.efSearch = _LOOKED_AT
        else:
            cells = max(1, min(int(4 * n**0.5), n // _TRAINED_ON))
            self.index = faiss.index_factory(width, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
            self.index.nprobe = max(1, cells // 32)
            self.index.train(rows[:: max(1, n // (cells * _TRAINED_ON))])
        self.index.add(rows)

    def nearest(self, queries: np.ndarray, k: int) -> list[Found]:
        """As `unimo.nearest.nearest` of queries (Q, D), but may miss some."""
        scores, numbers = self.index.search(np.ascontiguousarray(queries, np.float32), k)
        found = []
        for row, ids in zip(scores, numbers):
            there = ids >= 0
            order = np.lexsort((ids[there], -row[there]))
            found.append((ids[there][order], row[there][order]))
        return found
