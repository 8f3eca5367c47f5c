"""What attention has seen while a text is written word by word: keys and values, kept instead of computed again.

    n sequences · L longest prefix · r rows being written · t words written so far · D width · H heads

Several rows may continue the same sequence (the hypotheses of a beam, many captions of one image): its prefix is
kept once.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values of one layer. keys, values: (T, D), the packed row a prefix pass left.

    starts, lengths: (n,) where each sequence's prefix lies in that row. Rows begin as one a sequence.
    """

    def __init__(self, keys: Tensor, values: Tensor, starts: Tensor, lengths: Tensor):
        place = torch.arange(int(lengths.max()) if len(lengths) else 0, device=keys.device)
        real = place < lengths[:, None]  # (n, L)
        rows = torch.where(real, starts[:, None] + place, 0)
        n, width = len(starts), keys.shape[-1]
        self.keys = keys[rows.flatten()].view(n, len(place), width)
        self.values = values[rows.flatten()].view(n, len(place), width)
        self.unreal = ~real
        self.owner = torch.arange(n, device=keys.device)
        self.written_keys = self.written_values = keys.new_zeros(n, 0, width)

    def follow(self, parents: Tensor) -> None:
        """From now on row i goes on where row parents[i] was."""
        self.owner = self.owner[parents]
        self.written_keys, self.written_values = self.written_keys[parents], self.written_values[parents]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """One more word a row, (r, D) each: remembered, then shown everything remembered. -> (r, D)."""
        self.written_keys = torch.cat([self.written_keys, k.to(self.keys.dtype)[:, None]], dim=1)
        self.written_values = torch.cat([self.written_values, v.to(self.keys.dtype)[:, None]], dim=1)
        keys = torch.cat([self.keys[self.owner], self.written_keys], dim=1)
        values = torch.cat([self.values[self.owner], self.written_values], dim=1)
        q, keys, values = (
            x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q.to(keys.dtype)[:, None], keys, values)
        )
        scores = ((q * q.shape[-1] ** -0.5) @ keys.transpose(-1, -2)).float()  # (r, H, 1, L + t)
        scores[..., : self.unreal.shape[1]].masked_fill_(self.unreal[self.owner][:, None, None], float("-inf"))
        return (scores.softmax(-1).to(values.dtype) @ values).transpose(1, 2).flatten(1)


def caches(kept: list[tuple[Tensor, Tensor]], starts: Tensor, lengths: Tensor) -> list[KVCache]:
    """One memory a layer, from what a prefix pass kept."""
    return [KVCache(keys, values, starts, lengths) for keys, values in kept]
