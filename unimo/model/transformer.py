"""The Transformer all towers share: pre-norm in the image tower, post-norm in the text and grounded ones.

    T packed tokens · D width

Spec unimo2 §2.2, §2.3, §2.5; unimo §1.3. Queries, keys and values are one matrix product; converters split and
join it, so that published weights still map one to one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.model.attention import Plan, attend, rounded

if TYPE_CHECKING:
    from unimo.model.kv_cache import KVCache

# `hidden_act` of published configurations; gelu is the exact (erf) form
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}
Kept = list[tuple[Tensor, Tensor]]  # keys and values of every layer, (T, D) each


class Attention(nn.Module):
    """Multi-head self-attention of a packed row. forward: (T, D) -> (T, D); rows beyond the plan's are padding.

    With a KVCache in the plan's place, of one more word a row: (r, D) -> (r, D). kept: takes the keys and values. What
    is returned has still to pass `output`, row by row.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, plan: Plan | KVCache, form: Any = "dense", kept: Kept | None = None) -> Tensor:
        if not isinstance(plan, Plan):
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            return plan.attend(q, k, v)
        q, k, v = (part[: len(plan)] for part in self.qkv(x).chunk(3, dim=-1))
        if kept is not None:
            kept.append((k, v))
        dropout = self.dropout if self.training else 0.0
        out = attend(q, k, v, plan, self.heads, dropout=dropout, form=form)
        return F.pad(out, (0, 0, 0, len(x) - len(plan)))

    def weights(self, x: Tensor, plan: Plan, queries: Tensor) -> Tensor:
        """(H, Q, T) float32 attention weights of tokens `queries` (Q,) over all T of the plan, as `attend` has them."""
        q, k, _ = (part[: len(plan)].unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
        scores = torch.einsum("qhd,thd->hqt", q[queries], k).float() * q.shape[-1] ** -0.5
        allowed = plan.allowed(queries[:, None], torch.arange(len(plan), device=x.device))
        return scores.masked_fill(~allowed, -torch.inf).softmax(-1)


class Layer(nn.Module):
    """Attention, then a feed-forward network, each with a residual and a LayerNorm.

    norm_first: LN before each part (image tower) or after each residual (text and grounded towers). hidden_act: between
    the two maps of the feed-forward network, one of ACTIVATIONS.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        ffn: int,
        *,
        norm_first: bool,
        eps: float,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_act: str = "gelu",
    ):
        super().__init__()
        self.norm_first, self.hidden_act = norm_first, hidden_act
        self.attention = Attention(width, heads, attention_dropout)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.ffn_in = nn.Linear(width, ffn)
        self.ffn_out = nn.Linear(ffn, width)
        self.ffn_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, plan: Plan | KVCache, form: Any = "dense", kept: Kept | None = None) -> Tensor:
        return self.after(x, self.attention(self.attention_norm(x) if self.norm_first else x, plan, form, kept))

    def after(self, x: Tensor, seen: Tensor) -> Tensor:
        """All that follows the attention, which saw `seen`: each row for itself, (n, D) and (n, D) -> (n, D)."""
        x = x + self.dropout(self.attention.output(seen))
        if self.norm_first:
            return x + self.dropout(self.feed_forward(self.ffn_norm(x)))
        x = self.attention_norm(x)
        return self.ffn_norm(x + self.dropout(self.feed_forward(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.ffn_out(ACTIVATIONS[self.hidden_act](self.ffn_in(x)))


class States:
    """The states (T, D) of a packed row after a stack of layers, to be read at some rows.

    Of thousands of rows a few hundred are read: a [CLS], a hidden word. The last layer's attention needs all the
    others, what comes after it needs none, so it is done where it is asked for. layer, seen: that layer and what its
    attention saw, (T, D); None: x are the states. norm: behind it. read: how many rows were worked out so far.
    """

    def __init__(
        self,
        x: Tensor,
        rows: int,
        layer: Layer | None = None,
        seen: Tensor | None = None,
        norm: nn.Module | None = None,
    ):
        self._x, self._rows, self._layer, self._seen, self._norm = x, rows, layer, seen, norm or nn.Identity()
        self.read = 0 if layer is not None else rows

    def __len__(self) -> int:
        return self._rows

    def at(self, rows: Tensor | None) -> Tensor:
        """(k,) -> (k, D); all of them for None."""
        rows = None if rows is None else rows.to(self._x.device, non_blocking=True)
        if self._layer is None or self._seen is None:
            return self._x if rows is None else self._x.index_select(0, rows)
        self.read += len(self) if rows is None else len(rows)
        if rows is None:
            return self._norm(self._layer.after(self._x, self._seen)[: len(self)])
        padding = rows[:1].expand(rounded(len(rows)) - len(rows))
        wanted = torch.cat([rows, padding])
        x, seen = self._x.index_select(0, wanted), self._seen.index_select(0, wanted)
        return self._norm(self._layer.after(x, seen)[: len(rows)])


class Transformer(nn.Module):
    """`depth` layers over a packed row; a pre-norm stack ends with one more LayerNorm. forward: (T, D) -> (T, D)."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        ffn: int | None = None,
        norm_first: bool = False,
        eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_act: str = "gelu",
    ):
        super().__init__()
        if hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act must be one of {', '.join(ACTIVATIONS)}, got {hidden_act!r}")
        self.heads, self.ffn = heads, ffn or 4 * width
        options: dict[str, Any] = {"norm_first": norm_first, "eps": eps, "hidden_act": hidden_act}
        options |= {"dropout": dropout, "attention_dropout": attention_dropout}
        self.layers = nn.ModuleList(Layer(width, heads, self.ffn, **options) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width, eps=eps) if norm_first else None
        self.checkpointing = False  # recompute activations layer by layer in the backward pass

    def forward(self, x: Tensor, plan: Plan, form: Any = "dense", kept: Kept | None = None) -> Tensor:
        """kept: takes the keys and values of every layer, for `step`."""
        x = F.pad(x, (0, 0, 0, plan.rows - len(plan)))
        for layer in self.layers:
            if self.checkpointing and self.training:
                x = torch.utils.checkpoint.checkpoint(layer, x, plan, form, use_reentrant=False)
            else:
                x = layer(x, plan, form, kept)
        x = x[: len(plan)]
        return x if self.final_norm is None else self.final_norm(x)

    def states(
        self, x: Tensor, plan: Plan, form: Any = "dense", kept: Kept | None = None, *, whole: bool = False
    ) -> States:
        """`forward`, with the last layer finished only where its states are read; whole: for every row, as there."""
        if whole or (self.checkpointing and self.training):
            return States(self(x, plan, form, kept), len(plan))
        x = F.pad(x, (0, 0, 0, plan.rows - len(plan)))
        for layer in self.layers[:-1]:
            x = layer(x, plan, form, kept)
        last: Layer = self.layers[-1]  # type: ignore[assignment]
        seen = last.attention(last.attention_norm(x) if last.norm_first else x, plan, form, kept)
        return States(x, len(plan), last, seen, self.final_norm)

    def step(self, x: Tensor, seen: list[KVCache]) -> Tensor:
        """One more word a row, (r, D) -> (r, D), after what `seen` (one a layer) remembers; it remembers this too."""
        for layer, cache in zip(self.layers, seen, strict=True):
            x = layer(x, cache)
        return x if self.final_norm is None else self.final_norm(x)


def init_weights(module: nn.Module, std: float = 0.02) -> None:
    """Truncated normal weights, zero biases, unit LayerNorms (spec §2.1), in place."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding, nn.Conv2d)):
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
            if isinstance(bias := getattr(part, "bias", None), Tensor):
                nn.init.zeros_(bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
