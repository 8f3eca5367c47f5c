"""Weight files of every kind: what others wrote is read; a hostile file is refused, runs nothing and eats nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from weights.hostile_files import (
    CASES,
    GOOD,
    ONES,
    PART,
    Files,
    archive,
    entry,
    headed,
    legacy,
    made,
    payloads,
    program,
    programs,
    saved,
    tensors,
)
from weights.test_paddle import variable

from unimo.errors import WeightsError
from unimo.weights.files import read
from unimo.weights.paddle import max_description


def same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape, name
        assert torch.equal(got[name], tensor) and not got[name].requires_grad, name


# ---- files of the usual writers


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".pth"])
def test_files_of_the_usual_writers(tmp_path, suffix):
    path = tmp_path / f"my weights (best){suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(tensors(), path)
    same(read(path), tensors())


def test_what_torch_saves_of_a_module(tmp_path):
    """OrderedDict with a version for each module, parameters, shared and transposed tensors, long memo numbers."""
    module = torch.nn.Sequential(*(torch.nn.Linear(3, 5) for _ in range(90)), torch.nn.LayerNorm(5))
    module[1].weight = module[0].weight
    state = module.state_dict(keep_vars=True)
    state["transposed"], state["part"] = torch.arange(6.0).reshape(2, 3).T, torch.arange(9.0)[2:4]
    torch.save(state, tmp_path / "w.bin")
    same(read(tmp_path / "w.bin"), {name: tensor.detach() for name, tensor in state.items()})


@pytest.mark.parametrize(("kind", "save"), [("safetensors", safetensors.torch.save_file), ("bin", torch.save)])
def test_folders_in_hugging_face_format(tmp_path, kind, save):
    whole = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    one, two = tensors(), {f"more.{name}": tensor + 1 for name, tensor in tensors(1).items()}
    (tmp_path / "config.json").write_text("{}")
    shards = [f"{Path(whole).stem}-0000{i}-of-00002.{kind}" for i in (1, 2)]
    save(one, tmp_path / shards[0])
    save(two, tmp_path / shards[1])
    places = dict.fromkeys(one, shards[0]) | dict.fromkeys(two, shards[1])
    (tmp_path / f"{whole}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    same(read(tmp_path), {**one, **two})
    save(one, tmp_path / whole)  # a whole file goes before shards
    same(read(tmp_path), one)
    safetensors.torch.save_file(tensors(2), tmp_path / "model.safetensors")  # and safetensors before all
    same(read(tmp_path), tensors(2))


def test_links_of_the_hubs_cache(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abcd"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file(tensors(), blobs / "4567")
    (snapshot / "model.safetensors").symlink_to("../../blobs/4567")
    same(read(snapshot), tensors())


# ---- refused, nothing run, nothing eaten


def test_the_parts_make_good_files_when_nothing_is_wrong(tmp_path):
    """Otherwise the refusals below would say nothing."""
    (tmp_path / "w.bin").write_bytes(archive(program(made(), made(), names="ab")))
    (tmp_path / "w.safetensors").write_bytes(headed({"a": entry(), "b": entry(16, 32)}, ONES * 2))
    for name in ("w.bin", "w.safetensors"):
        same(read(tmp_path / name), {"a": torch.ones(4), "b": torch.ones(4)})


@pytest.mark.parametrize("label", payloads(Path("x")))
def test_the_payloads_are_live(tmp_path, label):
    """The harness can fail: an ordinary unpickler runs each of them."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps({"a": payloads(marker)[label]}))
    assert marker.exists()


# ---- payloads: refused and never executed

CONTAINERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "pdparams": ("w.pdparams", lambda code: code),
    "zip": ("pytorch_model.bin", archive),
    "old bin": ("w.bin", lambda code: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + code),
    "bare bin": ("w.bin", lambda code: code),
    "safetensors": ("model.safetensors", lambda code: code),
    "paddle variable": ("w_0", lambda code: code),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("label", programs(Path("x")))
def test_payloads_are_refused_and_never_executed(tmp_path, label, container):
    name, wrap = CONTAINERS[container]
    refused(tmp_path, {name: wrap(programs(tmp_path / "marker")[label])}, None if name == "w_0" else name)


@pytest.mark.parametrize("save", [saved, legacy])
def test_payloads_beside_tensors_of_torch_are_never_executed(tmp_path, save):
    for label, payload in payloads(tmp_path / "marker").items():
        refused(tmp_path / label, {"w.bin": save({"a": torch.ones(2), "b": payload})}, "w.bin")
        assert not (tmp_path / "marker").exists()


def address_space() -> int:
    """The most this process ever had mapped, in bytes: what torch asks for, even where it never touches it."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmPeak"))
    return int(line.split()[1]) << 10


@contextlib.contextmanager
def at_most(size: int, *, python: int = 1 << 20, mapped: int = 256 << 20):
    """Memory while reading: at most `size` beyond these constants (imports and tables; arenas of the allocator)."""
    before = address_space()
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= size + python, f"{peak} bytes in Python for {size}"
    assert address_space() - before <= size + mapped, f"{address_space() - before} bytes mapped for {size}"


@pytest.fixture(scope="module", autouse=True)
def imported_once(tmp_path_factory):
    """What torch imports at its first load is not the file's."""
    path = tmp_path_factory.mktemp("warm") / "w.bin"
    torch.save(tensors(), path)
    read(path)


