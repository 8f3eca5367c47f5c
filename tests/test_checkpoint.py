"""Checkpoints come back bit for bit; damaged and unfit ones are refused; a full disk harms none."""

import contextlib
import errno
import hashlib
import json
import math
import os
import random
import re
import shutil
import struct

import pytest
import torch
from dying import disk_events
from safetensors.torch import load_file

from unimo import checkpoint
from unimo.checkpoint import latest, load, read_manifest, save, sealed, verify
from unimo.errors import DataError, NumericsError, ResourceError, UsageError, WeightsError

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
]  # fmt: skip


def tensors_of(step: int) -> dict:
    """Small, of every kind, different at every step."""
    draw = torch.Generator().manual_seed(step)
    model = {
        "weight": torch.randn(7, 5, generator=draw),
        "bias": torch.randn(5, generator=draw).bfloat16(),
        "scale": torch.tensor(1.0 + step),
    }
    return {"model": model, "optimizer": {"model.weight.moment": torch.randn(7, 5, generator=draw)}}


def save_step(folder, step, **options):
    return save(folder, step, tensors_of(step), {"step": step, "rate": 0.1 * step}, **options)


def saved(folder, *steps):
    return [save_step(folder, step) for step in steps]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    raw_a, raw_b = (t.contiguous().flatten().view(torch.uint8) for t in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw_a, raw_b)


def is_of_step(found: checkpoint.Checkpoint, step: int) -> bool:
    groups = tensors_of(step)
    return (
        found.step == found.state["step"] == step
        and found.tensors.keys() == groups.keys()
        and all(found.tensors[group].keys() == groups[group].keys() for group in groups)
        and all(same_bits(found.tensors[g][n], groups[g][n]) for g in groups for n in groups[g])
    )


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- exactness


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, dtype):
    shapes = [(), (0,), (3,), (2, 0, 4), (5, 3, 2)]
    values = {str(shape): (torch.randn(shape) * 50).to(dtype) for shape in shapes}
    values["transposed"] = (torch.randn(300, 200) * 50).to(dtype).T
    path = save(tmp_path, 1, {"model": {**values, "odd": torch.ones(3, dtype=torch.int8)}}, {})
    for found in (load(path).tensors["model"], load_file(path / "model.safetensors")):
        assert all(same_bits(found[name], values[name]) for name in values)


def test_numbers_of_the_state_come_back_bit_for_bit(tmp_path):
    draw = random.Random(0)
    floats = [struct.unpack("d", draw.randbytes(8))[0] for _ in range(2000)]
    floats = [x for x in floats if math.isfinite(x)] + [-0.0, 5e-324, 0.1 + 0.2, math.nextafter(1, 2)]
    state = {
        "floats": floats,
        "ints": [2**63, -(10**40), 0],
        "nothing": None,
        "yes": True,
        "words": "naïve ▁ \n \u0000",
    }
    found = load(save(tmp_path, 1, {}, state)).state
    assert struct.pack(f"{len(floats)}d", *found["floats"]) == struct.pack(f"{len(floats)}d", *floats)
    assert repr(found) == repr(state)


def test_saving_changes_nothing_and_loading_owns_its_memory(tmp_path):
    tensors = tensors_of(1)
    path = save(tmp_path, 1, tensors, {"step": 1, "rate": 0.1})
    found = load(path)
    found.tensors["model"]["weight"].zero_()
    assert all(same_bits(tensors[g][n], tensors_of(1)[g][n]) for g in tensors for n in tensors[g])
    assert is_of_step(load(path), 1)
    shutil.rmtree(path)
    assert same_bits(found.tensors["optimizer"]["model.weight.moment"], tensors["optimizer"]["model.weight.moment"])


def test_groups_choose_what_is_read_and_verified(tmp_path):
    (path,) = saved(tmp_path, 4)
    (path / "optimizer.safetensors").write_bytes(b"rotten")
    found = load(path, groups=["model"])
    assert found.tensors.keys() == {"model"} and found.step == 4
    with pytest.raises(WeightsError, match=r"optimizer\.safetensors"):
        load(path)
    with pytest.raises(WeightsError, match="expected: model"):
        load(path, groups=["modell"])


# ---- keeping


def test_the_newest_is_found_and_older_ones_go(tmp_path):
    saved(tmp_path, 1, 2, 10, 9_999_999, 123_456_789)
    assert names(tmp_path) == ["step-09999999", "step-123456789"]
    assert is_of_step(load(tmp_path), 123_456_789)
    save(tmp_path, 123_456_790, {}, {}, keep=3)
    assert len(names(tmp_path)) == 3


def test_keep_counts_only_verified_ones(tmp_path):
    first, second = saved(tmp_path, 1, 2)
    (second / "model.safetensors").write_bytes(b"rotten")
    saved(tmp_path, 3)
    assert first.exists() and not second.exists()
    assert is_of_step(load(first), 1)


