"""What attention has seen while a text is written word by word: keys and values, kept instead of computed again.

    n sequences · L longest prefix · r rows being written · b most rows of a sequence · t words written so far
    D width · H heads

Several rows may continue the same sequence (the hypotheses of a beam, many captions of one image). Its prefix is kept
once and never copied: all its rows ask it in one product, as a rectangle (n, b).
"""

from __future__ import annotations

import torch
from torch import Tensor


class Rows:
    """Which sequence each of r rows continues. owner: (r,), the sequences numbered 0 to n - 1, each with a row."""

    def __init__(self, n: int, device: torch.device | str = "cpu"):
        self._lay_out(torch.arange(n, device=device))

    def _lay_out(self, owner: Tensor) -> Tensor:
        """Numbers the sequences anew; returns the old number of each."""
        live, self.owner, counts = owner.unique(return_inverse=True, return_counts=True)
        self.shape = len(live), int(counts.max()) if len(counts) else 0
        order = self.owner.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=owner.device) - (counts.cumsum(0) - counts)[self.owner[order]]
        self.slots = self.owner * self.shape[1] + place
        in_order = torch.arange(self.shape[0] * self.shape[1], device=owner.device)
        self.even = torch.equal(self.slots, in_order)  # then the rectangle is the rows themselves
        return live

    def follow(self, parents: Tensor) -> Tensor | None:
        """From now on row i goes on where row parents[i] was. The sequences that are left, or None: all."""
        before, live = self.shape[0], self._lay_out(self.owner[parents])
        return None if len(live) == before else live

    def rectangle(self, x: Tensor) -> Tensor:
        """(r, ...) -> (n, b, ...), zeros where a sequence has fewer rows."""
        n, b = self.shape
        flat = x if self.even else x.new_zeros(n * b, *x.shape[1:]).index_copy_(0, self.slots, x)
        return flat.unflatten(0, (n, b))

    def flat(self, x: Tensor) -> Tensor:
        """(n, b, ...) -> (r, ...)."""
        x = x.flatten(0, 1)
        return x if self.even else x.index_select(0, self.slots)


class KVCache:
    """Keys and values of one layer. keys, values: (T, D), the packed row a prefix pass left.

    starts, lengths: (n,) where each sequence's prefix lies in that row. rows: one a sequence at first; all layers have
    the same.
    """

    def __init__(self, keys: Tensor, values: Tensor, starts: Tensor, lengths: Tensor, rows: Rows, heads: int):
        place = torch.arange(int(lengths.max()) if len(lengths) else 0, device=keys.device)
        real = place < lengths[:, None]  # (n, L)
        taken = torch.where(real, starts[:, None] + place, 0)
        # (n, H, L, D/H): as products read them, or they would be copied at every word
        self.keys, self.values = (
            x[taken].unflatten(-1, (heads, -1)).transpose(1, 2).contiguous() for x in (keys, values)
        )
        self.unreal = None if bool(real.all()) else ~real[:, None, None]
        self.rows, self.heads = rows, heads
        self.written_keys = self.written_values = self.keys.new_zeros(len(starts), heads, 0, self.keys.shape[-1])

    def follow(self, parents: Tensor, live: Tensor | None) -> None:
        """As `Rows.follow`, which was called before and returned `live`."""
        self.written_keys, self.written_values = self.written_keys[parents], self.written_values[parents]
        if live is not None:
            self.keys, self.values = self.keys[live], self.values[live]
            self.unreal = None if self.unreal is None else self.unreal[live]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One more word a row, (r, D) each: remembered, then shown everything remembered. -> (r, D)."""
        q, k, v = (x.to(self.keys.dtype).unflatten(-1, (self.heads, 1, -1)) for x in (q, k, v))  # (r, H, 1, D/H)
        self.written_keys = torch.cat([self.written_keys, k], dim=2)
        self.written_values = torch.cat([self.written_values, v], dim=2)
        q, prefix = q * q.shape[-1] ** -0.5, self.keys.shape[2]
        before = self._by_sequence(q[:, :, 0]) @ self.keys.transpose(-1, -2)  # (n, H, b, L)
        if self.unreal is not None:
            before = before.masked_fill(self.unreal, float("-inf"))
        own = (q @ self.written_keys.transpose(-1, -2))[:, :, 0]
        scores = torch.cat([self._by_row(before), own], dim=-1).float()  # (r, H, L + t)
        weights = scores.softmax(-1).to(v.dtype)
        seen = self._by_row(self._by_sequence(weights[..., :prefix]) @ self.values)
        return (seen + (weights[:, :, None, prefix:] @ self.written_values)[:, :, 0]).flatten(1)

    def _by_sequence(self, x: Tensor) -> Tensor:
        """(r, H, ...) -> (n, H, b, ...)."""
        return self.rows.rectangle(x).transpose(1, 2)

    def _by_row(self, x: Tensor) -> Tensor:
        return self.rows.flat(x.transpose(1, 2))


def caches(kept: list[tuple[Tensor, Tensor]], starts: Tensor, lengths: Tensor, rows: Rows, heads: int) -> list[KVCache]:
    """One memory a layer, from what a prefix pass kept."""
    return [KVCache(keys, values, starts, lengths, rows, heads) for keys, values in kept]
