"""A learned number that is used within bounds and never gets stuck beyond them (spec unimo2 §2.4, §4.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def within(value: Tensor, low: float, high: float) -> Tensor:
    """`value.clamp(low, high)`, but a gradient that leads back into the bounds passes.

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
