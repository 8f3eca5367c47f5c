"""The .safetensors format, written and read, and what every tensor that enters a model must be: dense and finite.

A file is a header of JSON and then the bytes of each array. It is written array by array: the library's own `save`
holds a file twice in memory before it writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unimo.disk import Bytes
from unimo.errors import UsageError, WeightsError

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
)  # fmt: skip


# Names of dtypes in numpy and torch -> in the format.
DTYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL"} | {
    f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (64, 32, 16, 8)
}
_PIECE, _SMALL = 1 << 22, 1 << 16  # numbers read from a file before it is opened again; those of a small tensor


def safetensors_header(arrays: Iterable[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the arrays. arrays: name, dtype (as in DTYPE_NAMES), shape, bytes; largest dtypes first."""
    layout: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, kind, shape, size in arrays:
        layout[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(layout, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format's own rule of alignment
    return len(text).to_bytes(8, "little") + text


def safetensors_pieces(named: Mapping[str, Tensor], *, where: str) -> Iterator[Bytes]:
    """A file of tensors, in pieces: the header, then each tensor. UsageError for an element type it has not."""
    order = sorted(named, key=lambda name: (-named[name].itemsize, name))
    kinds = {name: str(named[name].dtype).removeprefix("torch.") for name in order}
    if odd := next((name for name in order if kinds[name] not in DTYPE_NAMES), None):
        raise UsageError(
            "a tensor cannot be saved", where=f"{where}: {odd}", got=kinds[odd], expected=", ".join(DTYPE_NAMES)
        )
    sizes = ((name, DTYPE_NAMES[kinds[name]], named[name].shape, named[name].nbytes) for name in order)
    yield safetensors_header(sizes, {"format": "pt"})
    for name in order:
        yield named[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def copied_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Name -> tensor of a .safetensors file. Copies, so that nothing stays mapped to a file that may be removed.

    The library maps the file into memory, so it is opened piece by piece, the largest tensors first: at no time much
    more than the weights lies in memory. Small ones come before all others: they lie scattered, and what is around
    each is mapped too. Raises what the library does.
    """
    with safe_open(path, framework="pt", device=device) as file:
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    found: dict[str, Tensor] = {}
    waiting = sorted(sizes, key=lambda name: (sizes[name] < _SMALL, sizes[name]))  # what is read first stands last
    while waiting:
        with safe_open(path, framework="pt", device=device) as file:
            room = _PIECE
            while waiting and room > 0:
                name = waiting.pop()
                found[name] = file.get_tensor(name).clone()
                room -= sizes[name]
    return {name: found[name] for name in sizes}


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
