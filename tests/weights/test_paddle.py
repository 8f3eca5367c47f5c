"""Paddle's files without Paddle: what real pickles and variables hold is read; impossible ones are refused.

Hostile pickles are in test_weight_files.py. Variables are written here byte by byte.
"""

from __future__ import annotations

import pickle
import random
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from unimo.errors import WeightsError
from unimo.weights.convert import convert_published
from unimo.weights.files import read
from unimo.weights.paddle import read_combined, read_folder, read_names, read_pdparams

CODES = {"<i2": 1, "<i4": 2, "<i8": 3, "<f2": 4, "<f4": 5, "<f8": 6}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"b": (3, 5), "a": (4,), "c": (2, 3, 4), "scalar": (1,), "empty": (0, 7)}
    found = {name: rng.standard_normal(shape).astype("<f4") for name, shape in shapes.items()}
    others = {f"x{i}": (9 * rng.standard_normal((3, 1 + i))).astype(kind) for i, kind in enumerate(CODES)}
    return {**found, **others, "@LR_DECAY_COUNTER@": np.array([7], "<i8")}


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def variable(array, *, levels=(), packed=False, shape=None):
    """A Paddle 1.x variable, by the layout of the specification."""
    shape = array.shape if shape is None else shape
    dims = b"".join(varint(side) for side in shape)
    field = b"\x12" + varint(len(dims)) + dims if packed else b"".join(b"\x10" + varint(side) for side in shape)
    descriptor = b"\x08" + varint(CODES[array.dtype.str]) + field
    head = struct.pack("<IQ", 0, len(levels)) + b"".join(struct.pack("<Q", len(level)) + level for level in levels)
    return head + struct.pack("<Ii", 0, len(descriptor)) + descriptor + array.tobytes()


def same(found, wanted):
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


# ---- what is written is read


@pytest.mark.parametrize("protocol", [2, 3, 4])  # those the framework writes
def test_pickles_of_arrays_and_of_pairs_of_name_and_array(tmp_path, protocol):
    want, path = {**arrays(), "transposed": np.ones((2, 5)).T, "no side": np.array(2.5)}, tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({**want, "StructuredToParameterName@@": {"linear.weight": "w"}}, protocol))
    same(read_pdparams(path), want)
    path.write_bytes(pickle.dumps({name: ("other", array) for name, array in want.items()}, protocol))
    same(read_pdparams(path), want)
    path.write_bytes(pickle.dumps({"big endian": np.arange(4, dtype=">f4")}, protocol))
    assert torch.equal(read(path)["big endian"], torch.arange(4.0))


@pytest.mark.parametrize("packed", [False, True])
def test_folders_of_variables(tmp_path, packed):
    for name, array in arrays().items():
        (tmp_path / name).write_bytes(variable(array, levels=[b"\1" * 16, b""], packed=packed))
    same(read_folder(tmp_path), dict(sorted(arrays().items())))


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


def written(folder, variables, names=None, *, list_name="names.txt"):
    """The pair of files: variables in the order they have here."""
    folder.mkdir(exist_ok=True)
    (folder / "params").write_bytes(b"".join(variable(array, levels=[b"\1" * 8]) for array in variables.values()))
    (folder / list_name).write_text("".join(f"{name}\n" for name in (variables if names is None else names)))
    return folder


@pytest.mark.parametrize("list_name", ["names.txt", "__names__"])
def test_the_list_says_which_is_which(tmp_path, list_name):
    """Also where it is not sorted: the file's order is the list's."""
    want = arrays()
    same(read_folder(written(tmp_path / "w", want, list_name=list_name)), want)
    got = read(tmp_path / "w")
    assert set(got) == set(want) and all(isinstance(x, torch.Tensor) for x in got.values())
    (tmp_path / "w" / "unimo_base_en.json").write_text("{}")  # a configuration may lie there
    (tmp_path / "w" / "other.txt").write_text("\n\r\n".join(want) + "\r\n")
    refused(tmp_path / "w", "other.txt")  # two files: which is it?
    same(read_combined(tmp_path / "w" / "params", tmp_path / "w" / "other.txt"), want)
    assert set(read(tmp_path / "w" / "params", names=tmp_path / "w" / "other.txt")) == set(want)


def test_one_variable_a_file_and_all_in_one_say_the_same(golden, tmp_path):
    """The published folder of the real framework, its files put end to end."""
    folder = golden / "checkpoints" / "paddle1_per_variable"
    names = sorted(path.name for path in folder.iterdir())
    (tmp_path / "params").write_bytes(b"".join((folder / name).read_bytes() for name in names))
    (tmp_path / "__names__").write_text("\n".join(names))
    one, all_of_them = read(folder), read(tmp_path)
    assert set(one) == set(all_of_them)
    assert all(torch.equal(one[name], all_of_them[name]) for name in one)


# ---- refused


def refused(folder, *words):
    """The error of reading it, which holds these words; hardly any memory is asked for."""
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as caught:
            read(folder)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    error = caught.value.one_line()
    assert all(word in error for word in words), error
    return error


