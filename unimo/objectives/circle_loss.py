"""Circle loss of one right score against wrong ones, as retrieval is fine-tuned (spec unimo §6.6, unimo2 §6.1).

g groups · k wrong candidates of each
"""

from __future__ import annotations

import torch
from torch import Tensor


def circle_loss(right: Tensor, wrong: Tensor, *, margin: float = 0.2, scale: float = 1.0) -> Tensor:
    """(g,), (g, k) -> (g,): log(1 + sum_k exp(scale a_k (wrong_k - m)) exp(-scale b (right - (1 - m)))).

    a = relu(wrong + m) and b = relu(1 + m - right) say how far each score still is from its goal; they carry no
    gradient. Exponentials are float64, as released: scores are not bounded.
    """
    right, wrong = right.double(), wrong.double()
    push = (wrong.detach() + margin).relu() * (wrong - margin) * scale
    pull = (1 + margin - right.detach()).relu() * (right - (1 - margin)) * scale
    return (push.exp().sum(-1) * (-pull).exp()).log1p().float()


def two_sided(scores: Tensor, *, margin: float = 0.2, scale: float = 1.0) -> Tensor:
    """(g, 1 + 2k) scores -> (g,): the right pair first, k other images, k other captions; the mean of both losses."""
    right, images, captions = scores[:, 0], *scores[:, 1:].chunk(2, dim=1)
    losses = [circle_loss(right, wrong, margin=margin, scale=scale) for wrong in (images, captions)]
    return torch.stack(losses).mean(0)
