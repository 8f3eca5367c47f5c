"""A model whose weights no longer change: those of matrix products kept in the dtype they are read in."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from unimo.model.heads import TiedHead
from unimo.model.transformer import ACTIVATIONS
from unimo.model.unified import Unified


def frozen(model: Unified, dtype: torch.dtype) -> Unified:
    """A twin that answers under autocast to `dtype` as the model itself does, to the last bit.

    Autocast makes a copy of every weight at every call, and on a CPU the product one more, laid out as it multiplies;
    for one input both take longer than the product. The twin holds these copies, of linear maps and of the table that
    words are predicted with (half the memory of float32), and shares every other parameter. Later changes of the model
    do not reach the copies.
    """
    shared: dict[int, nn.Parameter] = {id(parameter): parameter for parameter in model.parameters()}
    for part in model.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            for parameter in part.parameters():
                shared[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    twin: Unified = copy.deepcopy(model, shared)
    twin.frozen_word_table = model.word_table().detach().to(dtype)
    if can_pack(dtype, twin.frozen_word_table.device):
        _pack(twin)
    return twin


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch multiplies by weights that are laid out before: with oneDNN, in bf16, on a CPU with AVX-512 or
    better; on AVX2 alone oneDNN refuses."""
    if dtype != torch.bfloat16 or device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    needed = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    return all(hasattr(torch.ops.mkldnn, name) for name in needed) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _pack(twin: Unified) -> None:
    """In place: linear maps, but for an untied table of words, which is read and not called."""
    for part in list(twin.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.Linear) and not (isinstance(part, TiedHead) and name == "table"):
                setattr(part, name, PackedLinear(child))
    twin.language_model = PackedHead(twin.language_model)  # type: ignore[assignment]
    assert twin.frozen_word_table is not None
    twin.frozen_word_table = packed(twin.frozen_word_table)


def packed(weight: Tensor) -> Tensor:
    """(out, in) bf16, laid out as oneDNN multiplies by it; of use to `product` alone."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` in bf16 with a packed weight."""
    x = x.to(torch.bfloat16)
    if not x.numel():
        return x.new_empty(*x.shape[:-1], weight.shape[0])
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class PackedLinear(nn.Module):
    """A linear map with a packed weight: (..., in) -> (..., out) bf16."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = packed(linear.weight), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


class PackedHead(nn.Module):
    """A `TiedHead` to be called with a packed table."""

    def __init__(self, head: TiedHead):
        super().__init__()
        self.transform, self.norm, self.bias, self.table = head.transform, head.norm, head.bias, head.table
        self.act = ACTIVATIONS[head.hidden_act]

    def forward(self, x: Tensor, table: Tensor, rows: Tensor | None = None) -> Tensor:
        bias = self.bias if rows is None else self.bias[rows]
        return product(self.norm(self.act(self.transform(x))), table, bias.to(torch.bfloat16))