GOOD = np.ones((3, 1), "<f4")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 11,
        variable(GOOD)[:-1],
        variable(GOOD) + b"x",
        variable(GOOD, shape=(2**39, 2**39)),
        variable(GOOD, shape=(2**40,)),
        variable(GOOD, shape=(0, 2**39, 2**39)),
        variable(GOOD, shape=(1,) * 9 + (3,)),
        variable(GOOD, shape=(2**64 - 3,)),
        variable(GOOD, shape=(2**80,)),
        variable(np.full(3, np.nan, "<f4")),
        struct.pack("<IQ", 0, 2**60) + b"\0" * 40,
        struct.pack("<IQQ", 0, 1, 2**63) + b"\0" * 40,
        struct.pack("<IQIi", 0, 0, 0, -5) + b"\0" * 40,
        struct.pack("<IQIi", 0, 0, 0, 4) + b"\x08\xff\xff\xff" + b"\0" * 40,
        struct.pack("<IQIi", 0, 0, 0, 4) + b"\x08\x63\x10\x01" + b"\0" * 4,
        struct.pack("<IQIi", 0, 0, 0, 3) + b"\x08\x05\x10" + b"\0" * 4,
        struct.pack("<IQ", 7, 0) + b"\0" * 40,
        b"PK\x03\x04" + b"\0" * 60,
    ],
)
def test_impossible_variables(tmp_path, data):
    (tmp_path / "w_0").write_bytes(data)
    refused(tmp_path, "w_0")


def test_folders_that_are_not_weights(tmp_path):
    refused(tmp_path, "empty")
    with pytest.raises(WeightsError, match="no such"):
        read_folder(tmp_path / "absent")
    (tmp_path / "w_0").write_bytes(variable(GOOD))
    assert read_folder(tmp_path)["w_0"].shape == (3, 1)
    (tmp_path / "link").symlink_to("/etc/hostname")
    refused(tmp_path, "plain file")


def test_names_and_variables_must_be_as_many(tmp_path):
    want, names = arrays(), list(arrays())
    refused(written(tmp_path / "more", want, [*names, "surplus"]), "surplus", "more names than variables", "names.txt")
    begins = sum(len(variable(array, levels=[b"\1" * 8])) for array in list(want.values())[:-1])
    fewer = written(tmp_path / "fewer", want, names[:-1])
    refused(fewer, "params", f"byte {begins}", f"{len(names) - 1} names")
    refused(written(tmp_path / "twice", want, [*names[:-1], names[0]]), "a name twice", f"line {len(names)}", "line 1")
    refused(written(tmp_path / "none", want, []), "empty list")
    (tmp_path / "none" / "names.txt").write_bytes(b"\xff\xfe a")
    refused(tmp_path / "none", "no text")
    (tmp_path / "none" / "__names__").write_text("a")
    refused(tmp_path / "none", "two lists")


def test_a_file_beside_a_list_must_be_alone(tmp_path):
    folder = written(tmp_path / "w", arrays())
    (folder / "params2").write_bytes((folder / "params").read_bytes())
    refused(folder, "2 files", "params2")
    (folder / "params").unlink()
    (folder / "params2").unlink()
    refused(folder, "0 files")
    (folder / "params").symlink_to("/etc/passwd")
    refused(folder, "not a plain file")
    with pytest.raises(WeightsError, match="no such list"):
        read_names(tmp_path)


def test_an_impossible_size_is_told_by_the_variables_name_and_byte(tmp_path):
    for place, name in enumerate("xyz"):
        parts = [variable(np.ones((2, 2), "<f4"))] * 3
        parts[place] = variable(np.ones((2, 2), "<f4"), shape=[2**39, 2**20])
        (tmp_path / "params").write_bytes(b"".join(parts))
        (tmp_path / "names.txt").write_text("x\ny\nz\n")
        refused(tmp_path, f"params, {name}", "byte")


def test_shuffled_names_are_refused_where_shapes_tell(tmp_path):
    """The list in another order than the file: the converted model has no such shapes."""
    sizes = {"word_embedding": (40, 64), "pos_embedding": (20, 64)}
    want = {name: np.zeros(shape, "<f4") for name, shape in sizes.items()}
    want |= {f"image_{part}.w_0": np.zeros((n, 64), "<f4") for part, n in (("emb", 6), ("loc", 5))}
    folder = written(tmp_path / "w", want, ["word_embedding", "pos_embedding", "image_loc.w_0", "image_emb.w_0"])
    with pytest.raises(WeightsError, match=r"regions\.box\.weight \(64, 6\) for \(64, 5\)"):
        convert_published(folder)


def test_hundreds_of_damaged_files_are_refused_or_read_and_never_more_than_the_file(tmp_path):
    """Cut, bits flipped, bytes put in or taken out, at every kind of place; a rest is never read as something else."""
    folder = written(tmp_path / "w", arrays())
    whole = (folder / "params").read_bytes()
    rng, refusals = random.Random(3), 0
    for _ in range(300):
        at = rng.randrange(len(whole))
        rest, flipped = whole[at:], bytes([whole[at] ^ 1 << rng.randrange(8)])
        longer = rng.randbytes(rng.randrange(1, 9)) + rest
        data = whole[:at] + rng.choice([b"", flipped + rest[1:], longer, rest[rng.randrange(1, 9) :]])
        (folder / "params").write_bytes(data)
        tracemalloc.start()
        try:
            assert sum(x.nbytes for x in read(folder).values()) <= len(data)
        except WeightsError as fault:
            refusals += 1
            assert "params" in fault.one_line()
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 1 << 20
    assert refusals > 150
