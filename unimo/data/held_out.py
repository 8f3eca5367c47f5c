"""Validation split of a corpus: the samples held out of training, chosen by a hash of their keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimo.data.sample import Indexed
from unimo.rng import number

FEWEST = 20  # samples of a corpus of which any are held out


@dataclass(frozen=True)
class HeldOut:
    """A fraction of the samples, at most `limit` of them.

    The same key is held out whatever the seed, the order of the files and, nearly always, the number of samples.
    """

    fraction: float
    limit: int

    def items(self, corpus: Indexed) -> np.ndarray:
        """(k,) ascending; none of a corpus with fewer than 20 samples, else at least two."""
        n = len(corpus)
        if not self.fraction or not self.limit or n < FEWEST:
            return np.zeros(0, np.int64)
        hashes = np.array([number("validation", str(key)) for key in corpus.keys])
        kept = min(self.limit, max(2, round(self.fraction * n)))
        return np.sort(np.argsort(hashes, kind="stable")[:kept])
