"""Cross-entropy of a linear map's outputs, with the gradient of the logits made in the same pass.

    n rows · D width · V outputs

The plain form, `F.cross_entropy(F.linear(x, table, bias).float(), labels)`, goes ten times over n x V numbers beside
its products: a float32 copy, the log-softmax kept for the backward pass, a gradient filled with zeros before it is
gathered. With a vocabulary of 50,265 words that is a quarter of a training step of a small model. Here a few rows at a
time, few enough for the processor's cache, become their own gradient: n x V in the products' precision, and nothing
else, is kept.

`torch.nn.functional.linear_cross_entropy` knows no label smoothing in chunks and does not tell which rows were right.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from unimo.model.transformer import in_product_precision

IGNORE_INDEX = -100  # label of rows without a loss, as in F.cross_entropy
CACHED = 2**20  # logits in a chunk on a CPU: 4 MB in float32
LAUNCHED = 2**26  # on a GPU, where a chunk costs some ten kernels


def linear_cross_entropy(
    x: Tensor, table: Tensor, bias: Tensor, labels: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of `x @ table.T + bias`, and the number of rows whose label scores highest.

    x: (n, D). table: (V, D). bias: (V,). labels: (n,) from 0 to V - 1, or IGNORE_INDEX. smoothing: fraction of each
    label that is spread over all V. Products in autocast's precision, all else in float32.
    """
    x, table = in_product_precision(x), in_product_precision(table)
    total, right = _LinearCrossEntropy.apply(x, table, bias, labels, smoothing)
    return total, right


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, bias: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        logits = F.linear(x, table, bias.to(x.dtype))
        differentiated = any(ctx.needs_input_grad)
        total, right, summed = (torch.zeros(shape, device=x.device) for shape in ((), (), len(bias)))
        size = max(1, (LAUNCHED if x.is_cuda else CACHED) // max(1, len(bias)))
        for part, own in zip(logits.split(size), labels.split(size)):
            loss, hits, probabilities = _losses(part.float(), own, smoothing)
            total, right = total + loss, right + hits
            if differentiated:
                gradient = _gradient(probabilities, own, smoothing)
                summed += gradient.sum(0)
                part.copy_(gradient)
        if differentiated:
            ctx.save_for_backward(x, table, logits, summed.to(bias.dtype))
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, table, gradient, summed = ctx.saved_tensors
        # The scale falls on the small factor of each product, never on n x V numbers.
        return (gradient @ table) * scale, gradient.mT @ (x * scale), summed * scale, None, None


def _losses(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """The summed loss of float32 logits (k, V), the number of right answers, and the probabilities (k, V)."""
    counted, column = labels != IGNORE_INDEX, labels.clamp_min(0)[:, None]
    highest, score = logits.amax(-1), logits.gather(1, column)[:, 0]
    probabilities = logits.softmax(-1)
    normaliser = highest - probabilities.amax(-1).log()  # logsumexp, without another pass of exponentials
    losses = normaliser - (1 - smoothing) * score
    if smoothing:
        losses = losses - smoothing * logits.mean(-1)
    return torch.where(counted, losses, 0.0).sum(), _right(logits, labels, score == highest), probabilities


def _right(logits: Tensor, labels: Tensor, highest: Tensor) -> Tensor:
    """How many rows' first highest logit is their label's. highest: (k,) whether the label's is as high as any."""
    if not logits.is_cuda:  # there argmax is as slow as a softmax, but no kernel waits for `nonzero`
        rows = highest.nonzero()[:, 0]
        logits, labels = logits[rows], labels[rows]
    return (logits.argmax(-1) == labels).sum()


def _gradient(probabilities: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """The gradient of the summed loss by the logits, in the place of their probabilities."""
    column = labels.clamp_min(0)[:, None]
    if smoothing:
        probabilities -= smoothing / probabilities.shape[1]
    probabilities.scatter_(1, column, probabilities.gather(1, column) - (1 - smoothing))
    return probabilities.mul_((labels != IGNORE_INDEX)[:, None])
