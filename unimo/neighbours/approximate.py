"""The nearest vectors of very many, most of them found: an inverted file of faiss (extra `faiss`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from unimo.faiss_library import load_faiss
from unimo.nearest import Found
from unimo.rng import generator


class Approximate:
    """For collections too large to compare with everything.

    About 4 √m cells, of which 1 in 32 is looked at. Its vectors are in memory: 4 · m · D bytes.
    """

    def __init__(self, blocks: Iterator[np.ndarray]):
        faiss = load_faiss("approximate_above")
        parts = [np.ascontiguousarray(block, np.float32) for block in blocks]
        size, width = sum(len(part) for part in parts), parts[0].shape[1]
        cells = max(1, min(int(4 * size**0.5), size // 40))
        self.index = faiss.index_factory(width, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        self.index.nprobe = max(1, cells // 32)
        chosen = generator(0, "approximate search").choice(len(parts), min(len(parts), 128), replace=False)
        self.index.train(np.concatenate([parts[i] for i in np.sort(chosen)]))
        for part in parts:
            self.index.add(part)

    def nearest(self, queries: np.ndarray, k: int, exclude: Sequence[Iterable[int]], least: float) -> list[Found]:
        """As `similarity.nearest`, but may miss some."""
        most = max((len(list(some)) for some in exclude), default=0)
        scores, numbers = self.index.search(np.ascontiguousarray(queries, np.float32), k + most)
        found = []
        for row, ids, some in zip(scores, numbers, exclude):
            good = (ids >= 0) & ~np.isin(ids, list(some)) & (row > least)
            order = np.lexsort((ids[good], -row[good]))[:k]
            found.append((ids[good][order], row[good][order]))
        return found
