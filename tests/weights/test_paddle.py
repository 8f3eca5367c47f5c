"""Paddle's files without Paddle: what real pickles and binary files hold is read, and nothing in a hostile one runs."""

from __future__ import annotations

import os
import pickle
import random
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from unimo.errors import WeightsError
from unimo.weights.paddle import read_pdparams
from unimo.weights.paddle_variables import read_folder, read_variable

KINDS = ["<f2", "<f4", "<f8", "<i4", "<i8"]
CODES = {"<i2": 1, "<i4": 2, "<i8": 3, "<f2": 4, "<f4": 5, "<f8": 6}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    found = {f"layer_{i}.w_0": (9 * rng.standard_normal((3, 1 + i))).astype(kind) for i, kind in enumerate(KINDS)}
    return found | {
        "scalar": np.array(2.5, "<f4"),
        "empty": np.zeros((0, 4), "<f4"),
        "turned": np.ones((2, 5)).T,
    }


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def variable(array, *, levels=(), packed=False, shape=None):
    """A Paddle 1.x variable, by the layout of the specification."""
    shape = array.shape if shape is None else shape
    dims = b"".join(varint(side) for side in shape)
    told = b"\x12" + varint(len(dims)) + dims if packed else b"".join(b"\x10" + varint(side) for side in shape)
    descriptor = b"\x08" + varint(CODES[array.dtype.str]) + told
    head = struct.pack("<IQ", 0, len(levels)) + b"".join(struct.pack("<Q", len(level)) + level for level in levels)
    return head + struct.pack("<Ii", 0, len(descriptor)) + descriptor + array.tobytes()


# ---- what is written is read ----


