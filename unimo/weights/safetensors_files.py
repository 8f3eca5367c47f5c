"""Reader of .safetensors files, and what every tensor that enters a model must be: dense, on the CPU, finite."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unimo.checkpoint import copied_tensors
from unimo.errors import WeightsError

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
)  # fmt: skip


def expect(holds: bool, where: object, what: str, got: object = None, expected: object = None) -> None:
    """WeightsError unless it holds."""
    if not holds:
        raise WeightsError(what, where=where, got=got, expected=expected)


def shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a .safetensors file: its header alone is read. Raises as `read_safetensors`."""
    expect(Path(path).is_file(), path, "no such file", expected="a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as fault:
        raise WeightsError("not a safetensors file", where=path, got=fault) from fault


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, all finite. Raises WeightsError for what is no such file or does not fit its own header."""
    try:
        return usable(copied_tensors(path), path)
    except OSError as fault:
        raise WeightsError("cannot read the weights", where=path, got=fault.strerror) from fault
    except (SafetensorError, AttributeError, TypeError) as fault:  # or an element type that torch has not
        raise WeightsError("not a safetensors file", where=path, got=fault) from fault


def usable(found: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors of numbers, dense, on the CPU, finite: or a WeightsError that names the first that is not."""
    for name, tensor in found.items():
        where = f"{path}, {name}"
        expect(isinstance(name, str), where, "a name that is not text", type(name).__name__)
        expect(isinstance(tensor, Tensor), where, "an entry that is no tensor", type(tensor).__name__)
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in DTYPES
        kind = f"{tensor.dtype} {tensor.layout} on {tensor.device}"
        expect(plain, where, "not a tensor of plain numbers", kind, ", ".join(map(str, DTYPES)))
        held = tensor.untyped_storage().nbytes()
        expect(tensor.nbytes <= held, where, "a tensor larger than its data", tuple(tensor.shape))
        if tensor.is_floating_point() and tensor.numel():
            low, high = tensor.aminmax()  # passes NaN on, and needs no copy
            finite = bool(low.isfinite() and high.isfinite())
            expect(finite, where, "values that are not finite", f"from {low} to {high}", "finite values")
    return {name: tensor.detach() for name, tensor in found.items()}
