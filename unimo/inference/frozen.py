"""A model whose weights no longer change: those of matrix products kept in the dtype they are read in."""

from __future__ import annotations

import copy

import torch
from torch import nn

from unimo.model.unified import Unified


def frozen(model: Unified, dtype: torch.dtype) -> Unified:
    """A twin that answers under autocast to `dtype` as the model itself does, to the last bit.

    Autocast makes a copy of every weight at every call; for one input that takes as long as the products. The twin
    holds these copies, of linear maps and of the table that words are predicted with (half the memory of float32), and
    shares every other parameter. Later changes of the model do not reach the copies.
    """
    shared: dict[int, nn.Parameter] = {id(parameter): parameter for parameter in model.parameters()}
    for part in model.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            for parameter in part.parameters():
                shared[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    twin: Unified = copy.deepcopy(model, shared)
    twin.frozen_word_table = model.word_table().detach().to(dtype)
    return twin
