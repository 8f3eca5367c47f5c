"""Sidecars come back as they were written, whatever was killed in between, and nothing damaged is believed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from dying import Countdown, ended, fork
from safetensors import safe_open
from safetensors.numpy import save_file

from unimo import sidecar as module
from unimo.errors import DataError, ResourceError, UnimoError
from unimo.sidecar import Format, Sidecar, SidecarWriter, standing, workspace, write_sidecar

FORM = Format("songs", 3, "unimo prepare songs")
HEADER = {"data": "abc", "settings": {"sizes": (1, 2)}}
COLUMNS = {"notes": (np.dtype(np.float16), (3,)), "words": (np.dtype(np.uint8), ())}
KEYS = [f"k{i}" for i in range(10)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)


def rows_of(i: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(i)
    return {"notes": rng.random((i % 3, 3)).astype(np.float16), "words": rng.integers(0, 256, i % 3, dtype=np.uint8)}


def write(place: Path, header=HEADER, end: int = len(KEYS), stop: Exception | None = None, each=lambda i: None) -> int:
    """Items up to `end`, then `stop`; returns how many of them were there already."""
    with SidecarWriter(place, FORM, header, KEYS, COLUMNS) as writer:
        resumed = len(writer)
        for i in range(resumed, end):
            each(i)
            writer.add(None, {"what": "bad"}) if i == 4 else writer.add(rows_of(i))
        if stop is not None:
            raise stop
    return resumed


def is_whole(place: Path) -> bool:
    found = Sidecar(place, FORM)
    found.verify()
    for i in range(len(KEYS)):
        item = found.item(i, COLUMNS)
        for name, (dtype, shape) in COLUMNS.items():
            expected = rows_of(i)[name] if i != 4 else np.zeros((0, *shape), dtype)
            assert item[name].dtype == dtype and item[name].shape == expected.shape
            np.testing.assert_array_equal(item[name], expected)
    return found.notes == {4: {"what": "bad"}} and list(found.keys) == KEYS


@pytest.fixture
def place(tmp_path) -> Path:
    write(tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def test_items_come_back_and_other_libraries_read_them(place):
    assert is_whole(place) and [path.name for path in place.parent.iterdir()] == [place.name]
    with safe_open(place, framework="numpy") as stored:
        assert set(stored.keys()) == {"notes", "words", "offsets", "keys_blob", "keys_offsets"}
        offsets = stored.get_tensor("offsets")
        np.testing.assert_array_equal(stored.get_tensor("notes")[offsets[5] :][:2], rows_of(5)["notes"])


def test_arrays_come_back_and_equal_ones_are_equal_files(tmp_path):
    arrays = {name: np.arange(6).astype(name).reshape(2, 3) for name in ("int8", "uint16", "int64", "float64", "bool")}
    arrays["none"] = np.zeros((0, 4), np.float32)
    for name in "ab":
        write_sidecar(tmp_path / name, FORM, HEADER, dict(reversed(arrays.items())) if name == "b" else arrays)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = Sidecar(tmp_path / "a", FORM).arrays()
    assert found.keys() == arrays.keys() and found["none"].shape == (0, 4)
    for name in arrays:
        assert found[name].dtype == arrays[name].dtype
        np.testing.assert_array_equal(found[name], arrays[name])


def test_only_what_was_made_from_the_same_stands(place):
    assert standing(place, FORM, HEADER) is not None
    assert standing(place, FORM, {**HEADER, "data": "abd"}) is None
    assert standing(place.with_name("none"), FORM, HEADER) is None
    (left := place.with_name(place.name + ".partial")).mkdir()  # a kill between renaming and clearing up
    assert standing(place, FORM, HEADER) and not left.exists()


# ---- killed and started again


@pytest.mark.parametrize("done", [0, 1, 4, 7])
def test_what_an_error_interrupts_loses_nothing(place, tmp_path, done):
    other = tmp_path / "y.safetensors"
    with pytest.raises(KeyError):
        write(other, end=done, stop=KeyError())
    assert not other.exists() and write(other) == done and other.read_bytes() == place.read_bytes()


def test_a_kill_loses_the_items_of_a_block_at_most(place, tmp_path):
    other = tmp_path / "y.safetensors"
    killed = fork(lambda: write(other, each=lambda i: i == 7 and os.kill(os.getpid(), signal.SIGKILL)))
    assert ended(killed) == -signal.SIGKILL and not other.exists()
    assert write(other) == 6 and other.read_bytes() == place.read_bytes()


def test_killed_at_every_event_it_leaves_the_same_bytes(place, tmp_path):
    for at in count(1):
        folder = tmp_path / str(at)
        code = ended(fork(lambda: (Countdown(at), write(folder / "y"))))  # noqa: B023
        standing(folder / "y", FORM, HEADER) or write(folder / "y")
        assert (folder / "y").read_bytes() == place.read_bytes() and len(list(folder.iterdir())) == 1, at
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert at > 30


@pytest.mark.parametrize("seed", range(12))
def test_damaged_blocks_are_made_again(place, tmp_path, seed):
    rng, other = random.Random(seed), tmp_path / "y.safetensors"
    for _ in range(3):
        with pytest.raises(KeyError):
            write(other, end=rng.randint(3, 9), stop=KeyError())
        damaged = rng.choice(sorted((tmp_path / "y.safetensors.partial").glob("*.safetensors")))
        data = bytearray(damaged.read_bytes())
        if seed % 3 == 0:
            data = data[: rng.randrange(len(data))]
        elif seed % 3 == 1:
            data += b"more"
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        damaged.write_bytes(data)
    write(other)
    assert other.read_bytes() == place.read_bytes()


def test_blocks_of_another_header_are_made_again(place, tmp_path):
    other = tmp_path / "y.safetensors"
    with pytest.raises(KeyError):
        write(other, {**HEADER, "data": "abd"}, end=5, stop=KeyError())
    assert write(other) == 0 and other.read_bytes() == place.read_bytes()


def test_two_at_once_are_refused(tmp_path):
    with workspace(tmp_path / "x"), pytest.raises(ResourceError, match=r"another process is writing here.*wait for it"):
        write(tmp_path / "x")
    assert write(tmp_path / "x") == 0


def test_an_incomplete_sidecar_is_a_fault(tmp_path):
    with pytest.raises(UnimoError, match="not every item"):
        write(tmp_path / "x", end=3)
    assert not (tmp_path / "x").exists()


def test_a_disk_that_refuses(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write to disk"):
        write(tmp_path / "file" / "x")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="disk full"):
        write(tmp_path / "x")


# ---- damaged, foreign, older


def test_no_flipped_bit_or_cut_is_believed(place):
    data, rng = place.read_bytes(), random.Random(0)
    for _ in range(400):
        body = bytearray(data)
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        for damaged in (body, data[: rng.randrange(len(data))]):
            place.write_bytes(damaged)
            with pytest.raises(DataError, match="not a file of songs that this version reads"):
                Sidecar(place, FORM).verify()
    place.write_bytes((2**20).to_bytes(8, "little") + b"[" * 2**20)
    with pytest.raises(DataError, match="not a file of songs"):
        Sidecar(place, FORM)


@pytest.mark.parametrize(
    ("other", "got"),
    [(FORM._replace(version=2), "songs, version 3"), (FORM._replace(name="poems"), "songs, version 3")],
)
def test_other_versions_and_formats_are_to_be_prepared_again(place, other, got):
    with pytest.raises(DataError, match=rf"{got}.*do: run `unimo prepare songs` \(again\)"):
        Sidecar(place, other)


def test_files_of_other_programs_and_missing_ones_are_named(tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "x", metadata={"format": "unimo-regions"})  # as older versions wrote them
    with pytest.raises(
        DataError, match=r"not a file of songs.*an older version of unimo.*do: run `unimo prepare songs`"
    ):
        Sidecar(tmp_path / "x", FORM)
    with pytest.raises(DataError, match="no songs here"):
        Sidecar(tmp_path / "y", FORM)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_sidecar_works_in_workers(place, method):
    found = Sidecar(place, FORM)
    assert len(pickle.dumps(found)) < 1000  # a path, not tables
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        (notes,) = pool.submit(found.item, 5, ["notes"]).result().values()
    np.testing.assert_array_equal(notes, rows_of(5)["notes"])
