"""What is not saved: refused before anything is written."""

from __future__ import annotations

import itertools
import re

import torch
from torch import Tensor

from unimo.checkpoint.layout import FORMAT_VERSION
from unimo.checkpoint.tensor_files import DTYPES
from unimo.errors import NumericsError, UsageError

_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def check_arguments(step: int, tensors: dict[str, dict[str, Tensor]], keep: int, format_version: int) -> None:
    if type(step) is not int or step < 0:
        raise UsageError("a checkpoint needs the step it was taken at", got=step, expected="a whole number >= 0")
    if keep < 2:
        raise UsageError("too few checkpoints kept", where="keep", got=keep, expected="at least 2: one may rot")
    if not 1 <= format_version <= FORMAT_VERSION:
        raise UsageError("unknown checkpoint format", got=format_version, expected=f"1 to {FORMAT_VERSION}")
    for group, named in tensors.items():
        if not _GROUP.fullmatch(group):
            raise UsageError("a group's name becomes a file name", got=group, expected="letters, digits, _ and -")
        for name, tensor in named.items():
            kind = "not a tensor" if not isinstance(tensor, Tensor) else None
            if kind is None and (tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype not in DTYPES):
                kind = f"{tensor.dtype} {tensor.layout} on {tensor.device}"
            if kind or name == "__metadata__":
                raise UsageError(
                    "a tensor cannot be saved",
                    where=f"{group}: {name}",
                    got=kind or name,
                    expected="a dense tensor of float, integer or bool",
                )


def refuse_shared_memory(tensors: dict[str, dict[str, Tensor]]) -> None:
    """Two names for one memory would come back as two tensors, and a tie would silently be cut."""
    for group, named in tensors.items():
        spans = []  # (storage, first byte, end byte, name)
        for name, tensor in named.items():
            if tensor.numel():
                first = tensor.storage_offset() * tensor.itemsize
                reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
                storage = tensor.untyped_storage().data_ptr()
                spans.append((storage, first, first + (reach + 1) * tensor.itemsize, name))
        spans.sort()
        for one, other in itertools.pairwise(spans):
            if one[0] == other[0] and other[1] < one[2]:
                raise UsageError(
                    "two tensors share memory",
                    where=f"{group}: {one[3]} and {other[3]}",
                    expected="every tensor once",
                    do="leave one of them out and tie it again after loading",
                )


def refuse_non_finite(tensors: dict[str, dict[str, Tensor]]) -> None:
    for group, named in tensors.items():
        for name, tensor in named.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                bad = int((~torch.isfinite(tensor)).sum())
                raise NumericsError(
                    "a tensor is not finite; nothing was saved",
                    where=f"{group}: {name}",
                    got=f"{bad} of {tensor.numel()} values NaN or infinite",
                    expected="finite values",
                    do="go back to the last checkpoint; a lower learning rate often helps",
                )