@pytest.mark.parametrize("protocol", [2, 3, 4])  # those the framework writes
def test_pickles_of_arrays(tmp_path, protocol):
    want = arrays()
    path = tmp_path / "w.pdparams"
    names = {"linear.weight": "linear_0.w_0"}
    path.write_bytes(pickle.dumps({**want, "StructuredToParameterName@@": names}, protocol))
    got = read_pdparams(path)
    assert set(got) == set(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


def test_pairs_of_name_and_array(tmp_path):
    want = arrays()
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({name: ("other", array) for name, array in want.items()}, 4))
    got = read_pdparams(path)
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("packed", [False, True])
def test_folders_of_variables(tmp_path, packed):
    want = {name: array for name, array in arrays().items() if array.dtype.str in CODES}
    for name, array in want.items():
        (tmp_path / name).write_bytes(variable(np.ascontiguousarray(array), levels=[b"\1" * 16, b""], packed=packed))
    got = read_folder(tmp_path)
    assert list(got) == sorted(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


def test_files_of_the_real_framework(golden):
    folder = golden / "checkpoints"
    for got, expected in (
        (read_folder(folder / "paddle1_per_variable"), "paddle1_expected"),
        (read_pdparams(folder / "paddle2_unimo2.pdparams"), "paddle2_expected"),
        (read_pdparams(folder / "paddle2_dygraph.pdparams"), "paddle2_dygraph_expected"),
    ):
        want = load_file(folder / f"{expected}.safetensors")
        assert want and set(want) <= set(got)
        for name, array in want.items():
            np.testing.assert_array_equal(got[name].reshape(array.shape), array)


# ---- hostile files ----


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def hostile_pickles(marker: Path):
    """Programs that a real unpickler would run, and some it would refuse."""
    command = f"touch {marker}"
    for protocol in (0, 1, 2, 3, 4, 5):
        for call in (
            (os.system, command),
            (eval, f"open({str(marker)!r}, 'w')"),
            (exec, f"open({str(marker)!r}, 'w')"),
            (open, str(marker), "w"),
            (os.mkdir, str(marker)),
            (getattr, os, "system"),
        ):
            try:
                yield pickle.dumps({"a": Payload(*call)}, protocol)
                yield pickle.dumps(Payload(*call), protocol)
                yield pickle.dumps({"a": np.ones(3, "f4"), "b": ("x", Payload(*call))}, protocol)
            except (pickle.PicklingError, TypeError):
                continue
        yield pickle.dumps(OrderedDict(a=np.ones(2)), protocol)
        yield pickle.dumps({"a": np.array([Payload(os.system, command)], object)}, protocol)
        yield pickle.dumps({1: np.ones(2)}, protocol)
        yield pickle.dumps([np.ones(2)], protocol)
        yield pickle.dumps({"a": np.full(3, np.nan)}, protocol)
        yield pickle.dumps({"a": np.full(3, np.inf, "f4")}, protocol)
    touch = command.encode()
    yield b"(S'" + touch + b"'\nios\nsystem\n."  # INST
    yield b"cos\nsystem\n(S'" + touch + b"'\ntR."
    yield b"(cos\nsystem\nS'" + touch + b"'\no."  # OBJ
    yield b"\x80\x02cos\nsystem\n(U" + bytes([len(touch)]) + touch + b"t\x81."  # NEWOBJ
    yield b"\x80\x02}U\x01aPname\ns."  # PERSID
    yield b"\x80\x02}U\x01a\x82\x01s."  # EXT1
    huge = struct.pack("<Q", 2**62)
    yield b"\x80\x04}\x8c\x01a\x8e" + huge + b"x\x94s."  # BINBYTES8
    yield b"\x80\x05}\x8c\x01a\x96" + huge + b"x\x94s."  # BYTEARRAY8
    yield b"\x80\x04\x95" + huge + b"}."  # FRAME
    yield b"\x80\x04}r\xff\xff\xff\xff."  # LONG_BINPUT
    yield b""
    yield b"."
    yield b"}"
    # numpy.ndarray((2**40,)) and the like: memory without data
    for name in (b"numpy\nndarray", b"numpy\nzeros", b"numpy\nempty", b"builtins\nbytearray", b"builtins\nlist"):
        yield b"\x80\x02}U\x01ac" + name + b"\n\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85Rs."


def refused(read, path, size) -> bool:
    """Whether it was refused in the one way allowed; anything else raised is a failure, as is greed for memory."""
    tracemalloc.start()
    try:
        read(path)
    except WeightsError as error:
        assert str(path) in str(error.where)
        return True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 2 * size + 400_000, peak  # the interpreter's own tables are in the constant
    return False


def test_nothing_in_a_pickle_runs(tmp_path):
    marker, path, count = tmp_path / "marker", tmp_path / "w.pdparams", 0
    for data in hostile_pickles(marker):
        path.write_bytes(data)
        assert refused(read_pdparams, path, len(data)), data[:80]
        assert not marker.exists()
        count += 1
    assert count > 100


def test_text_turned_into_bytes_again_and_again(tmp_path):
    text = b"X" + struct.pack("<I", 10_000) + b"a" * 10_000 + b"q\x01"
    latin = b"U\x06latin1"
    again = b"c_codecs\nencode\nh\x01" + latin + b"\x86R"
    data = b"\x80\x02}(" + text + b"(" + again * 500 + b"tu."
    path = tmp_path / "w.pdparams"
    path.write_bytes(data)
    assert refused(read_pdparams, path, len(data))


def damaged(data: bytes, seed: int):
    """Cut short, bits turned, stretches doubled or overwritten."""
    rng = random.Random(seed)
    at = rng.randrange(len(data))
    kind = seed % 4
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + rng.randbytes(8) + data[at + 8 :]
    return data[:at] + data[max(0, at - 20) : at] + data[at:]


def test_damaged_files_are_refused_or_harmless(tmp_path):
    whole = {name: array for name, array in arrays().items() if array.dtype.str in CODES}
    pickled, plain = pickle.dumps(whole, 4), variable(whole["layer_1.w_0"], levels=[b"\1" * 16])
    count = 0
    for seed in range(200):
        for data, name, read in ((pickled, "w.pdparams", read_pdparams), (plain, "w_0", read_variable)):
            path = tmp_path / name
            path.write_bytes(damaged(data, seed))
            count += refused(read, path, len(data))
    assert count > 150  # a flipped bit inside a number is a number


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 11,
        variable(np.ones(3, "<f4"))[:-1],
        variable(np.ones(3, "<f4")) + b"x",
        variable(np.ones(3, "<f4"), shape=(2**39, 2**39)),
        variable(np.ones(3, "<f4"), shape=(1,) * 9 + (3,)),
        variable(np.ones(3, "<f4"), shape=(2**64 - 3,)),
        variable(np.full(3, np.nan, "<f4")),
        struct.pack("<IQ", 0, 2**60) + b"\0" * 40,
        struct.pack("<IQQ", 0, 1, 2**63) + b"\0" * 40,
        struct.pack("<IQIi", 0, 0, 0, -5) + b"\0" * 40,
        struct.pack("<IQIi", 0, 0, 0, 4) + b"\x08\xff\xff\xff" + b"\0" * 40,
        struct.pack("<IQIi", 0, 0, 0, 4) + b"\x08\x63\x10\x01" + b"\0" * 4,
        struct.pack("<IQ", 7, 0) + b"\0" * 40,
        b"PK\x03\x04" + b"\0" * 60,
    ],
)
def test_impossible_variables(tmp_path, data):
    path = tmp_path / "w_0"
    path.write_bytes(data)
    assert refused(read_variable, path, len(data))


def test_folders_that_are_not_weights(tmp_path):
    with pytest.raises(WeightsError, match="empty"):
        read_folder(tmp_path)
    with pytest.raises(WeightsError, match="no such"):
        read_folder(tmp_path / "absent")
    (tmp_path / "w_0").write_bytes(variable(np.ones(2, "<f4")))
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(WeightsError, match="plain file"):
        read_folder(tmp_path)
