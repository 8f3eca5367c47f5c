"""What is read off the encoded sequences (spec unimo2 §2.6, §4.6).

n rows · D width · V vocabulary · C dictionary
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.model.transformer import ACTIVATIONS


class Pooler(nn.Module):
    """ReLU(W h + b) of a [CLS] state: (n, D) -> (n, D). ReLU, not tanh."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).relu()


class TiedHead(nn.Module):
    """Linear, activation, LayerNorm, then products with a table plus a bias: (n, D) -> (n, rows).

    Over the word table it is the language-model head, over the dictionary the masked-grounding head. It is called on
    supervised rows only, so that V columns are touched nowhere else. hidden_act: that of the encoder, as published.
    tied: the table lives elsewhere (the word embeddings, the dictionary); else it is the head's own `table`,
    (rows, D), published as `mask_lm_out_fc.w_0` (spec unimo §9.3).
    """

    def __init__(self, width: int, rows: int, *, hidden_act: str = "gelu", tied: bool = True):
        super().__init__()
        self.hidden_act = hidden_act
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(rows))
        self.table = None if tied else nn.Linear(width, rows, bias=False)

    def forward(self, x: Tensor, table: Tensor, rows: Tensor | None = None) -> Tensor:
        """rows: the numbers of the table's rows when it is not whole."""
        x = self.norm(ACTIVATIONS[self.hidden_act](self.transform(x)))
        return F.linear(x, table, self.bias if rows is None else self.bias[rows])


class MatchingHead(nn.Module):
    """Image-text matching from both poolers: product (or sum), dropout, logits. forward: -> (n, outputs).

    outputs: 2, class 1 = match; or 1, the score of retrieval as UNIMO's fine-tuning has it (spec unimo §6.6).
    """

    def __init__(self, width: int, dropout: float = 0.1, fusion: str = "product", outputs: int = 2):
        super().__init__()
        if fusion not in ("product", "sum"):
            raise ValueError(f"matching fusion must be product or sum, got {fusion!r}")
        self.fusion = fusion
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, outputs)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        joined = image * text if self.fusion == "product" else image + text
        return self.linear(self.dropout(joined))


class Temperature(nn.Module):
    """A learned divisor of similarities, starting at 0.07 and kept `within` [0.001, 0.5] where it is used (§4.3)."""

    def __init__(self, start: float = 0.07):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([start]))

    def forward(self, similarity: Tensor) -> Tensor:
        return similarity / within(self.value, 0.001, 0.5)


def within(value: Tensor, low: float, high: float) -> Tensor:
    """A learned number within bounds (§2.4, §4.3): `value.clamp(low, high)`, but a gradient that leads back passes.

    A clamp alone has no gradient beyond its bounds, so a number that once stepped over one would never move again. One
    that leads further out does not pass, as in a clamp: the number does not wander off either.
    """
    bounded: Tensor = _Within.apply(value, low, high)
    return bounded


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.bounds = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (value,), (low, high) = ctx.saved_tensors, ctx.bounds
        outward = ((value < low) & (gradient > 0)) | ((value > high) & (gradient < 0))  # a step is against the gradient
        return gradient.masked_fill(outward, 0), None, None
