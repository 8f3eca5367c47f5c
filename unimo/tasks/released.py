"""The mechanics that the released fine-tuning scripts share (spec unimo §6.1)."""

from __future__ import annotations

from typing import Literal

from unimo.optimiser import Optimiser


def adam(
    rate: float,
    *,
    warmup: float = 0.06,
    weight_decay: float = 0.0,
    beta2: float = 0.98,
    decay: Literal["unimo", "unimo2", "piecewise"] = "unimo",
) -> Optimiser:
    """Adam with epsilon 1e-6, clipping at 1, and by default the line that is not shifted by its warm-up."""
    return Optimiser(rate=rate, warmup=warmup, decay=decay, beta2=beta2, epsilon=1e-6, weight_decay=weight_decay)
