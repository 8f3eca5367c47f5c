"""Combined files of Paddle 1.x: variables end to end with a list of their names; written here byte by byte."""

from __future__ import annotations

import random
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from weights.test_paddle import variable, varint

from unimo.errors import WeightsError
from unimo.weights.files import read
from unimo.weights.paddle_variables import read_combined, read_folder, read_names


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"b": (3, 5), "a": (4,), "c": (2, 3, 4), "scalar": (1,), "empty": (0, 7)}
    found = {name: rng.standard_normal(shape).astype("<f4") for name, shape in shapes.items()}
    return {**found, "@LR_DECAY_COUNTER@": np.array([7], "<i8"), "half": np.ones((2, 2), "<f2")}


def written(folder, variables, names=None, *, list_name="names.txt", file_name="params"):
    """The pair of files: variables in the order they have here."""
    folder.mkdir(exist_ok=True)
    (folder / file_name).write_bytes(b"".join(variable(array, levels=[b"\1" * 8]) for array in variables.values()))
    (folder / list_name).write_text("".join(f"{name}\n" for name in (variables if names is None else names)))
    return folder


def same(found, wanted):
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("list_name", ["names.txt", "__names__"])
def test_the_list_says_which_is_which(tmp_path, list_name):
    """Also where it is not sorted: the file's order is the list's."""
    want = arrays()
    same(read_folder(written(tmp_path / "w", want, list_name=list_name)), want)
    same(read_combined(tmp_path / "w" / "params", tmp_path / "w" / list_name), want)
    got = read(tmp_path / "w")
    assert set(got) == set(want) and all(isinstance(x, torch.Tensor) for x in got.values())
    (tmp_path / "w" / "unimo_base_en.json").write_text("{}")  # a configuration may lie there
    (tmp_path / "w" / "other.txt").write_text("\n\r\n".join(want) + "\r\n")
    with pytest.raises(WeightsError, match=r"other\.txt"):  # two files: which is it?
        read(tmp_path / "w")
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


def refused(folder, *words):
    with pytest.raises(WeightsError) as caught:
        read(folder)
    said = caught.value.one_line()
    assert all(word in said for word in words), said
    return said


def test_names_and_variables_must_be_as_many(tmp_path):
    want = arrays()
    names = list(want)
    refused(written(tmp_path / "more", want, [*names, "surplus"]), "surplus", "more names than variables", "names.txt")
    said = refused(written(tmp_path / "fewer", want, names[:-1]), "params", "byte", f"{len(names) - 1} names")
    begins = sum(len(variable(array, levels=[b"\1" * 8])) for array in list(want.values())[:-1])
    assert f"byte {begins}" in said
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


@pytest.mark.parametrize("place", [0, 1, 2])
def test_impossible_sizes_are_refused_before_memory_is_asked_for(tmp_path, place):
    """Dimensions that are huge, negative or overflow, in any variable of the file, by its name and byte."""
    good = [variable(np.ones((2, 2), "<f4"))] * 3
    for shape in ([2**39, 2**20], [1 << 33, 1 << 33, 1 << 33], [2**64 - 2, 2], [0, 2**39, 2**39], [1] * 9, [3, 2]):
        bad = list(good)
        bad[place] = variable(np.ones((2, 2), "<f4"), shape=shape)
        if shape == [3, 2] and place < 2:  # it eats into the next one, which then is none
            shape = None
        (tmp_path / "params").write_bytes(b"".join(bad))
        (tmp_path / "names.txt").write_text("x\ny\nz\n")
        tracemalloc.start()
        said = refused(tmp_path, "params", "byte")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20 and (shape is None or "xyz"[place] in said)


def test_shuffled_names_are_refused_where_shapes_tell(tmp_path):
    """The list in another order than the file: the converted model has no such shapes."""
    from unimo.weights.convert import convert_published

    sizes = {"word_embedding": (40, 64), "pos_embedding": (20, 64)}
    want = {name: np.zeros(shape, "<f4") for name, shape in sizes.items()}
    want |= {f"image_{part}.w_0": np.zeros((n, 64), "<f4") for part, n in (("emb", 6), ("loc", 5))}
    folder = written(tmp_path / "w", want, ["word_embedding", "pos_embedding", "image_loc.w_0", "image_emb.w_0"])
    with pytest.raises(WeightsError, match=r"regions\.box\.weight \(64, 6\) for \(64, 5\)"):
        convert_published(folder)


def test_hundreds_of_damaged_files_are_refused_or_read_and_never_more_than_the_file(tmp_path):
    """Cut, bits flipped, bytes put in or taken out, at every kind of place; a rest is never read as something else."""
    whole = b"".join(variable(array, levels=[b"\1" * 8]) for array in arrays().values())
    names = "\n".join(arrays())
    (tmp_path / "names.txt").write_text(names)
    rng, refusals = random.Random(3), 0
    for _ in range(300):
        data = bytearray(whole)
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                del data[at:]
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                del data[at : at + rng.randrange(1, 9)]
        (tmp_path / "params").write_bytes(bytes(data))
        tracemalloc.start()
        try:
            found = read(tmp_path)
            assert sum(x.numel() * x.itemsize for x in found.values()) <= len(data)
        except WeightsError as fault:
            refusals += 1
            assert "params" in fault.one_line()
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 1 << 20
    assert refusals > 150


def test_the_head_of_a_variable_is_as_specified():
    """u32 0 · u64 levels · u32 0 · i32 length · descriptor · data, little-endian (spec unimo §9.2)."""
    told = b"\x08\x05\x10" + varint(300)
    data = np.zeros(300, "<f4")
    expected = struct.pack("<IQIi", 0, 0, 0, len(told)) + told + data.tobytes()
    assert variable(data) == expected
