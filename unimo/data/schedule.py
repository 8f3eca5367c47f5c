"""Which samples a step reads: a pure function of (seed, step), the same for any number of ranks and workers.

A step consists of `shards` equal parts. Each rank takes a contiguous run of them, so one process with four
shards reads what four processes with one shard each read. The whole state of the order is one integer, the
step.

    n samples · B tokens of a bin
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from unimo.rng import generator

PACKED_ONCE = 1024  # full bins


class Shuffled:
    """An endless run over n samples: every epoch is a fresh permutation, place p holds (epoch, sample)."""

    def __init__(self, n: int, seed: int, purpose: str):
        self.n, self.seed, self.purpose = n, seed, purpose
        self.epoch = functools.lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, epoch: int) -> np.ndarray:
        return generator(self.seed, "order", self.purpose, epoch).permutation(self.n)

    def __getitem__(self, place: int) -> tuple[int, int]:
        epoch, rest = divmod(place, self.n)
        return epoch, int(self.epoch(epoch)[rest])

    def __reduce__(self):  # what is cached is rebuilt in a loader worker
        return Shuffled, (self.n, self.seed, self.purpose)


class Bins:
    """An endless run of bins of at most B tokens: every epoch packs a fresh permutation, next-fit.

    From PACKED_ONCE full bins on, only the first epoch packs, and each later one visits its bins in a fresh order: so
    a place far into a run is arithmetic, where else all epochs before it would be packed again. Few bins hold the same
    samples in two epochs, or those of a small corpus would always come together. lengths: (n,) tokens of each sample,
    specials included; each must fit a bin. Place p holds (epoch, samples).
    """

    def __init__(self, lengths: np.ndarray, budget: int, seed: int, purpose: str):
        self.lengths, self.budget, self.seed, self.purpose = lengths, budget, seed, purpose
        self.order = Shuffled(len(lengths), seed, purpose)
        self.packed_once = int(lengths.sum()) >= PACKED_ONCE * budget
        self.first_bin = [0]  # the first bin of every epoch seen so far
        self.edges = functools.lru_cache(maxsize=2)(self._edges)

    def _edges(self, epoch: int) -> np.ndarray:
        """Where each bin of an epoch begins in its permutation, and where the last one ends."""
        ends = np.cumsum(self.lengths[self.order.epoch(epoch)])
        edges, filled = [0], 0
        while edges[-1] < len(ends):
            edge = int(np.searchsorted(ends, filled + self.budget, side="right"))
            edges.append(edge)
            filled = int(ends[edge - 1])
        return np.array(edges)

    @functools.cached_property
    def _visits(self) -> Shuffled:
        """The bins of the first epoch, visited again."""
        return Shuffled(len(self.edges(0)) - 1, self.seed, f"bins of {self.purpose}")

    def __getitem__(self, place: int) -> tuple[int, Sequence[int]]:
        if self.packed_once:
            epoch, at = divmod(place, self._visits.n)
            return epoch, self._bin(0, at if epoch == 0 else self._visits[place][1])
        while place >= self.first_bin[-1]:
            self.first_bin.append(self.first_bin[-1] + len(self.edges(len(self.first_bin) - 1)) - 1)
        epoch = int(np.searchsorted(self.first_bin, place, side="right")) - 1
        return epoch, self._bin(epoch, place - self.first_bin[epoch])

    def _bin(self, epoch: int, at: int) -> list[int]:
        edges = self.edges(epoch)
        return self.order.epoch(epoch)[edges[at] : edges[at + 1]].tolist()

    def __reduce__(self):
        return Bins, (self.lengths, self.budget, self.seed, self.purpose)


def passages(token_counts: np.ndarray, max_length: int) -> np.ndarray:
    """Cuts documents into passages of at most `max_length` tokens: (passages, 3) of document, first, last + 1."""
    pieces = np.maximum(1, -(-token_counts // max_length))
    document = np.repeat(np.arange(len(token_counts)), pieces)
    first_piece = np.cumsum(pieces) - pieces
    # Equal parts rather than full ones and a stub: short leftovers teach little and pack badly.
    part = np.arange(len(document)) - first_piece[document]
    size = -(-token_counts // pieces)
    start = part * size[document]
    return np.stack([document, start, np.minimum(start + size[document], token_counts[document])], axis=1)