def refused(folder: Path, files: Files, name: str | None) -> WeightsError:
    """Writes the files and reads one, or their folder: a WeightsError that says where, little memory, no marker."""
    inside = folder / "weights"
    inside.mkdir(parents=True)
    for file, data in files.items():
        (inside / file).write_bytes(data)
    path = inside / name if name else inside
    with at_most(2 * sum(map(len, files.values()))), pytest.raises(WeightsError) as caught:
        read(path)
    assert str(path) in str(caught.value.where)
    assert not (folder / "marker").exists()
    return caught.value


@pytest.mark.parametrize("case", CASES)
def test_hostile_files_are_refused(tmp_path, case):
    name, files = CASES[case]
    error = refused(tmp_path, files, name)
    if case.startswith("PaddleNLP"):
        assert "another network" in error.what and "WordPiece" in error.do


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "w_0"])
def test_links_pipes_and_folders_are_no_weight_files(tmp_path, name):
    (tmp_path / "outside.safetensors").write_bytes(PART)
    for target in ("../outside.safetensors", "/dev/zero", name, "../absent", "pipe", "folder"):
        folder = tmp_path / f"of {Path(target).name}"
        folder.mkdir()
        if target == "pipe":
            os.mkfifo(folder / name)
        elif target == "folder":
            (folder / name).mkdir()
        else:
            (folder / name).symlink_to(target)
        with at_most(0), pytest.raises(WeightsError) as caught:
            read(folder)
        assert str(folder) in str(caught.value.where)


def test_the_old_container_is_refused_with_a_way_out(tmp_path):
    error = refused(tmp_path, {"w.bin": legacy({"a": torch.ones(2)})}, "w.bin")
    assert "zip" in error.what and "torch.save(torch.load(" in error.do
    torch.save(torch.load(tmp_path / "weights" / "w.bin", weights_only=True), tmp_path / "new.bin")
    same(read(tmp_path / "new.bin"), {"a": torch.ones(2)})


def test_errors_say_which_tensor(tmp_path):
    spoilt = {"good": torch.ones(2), "layer.3.bias": torch.tensor([1.0, float("nan")])}
    error = refused(tmp_path, {"w.safetensors": safetensors.torch.save(spoilt)}, "w.safetensors")
    assert "not finite" in error.what and str(error.where).endswith("w.safetensors, layer.3.bias")


def test_the_meter_sees_greed():
    with pytest.raises(AssertionError, match="in Python"), at_most(0):
        bytearray(4 << 20)
    with pytest.raises(AssertionError, match="mapped"), at_most(0):
        torch.empty(8 << 30, dtype=torch.uint8)  # never touched


def test_programs_that_swell(tmp_path):
    """As long as a program may be, and longer: the first costs its constant, the second nothing."""
    limit = max_description(0)
    for name, wrap, length, most in (
        ("w.pdparams", bytes, limit - 2, 24 << 20),
        ("w.pdparams", bytes, 2 * limit, 2 << 20),
        ("w.bin", archive, 2 * limit, 2 << 20),
    ):
        (tmp_path / name).write_bytes(wrap(b"\x80\x02" + b"(" * length + b"."))
        with at_most(2 * length, python=most), pytest.raises(WeightsError):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "protocol", "times"),
    [("safetensors", 0, 2), ("bin", 0, 2), ("variable", 0, 2), ("pdparams", 4, 2), ("pdparams", 2, 3)],
)
def test_reading_takes_at_most_twice_the_file(tmp_path, kind, protocol, times):
    """Three times for pickles of protocol 2, which spell bytes as text: Python widens it while decoding."""
    big = {"a": torch.ones(2 << 20), "b": torch.ones(1 << 20, dtype=torch.float64)}
    path = tmp_path / f"w.{kind}"
    if kind == "safetensors":
        safetensors.torch.save_file(big, path)
    elif kind == "bin":
        torch.save(big, path)
    elif kind == "pdparams":
        path.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in big.items()}, protocol))
    else:
        path = tmp_path / "folder"
        path.mkdir()
        (path / "a").write_bytes(variable(big["a"].numpy()))
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
    with at_most(times * size):
        found = read(path)
    assert float(found["a"].sum()) == 2 << 20


def damaged(data: bytes, seed: int) -> bytes:
    """Cut, bits turned, stretches overwritten or doubled; mostly at the ends, where descriptions are."""
    rng = random.Random(seed)
    at = rng.choice([rng.randrange(len(data)), rng.randrange(min(len(data), 400)), -1 - rng.randrange(800) % len(data)])
    at %= len(data)
    return [
        data[:at],
        data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
        data[:at] + rng.randbytes(8) + data[at + 8 :],
        data[:at] + data[max(0, at - 20) : at] + data[at:],
    ][seed % 4]


@pytest.mark.parametrize("kind", GOOD)
def test_damaged_files_are_refused_or_harmless(tmp_path, kind):
    name, data = GOOD[kind]
    path, refusals = tmp_path / name, 0
    with at_most(4 * len(data)):
        for seed in range(200):
            path.write_bytes(damaged(data, seed))
            try:
                assert all(tensor.nbytes <= 2 * len(data) for tensor in read(path).values())
            except WeightsError as error:
                assert str(path) in str(error.where)
                refusals += 1
    assert refusals > 80  # a flipped bit inside a number is a number
