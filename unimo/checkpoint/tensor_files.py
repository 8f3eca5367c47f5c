"""The groups of tensors as safetensors: written in pieces, read as copies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unimo.checkpoint.layout import CHUNK
from unimo.errors import UsageError, WeightsError

_MAX_HEADER = 16 << 20  # names and shapes of about 100,000 tensors
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.bool: "BOOL", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16",
    torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip


def safetensors_pieces(named: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The safetensors format in pieces: header size (8 bytes), JSON header, raw tensors without gaps.

    Written here rather than by the library because that would hold every byte once more in memory and open
    the file itself, out of reach of fault injection. Reading is left to the library; the tests compare the
    two.
    """
    # Widest types first, as the library does, so that each tensor starts at a multiple of its item size.
    order = sorted(named, key=lambda name: (-named[name].itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        tensor = named[name]
        start, end = end, end + tensor.numel() * tensor.itemsize
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise UsageError("too many tensors in one group", got=f"{len(named)} tensors", do="split the group")
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        raw = named[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        for piece in raw.split(CHUNK) if raw.numel() else ():
            yield memoryview(piece.numpy())


def read_tensors(path: Path, device: str) -> dict[str, Tensor]:
    """Copies, so that nothing stays mapped to a file that may be purged."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > _MAX_HEADER:
        raise WeightsError("header too large", where=path, got=f"{header} bytes", expected=f"at most {_MAX_HEADER}")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as fault:
        raise WeightsError("not a valid safetensors file", where=path, got=fault) from fault
