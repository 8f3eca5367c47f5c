"""Images and texts after their towers: computed once, then picked from for every pair and question.

N images · M texts · T packed tokens · R rows of an image · D width · C dictionary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unimo.batch import Texts


@dataclass
class EncodedImages:
    """Images after their tower: hidden (N, R, D), embedding (N, D), votes (N, C) or None.

    lengths: (N,) rows of each image that are there, or None: all R. (R = 1 + P patches, or 1 + regions.)
    """

    hidden: Tensor
    embedding: Tensor
    votes: Tensor | None
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def pick(self, numbers: Tensor) -> EncodedImages:
        """Some of the images, in the order of `numbers` (n,)."""
        votes, lengths = (None if part is None else part[numbers] for part in (self.votes, self.lengths))
        return EncodedImages(self.hidden[numbers], self.embedding[numbers], votes, lengths)


@dataclass
class EncodedTexts:
    """Texts after their tower: hidden (T, D) packed, embedding (M, D), votes (M, C) or None."""

    texts: Texts
    hidden: Tensor
    embedding: Tensor
    votes: Tensor | None

    def __len__(self) -> int:
        return len(self.texts)

    def pick(self, numbers: Tensor) -> EncodedTexts:
        """Some of the texts, in the order of `numbers` (n,)."""
        lengths = self.texts.lengths[numbers]
        ends = lengths.cumsum(0)
        shift = (self.texts.offsets[numbers] - (ends - lengths)).repeat_interleave(lengths)
        rows = torch.arange(len(shift), device=shift.device) + shift
        ids, positions, roles = (part[rows] for part in (self.texts.ids, self.texts.positions, self.texts.roles))
        votes = None if self.votes is None else self.votes[numbers]
        packed = Texts(ids, positions, roles, torch.cat([ends.new_zeros(1), ends]))
        return EncodedTexts(packed, self.hidden[rows], self.embedding[numbers], votes)


def end_to_end(packs: Sequence[Texts]) -> Texts:
    """Packed rows one after the other."""
    ids, positions, roles = (torch.cat([getattr(one, name) for one in packs]) for name in ("ids", "positions", "roles"))
    lengths = torch.cat([one.lengths for one in packs])
    return Texts(ids, positions, roles, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))
