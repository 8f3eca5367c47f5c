"""The .safetensors writer against the library's own, and how little it holds."""

import tracemalloc

import pytest
import safetensors.torch
import torch

from unimo.disk import write_new
from unimo.errors import UsageError
from unimo.safetensors_files import DTYPE_NAMES, safetensors_pieces

DTYPES = [getattr(torch, name) for name in DTYPE_NAMES]


def file_of(named):
    return b"".join(safetensors_pieces(named, where="model"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_one_type_are_the_bytes_that_the_library_writes(dtype):
    named = {name: torch.arange(60).reshape(3, 20).to(dtype) for name in ("b", "a", "c.weight")}
    named |= {"none": torch.zeros(0, 4, dtype=dtype), "scalar": torch.tensor(3).to(dtype)}
    assert file_of(named) == safetensors.torch.save(named, metadata={"format": "pt"})


def test_tensors_of_all_types_lie_aligned_and_come_back():
    draw = torch.Generator().manual_seed(0)
    named = {f"{i} ü": (torch.rand(i + 1, 3, generator=draw) * 50).to(dtype) for i, dtype in enumerate(DTYPES)}
    named["transposed"] = torch.rand(5, 7, generator=draw).T
    found = safetensors.torch.load(file_of(named))
    assert found.keys() == named.keys()
    assert all(found[name].dtype == x.dtype and torch.equal(found[name], x) for name, x in named.items())


def test_a_type_the_format_has_not_is_refused_by_name():
    with pytest.raises(UsageError, match=r"model: phase.*complex128"):
        file_of({"x": torch.ones(2), "phase": torch.ones(2, dtype=torch.complex128)})


def test_a_file_is_written_without_a_copy_of_the_whole(tmp_path):
    named = {f"layer {i}": torch.ones(1024, 256) for i in range(32)}
    whole = sum(x.nbytes for x in named.values())
    tracemalloc.start()
    write_new(tmp_path / "model.safetensors", safetensors_pieces(named, where="model"))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < whole / 16
    found = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], x) for name, x in named.items())
