"""Gradient cache: towers that hold the activations of one chunk of a batch, not of all of it (Gao et al. 2021).

    N images · P patches · M texts · T packed tokens · D width

A contrastive loss needs the features of the whole batch, but not the activations behind them: each chunk is encoded
once for its features, and again in the backward pass when its gradient has come (arXiv:2101.06983). The random numbers
of dropout are replayed. Memory then grows with features alone; the towers' forward pass is done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unimo.batch import Batch, Texts

if TYPE_CHECKING:
    from unimo.model.unimo2 import UNIMO2


def encode_in_chunks(model: UNIMO2, batch: Batch, size: int, *, recompute: bool = True) -> tuple[Tensor, Tensor]:
    """Both towers, `size` images or texts at a time: (N, 1 + P, D) and (T, D).

    recompute: false is the plain form, in which the activations of all chunks are held.
    """

    def encode(function: Callable[..., Tensor], *given: Any) -> Tensor:
        return checkpoint(function, *given, use_reentrant=False) if recompute else function(*given)

    def encode_texts(ids: Tensor, texts: Texts) -> Tensor:  # a tensor among the arguments tells whose dropout it is
        return model.encode_texts(texts)

    images = [encode(model.encode_images, chunk) for chunk in batch.pixels.split(size)]
    words = [encode(encode_texts, chunk.ids, chunk) for chunk in split(batch.texts, size)]
    return torch.cat(images), torch.cat(words)


def split(texts: Texts, size: int) -> Iterator[Texts]:
    """The texts in groups of `size`, in order; one group where there are none."""
    edges = [*range(0, len(texts), size), len(texts)] if len(texts) else [0, 0]
    for first, last in pairwise(edges):
        chunk = _slice(texts, texts.host, first, last)
        if texts.host is not texts:
            chunk.__dict__["_sent_from"] = _slice(texts.host, texts.host, first, last)
        yield chunk


def _slice(texts: Texts, host: Texts, first: int, last: int) -> Texts:
    """Texts [first, last)."""
    begin, end = host.offsets[[first, last]].tolist()
    of_tokens = {f.name: getattr(texts, f.name) for f in fields(texts) if f.name != "offsets"}
    cut: dict[str, Any] = {name: None if values is None else values[begin:end] for name, values in of_tokens.items()}
    return Texts(**cut, offsets=texts.offsets[first : last + 1] - begin)
