"""Validation split of a corpus: the samples held out of training, chosen by a hash of their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from unimo.data.sample import Indexed
from unimo.rng import number

FEWEST = 20  # samples of a corpus of which any are held out


@dataclass(frozen=True)
class HeldOut:
    """A fraction of the samples, at most `limit` of them; where the data name a validation split of their own
    (Karpathy's), `limit` of that.

    The same samples are held out whatever the seed, the order and format of the files, the folder of the images and,
    nearly always, the number of samples.
    """

    fraction: float
    limit: int

    def items(self, corpus: Indexed) -> np.ndarray:
        """(k,) ascending; of a corpus without a split of its own at least two, but none of fewer than 20 samples."""
        own = np.flatnonzero(corpus.validation)
        n = len(corpus)
        if not self.limit or (not len(own) and (not self.fraction or n < FEWEST)):
            return np.zeros(0, np.int64)
        among = own if len(own) else np.arange(n)
        kept = min(self.limit, len(own) or max(2, round(self.fraction * n)))
        hashes = np.array([number("validation", name) for name in names(corpus.keys)])
        return np.sort(among[np.argsort(hashes[among], kind="stable")[:kept]])


def names(keys: Sequence[str]) -> list[str]:
    """Names of files without folder and ending, as keys of a tar are; whole keys where two would have one name."""
    bare = [PurePosixPath(key).name.partition(".")[0] for key in map(str, keys)]
    return bare if len(set(bare)) == len(bare) else list(map(str, keys))