def test_a_step_saved_again_stands_beside_the_first(tmp_path):
    saved(tmp_path, 5)
    path = save(tmp_path, 5, tensors_of(5), {"step": 5, "rate": 0.75})
    assert path.name == "step-00000005.1" and load(tmp_path).state["rate"] == 0.75 and len(names(tmp_path)) == 2


def test_saving_behind_a_good_later_checkpoint_is_refused_and_behind_a_damaged_one_is_not(tmp_path):
    _, later = saved(tmp_path, 1, 8)
    with pytest.raises(UsageError, match="step-00000008"):
        saved(tmp_path, 4)
    (later / "state.json").write_text("{}")
    saved(tmp_path, 4)
    assert is_of_step(load(tmp_path, report=lambda reason: None), 4)


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert latest(tmp_path) is None and latest(tmp_path / "absent") is None
    for path in (tmp_path, tmp_path / "absent", tmp_path / "step-00000001"):
        with pytest.raises(WeightsError):
            load(path)


def test_a_checkpoint_may_be_copied_under_any_name_but_not_under_another_step(tmp_path):
    (path,) = saved(tmp_path / "run", 6)
    shutil.copytree(path, tmp_path / "my-model")
    assert is_of_step(load(tmp_path / "my-model"), 6)
    shutil.copytree(path, tmp_path / "run" / "step-00000007")
    with pytest.raises(WeightsError, match="step 6"):
        verify(tmp_path / "run" / "step-00000007")
    assert latest(tmp_path / "run", report=lambda reason: None) == path


def test_remnants_of_the_dead_are_removed_by_the_next_save(tmp_path):
    saved(tmp_path, 1)
    for name in ("step-00000002.partial.ab12", "step-00000001.1.partial.cd", "step-00000000.trash.ff"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    (tmp_path / "notes.partial.txt").write_text("mine")
    assert latest(tmp_path).name == "step-00000001" and len(names(tmp_path)) == 5  # reads only
    saved(tmp_path, 3)
    assert names(tmp_path) == ["notes.partial.txt", "step-00000001", "step-00000003"]


# ---- refused


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("group", ["model", "optimizer"])
def test_nothing_that_is_not_finite_is_ever_saved(tmp_path, value, group):
    saved(tmp_path, 1)
    tensors = tensors_of(2)
    for name, tensor in tensors[group].items():
        kept = tensor.clone()
        tensor.flatten()[-1] = value
        with pytest.raises(NumericsError, match=f"{group}: {re.escape(name)}"):
            save(tmp_path, 2, tensors, {})
        tensor.copy_(kept)
    assert names(tmp_path) == ["step-00000001"]


WEIGHT = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"step": -1}, UsageError),
        ({"step": 1.0}, UsageError),
        ({"keep": 1}, UsageError),
        ({"tensors": {"../model": {}}}, UsageError),
        ({"tensors": {"model": {"x": [1.0]}}}, UsageError),
        ({"tensors": {"model": {"x": torch.zeros(2, dtype=torch.complex128)}}}, UsageError),
        ({"tensors": {"model": {"x": torch.zeros(2, device="meta")}}}, UsageError),
        ({"tensors": {"model": {"x": torch.eye(2).to_sparse()}}}, UsageError),
        ({"tensors": {"model": {"embed": WEIGHT, "head": WEIGHT}}}, UsageError),
        ({"tensors": {"model": {"embed": WEIGHT, "head": WEIGHT.T}}}, UsageError),
        ({"tensors": {"model": {"embed": WEIGHT, "head": WEIGHT.flatten()[-1:]}}}, UsageError),
        ({"state": {"best": math.inf}}, DataError),
        ({"state": {"size": (1, 2)}}, DataError),
        ({"state": {3: "x"}}, DataError),
        ({"state": {"x": torch.zeros(1)}}, DataError),
        ({"state": [1]}, UsageError),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_saved_exactly_is_refused_and_leaves_nothing(tmp_path, arguments, error):
    with pytest.raises(error):
        save(**({"folder": tmp_path, "step": 1, "tensors": {}, "state": {}} | arguments))
    assert names(tmp_path) == []


# ---- damage


def test_every_flipped_bit_is_found_and_its_file_named(tmp_path):
    older, path = saved(tmp_path, 1, 2)
    draw = random.Random(0)
    places = [(file, at) for file in sorted(path.iterdir()) for at in range(file.stat().st_size)]
    manifest = [place for place in places if place[0].name == checkpoint.MANIFEST]
    for file, at in draw.sample(places, 300) + manifest:
        good = file.read_bytes()
        file.write_bytes(good[:at] + bytes([good[at] ^ 1 << draw.randrange(8)]) + good[at + 1 :])
        with pytest.raises(WeightsError) as caught:
            verify(path)
        assert file.name in caught.value.one_line() or file.name == checkpoint.MANIFEST
        file.write_bytes(good)
    verify(path)

    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    reasons = []
    assert latest(tmp_path, report=reasons.append) == older
    assert len(reasons) == 1
    for part in ("step-00000002", "model.safetensors", "got: sha256", "expected: sha256"):
        assert part in reasons[0]


