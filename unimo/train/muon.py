"""Muon: momentum, made orthogonal. For the matrices inside Transformer layers (Jordan et al. 2024).

    n matrices of one shape · A, B their sides

The same rule as `torch.optim.Muon`, whose answers it gives (tests/train/test_muon.py), and whose state a checkpoint may
hold. torch orthogonalises one matrix after the other, in bf16, which some CPUs emulate. Here matrices of one shape are
one batched product, in bf16 where the machine multiplies it fast, else in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from unimo.machine import autocast_dtype

# Jordan et al. 2024: the odd polynomial whose slope at zero is steepest; five times over, singular values between about
# 0.002 and 1 come to lie between about 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, as long as an update of Adam (Liu et al. 2025, arXiv:2502.16982): one rate and
    one weight decay serve both. params: matrices, or groups of them; each moves with its group's "lr". A group's
    "parts" (1): each matrix is that many of equal height on top of each other, and each is orthogonalised by itself.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float = 0.1, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "parts": 1})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon moves matrices, got a parameter of shape {tuple(parameter.shape)}")
                if len(parameter) % group["parts"]:
                    raise ValueError(f"{len(parameter)} rows are not {group['parts']} matrices of equal height")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        assert closure is None, "the loss is worked out by the caller"
        for group in self.param_groups:
            alike: dict[tuple[Any, ...], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._momentum(parameter, parameter.grad, group["momentum"])
                    for pair in zip(parameter.chunk(group["parts"]), update.chunk(group["parts"])):
                        alike.setdefault((pair[0].shape, parameter.device), []).append(pair)
            for (shape, _), rows in alike.items():
                length = 0.2 * max(shape) ** 0.5
                dtype = fast_dtype(rows[0][0].device)
                for (parameter, _), update in zip(rows, orthogonal(torch.stack([one for _, one in rows]), dtype)):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * length)

    def _momentum(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        kept: Tensor = state["momentum_buffer"]
        kept.lerp_(gradient, 1 - momentum)
        return gradient.lerp(kept, momentum)


fast_dtype = cache(partial(autocast_dtype, "auto"))  # of a device


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Each matrix with all singular values made (nearly) one, its singular vectors kept: (n, A, B) -> (n, A, B).

    A Newton-Schulz iteration. dtype: of its products.
    """
    if matrices.shape[1] > matrices.shape[2]:  # the square in the middle shall be the small one
        return orthogonal(matrices.mT, dtype).mT
    a, b, c = COEFFICIENTS
    x = matrices.float()
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)).to(dtype)  # no singular value above one
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)