def test_every_truncation_extension_and_missing_file_is_found(tmp_path):
    (path,) = saved(tmp_path, 1)
    for file in sorted(path.iterdir()):
        good = file.read_bytes()
        lengths = {0, 1, 7, 8, 9, len(good) - 1, *random.Random(1).choices(range(len(good)), k=10)}
        for damaged in [good[:length] for length in lengths] + [good + b"\n"]:
            file.write_bytes(damaged)
            with pytest.raises(WeightsError, match=re.escape(file.name)):
                verify(path)
        file.unlink()
        with pytest.raises(WeightsError, match=re.escape(file.name)):
            verify(path)
        os.mkfifo(file)  # must not block
        with pytest.raises(WeightsError, match=re.escape(file.name)):
            verify(path)
        file.unlink()
        file.write_bytes(good)
    verify(path)


def forge(path, change):
    """A manifest with a right seal, as an attacker would write it."""
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    del manifest["seal"]
    change(manifest)
    (path / checkpoint.MANIFEST).write_bytes(sealed(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].update({"../secret.json": m["files"]["state.json"]}),
        lambda m: m["files"].update({"/etc/passwd": m["files"]["state.json"]}),
        lambda m: m["files"].update({"model.pkl": m["files"]["state.json"]}),
        lambda m: m["files"].pop("state.json"),
        lambda m: m["files"]["state.json"].update(bytes="1"),
        lambda m: m.update(files=[]),
        lambda m: m.update(step="1"),
        lambda m: m.update(version=2),
        lambda m: m.update(version=True),
        lambda m: m.update(format="other"),
    ],
)
def test_a_forged_manifest_reaches_no_other_file_and_crashes_nothing(tmp_path, change):
    (path,) = saved(tmp_path, 1)
    forge(path, change)
    with pytest.raises(WeightsError, match="MANIFEST"):
        read_manifest(path)


@pytest.mark.parametrize("header", [1 << 62, 200 << 20, 3, 0, None])
def test_a_forged_tensor_file_is_refused(tmp_path, header):
    """With a right hash: a header that is none, or (None) a file that torch.save wrote."""
    (path,) = saved(tmp_path, 1)
    file = path / "model.safetensors"
    if header is None:
        torch.save({"x": torch.zeros(1)}, file)
    else:
        file.write_bytes(header.to_bytes(8, "little") + b"{}" + b" " * 100)
    data = file.read_bytes()
    forge(
        path,
        lambda m: m["files"].update({file.name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}),
    )
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load(path)


# ---- a disk that is full, fails or lies


def full_after(room: int):
    """A disk that takes `room` bytes, then has no space left, as the system would: the last write comes out short."""
    left = [room]

    def tell(kind, path, *details):
        if kind == "write":
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken = min(left[0], len(details[0]))
            left[0] -= taken
            return taken

    return disk_events(tell)


def test_a_disk_that_fills_at_any_byte_leaves_the_last_checkpoint_and_no_litter(tmp_path):
    (path,) = saved(tmp_path, 1)
    size = sum(file.stat().st_size for file in path.iterdir())
    for room in sorted({size * i // 100 for i in range(100)}):
        with full_after(room), pytest.raises(ResourceError) as caught:
            save_step(tmp_path, 2)
        parts = caught.value.parts()
        assert "disk full" in parts["what"] and parts["where"] == str(tmp_path)
        assert re.search(r"\d+ bytes free", parts["got"]) and re.search(r"\d+ bytes", parts["expected"])
        assert names(tmp_path) == ["step-00000001"]
    assert is_of_step(load(tmp_path), 1)
    with full_after(2 * size):
        save_step(tmp_path, 2)
    assert is_of_step(load(tmp_path), 2)


def test_any_call_that_fails_leaves_a_good_checkpoint(tmp_path):
    """Input/output errors at every event, not only writes; afterwards saving goes on."""
    for at in range(1, 200):
        folder, left = tmp_path / str(at), [at]

        def tell(*_, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        saved(folder, 1, 2)
        with disk_events(tell), contextlib.suppress(ResourceError):
            save_step(folder, 3)
        found = load(folder)
        assert is_of_step(found, found.step) and found.step in (2, 3)
        saved(folder, 4)
        assert is_of_step(load(folder), 4)
        assert not [name for name in names(folder) if "partial" in name or "trash" in name]
        if left[0] > 0:
            break
    assert left[0] > 0 and at > 15


def test_a_disk_that_lies_is_caught_before_older_checkpoints_go(tmp_path):
    def lie(kind, path, *details):
        return bytes(details[0][:-1]) + bytes([details[0][-1] ^ 1]) if kind == "write" else None

    saved(tmp_path, 1, 2)
    with disk_events(lie), pytest.raises(ResourceError, match="other bytes"):
        save_step(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert is_of_step(load(tmp_path), 2)


def test_a_folder_that_is_a_file_or_forbidden_is_a_located_error(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResourceError, match="file"):
            save(folder, 1, {}, {})
