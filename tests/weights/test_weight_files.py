"""Weight files of every kind: what others wrote is read; a hostile file is refused, runs nothing and eats nothing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import struct
import subprocess
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from unimo.errors import WeightsError
from unimo.weights import files as weight_files
from unimo.weights.files import DESCRIPTION, read

ELEMENTS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
]  # fmt: skip


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    found = {f"layer.{i}.weight": (9 * torch.randn(3, 1 + i)).to(element) for i, element in enumerate(ELEMENTS)}
    return found | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "image.π": torch.randn(2, 3, 2, 2)}


def numpy_tensors() -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors().items() if tensor.dtype is not torch.bfloat16}


def same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape, name
        assert torch.equal(got[name], tensor) and not got[name].requires_grad, name


# ---- files of the usual writers ----


def test_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(tensors(), path, metadata={"format": "pt"})
    same(read(path), tensors())


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_torch_files(tmp_path, suffix):
    path = tmp_path / f"my weights (best){suffix}"
    torch.save(tensors(), path)
    same(read(path), tensors())


def test_what_torch_saves_of_a_module(tmp_path):
    """OrderedDict with a version for each module, parameters, shared and turned tensors."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(3, 5), torch.nn.LayerNorm(5))
    module[1].weight = module[0].weight
    state = module.state_dict(keep_vars=True)
    state["turned"], state["part"] = torch.arange(6.0).reshape(2, 3).T, torch.arange(9.0)[2:4]
    torch.save(state, tmp_path / "w.bin")
    same(read(tmp_path / "w.bin"), {name: tensor.detach() for name, tensor in state.items()})


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pdparams(tmp_path, protocol):
    path = tmp_path / "w.pdparams"
    arrays = {name: tensor.numpy() for name, tensor in numpy_tensors().items()}
    arrays["turned"], arrays["far end first"] = arrays["layer.0.weight"].T, np.arange(4, dtype=">f4")
    path.write_bytes(pickle.dumps(arrays, protocol))
    others = {"turned": tensors()["layer.0.weight"].T, "far end first": torch.arange(4.0)}
    same(read(path), {**numpy_tensors(), **others})


def test_paddle_folders(tmp_path):
    want = {name: tensor for name, tensor in numpy_tensors().items() if tensor.dtype is torch.float32}
    for name, tensor in want.items():
        (tmp_path / name).write_bytes(variable(tensor.numpy()))
    same(read(tmp_path), want)


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


def test_safetensors_go_first(tmp_path):
    safetensors.torch.save_file(tensors(1), tmp_path / "model.safetensors")
    torch.save(tensors(2), tmp_path / "pytorch_model.bin")
    same(read(tmp_path), tensors(1))


def test_links_of_the_hubs_cache(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abcd"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file(tensors(), blobs / "4567")
    (snapshot / "model.safetensors").symlink_to("../../blobs/4567")
    same(read(snapshot), tensors())


def test_numbers_of_the_real_frameworks(golden):
    folder = golden / "checkpoints"
    want = safetensors.torch.load_file(folder / "paddle1_expected.safetensors")
    got = read(folder / "paddle1_per_variable")
    assert want and all(torch.equal(got[name].reshape(tensor.shape), tensor) for name, tensor in want.items())


# ---- parts of hostile files ----


class Payload:
    """Unpickling it would make a call."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def payloads(marker: Path) -> dict[str, Payload]:
    """Each would create the marker."""
    here, python = str(marker), f"open({str(marker)!r}, 'w')"
    return {
        "system": Payload(os.system, f"touch {here}"),
        "popen": Payload(subprocess.check_call, ["touch", here]),
        "eval": Payload(eval, python),
        "exec": Payload(exec, python),
        "open": Payload(open, here, "w"),
        "mkdir": Payload(os.mkdir, here),
    }


def programs(marker: Path) -> dict[str, bytes]:
    """Pickles a real unpickler would run."""
    found = {}
    for name, payload in payloads(marker).items():
        for protocol in (0, 2, 4):
            found[f"{name} {protocol}"] = pickle.dumps({"a": payload}, protocol)
        found[f"{name} alone"] = pickle.dumps(payload, 2)
    touch = f"touch {marker}".encode()
    found["inst"] = b"(S'" + touch + b"'\nios\nsystem\n."
    found["obj"] = b"(cos\nsystem\nS'" + touch + b"'\no."
    found["newobj"] = b"\x80\x02cos\nsystem\n(U" + bytes([len(touch)]) + touch + b"t\x81."
    found["build"] = b"\x80\x02}(U\x01acos\nsystem\nU" + bytes([len(touch)]) + touch + b"bu."
    return found


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def several(values) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def made(
    key="0", numel=4, size=(4,), stride=(1,), offset=0, storage="FloatStorage", name="_rebuild_tensor_v2"
) -> bytes:
    """The instructions for one tensor, as torch writes them."""
    claim = b"(" + text("storage") + b"ctorch\n" + storage.encode() + b"\n" + text(key) + text("cpu") + whole(numel)
    rest = whole(offset) + several(size) + several(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n" + name.encode() + b"\n(" + claim + b"tQ" + rest + b"tR"


def program(*items: bytes, names: str = "abcdefgh") -> bytes:
    return b"\x80\x02}(" + b"".join(text(name) + item for name, item in zip(names, items)) + b"u."


ONES = struct.pack("<4f", 1, 1, 1, 1)


def archive(code: bytes, records: dict[str, bytes] | None = None, *, top: str = "w", way: int = 0) -> bytes:
    """A zip file laid out like torch's. way: how members are stored."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", way) as file:
        for name, data in {"data.pkl": code, "version": b"3\n", "byteorder": b"little", "data/0": ONES}.items():
            file.writestr(f"{top}/{name}", data)
        for name, data in (records or {}).items():
            file.writestr(name, data)
    return out.getvalue()


def saved(content) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def legacy(content) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def headed(header, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(first=0, last=16, shape=(4,), element="F32"):
    return {"dtype": element, "shape": list(shape), "data_offsets": [first, last]}


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def variable(array: np.ndarray) -> bytes:
    """A Paddle 1.x variable of 32-bit floats."""
    descriptor = b"\x08\x05" + b"".join(b"\x10" + varint(side) for side in array.shape)
    return struct.pack("<IQIi", 0, 0, 0, len(descriptor)) + descriptor + array.tobytes()


def test_the_parts_make_good_files_when_nothing_is_wrong(tmp_path):
    """Otherwise the refusals below would say nothing."""
    (tmp_path / "w.bin").write_bytes(archive(program(made(), made(), names="ab")))
    (tmp_path / "w.safetensors").write_bytes(headed({"a": entry(), "b": entry(16, 32)}, ONES * 2))
    for name in ("w.bin", "w.safetensors"):
        same(read(tmp_path / name), {"a": torch.ones(4), "b": torch.ones(4)})


# ---- the family ----

Build = Callable[[Path, Path], Path]  # (folder, marker) -> what to read
CASES: dict[str, Build] = {}


def hostile(label: str, name: str, content: bytes | Callable[[Path], bytes]) -> None:
    """A file with this content, or with content that depends on where the marker would appear."""

    def build(folder: Path, marker: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content(marker))
        return path

    assert label not in CASES
    CASES[label] = build


def hostile_folder(label: str):
    """A function (folder, marker) -> None that fills a folder."""

    def keep(fill: Callable[[Path, Path], None]) -> None:
        def build(folder: Path, marker: Path) -> Path:
            fill(folder, marker)
            return folder

        assert label not in CASES
        CASES[label] = build

    return keep


CONTAINERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "pdparams": ("w.pdparams", lambda code: code),
    "zip": ("pytorch_model.bin", archive),
    "pt": ("w.pt", lambda code: archive(code, {"w/.data/serialization_id": b"1"})),
    "old bin": ("w.bin", lambda code: legacy({})[:0] + pickle.dumps(0x1950A86A20F9469CFC6C, 2) + code),
    "bare bin": ("w.bin", lambda code: code),
    "renamed safetensors": ("model.safetensors", lambda code: code),
    "safetensors header": ("model.safetensors", lambda code: headed(code)),
    "paddle variable": ("", lambda code: code),
}
for container, (file_name, wrap) in CONTAINERS.items():
    for label in programs(Path("x")):
        if file_name:
            hostile(f"{label} in {container}", file_name, lambda at, wrap=wrap, label=label: wrap(programs(at)[label]))
        else:
            hostile_folder(f"{label} in {container}")(
                lambda folder, at, label=label: (folder / "w_0").write_bytes(programs(at)[label])
            )
for label in payloads(Path("x")):
    hostile(f"{label} saved", "w.bin", lambda at, label=label: saved({"a": torch.ones(2), "b": payloads(at)[label]}))
    hostile(f"{label} old", "w.pt", lambda at, label=label: legacy({"a": torch.ones(2), "b": payloads(at)[label]}))


def goods() -> dict[str, tuple[str, bytes]]:
    """A good file of every kind."""
    numbers = {name: tensor.numpy() for name, tensor in numpy_tensors().items()}
    return {
        "safetensors": ("w.safetensors", safetensors.torch.save(tensors())),
        "zip": ("w.bin", saved(tensors())),
        "pdparams": ("w.pdparams", pickle.dumps(numbers, 4)),
        "variable": ("w_0", variable(np.ones((3, 5), "f4"))),
    }


for kind, (file_name, data) in goods().items():
    for at in sorted({len(data) * i // 16 for i in range(16)} | {len(data) - 1, len(data) - 9, 1, 8}):
        if kind == "variable":
            hostile_folder(f"{kind} cut at {at}")(lambda f, _, cut=data[:at]: (f / "w_0").write_bytes(cut))
        else:
            hostile(f"{kind} cut at {at}", file_name, data[:at])
hostile("safetensors with more", "w.safetensors", goods()["safetensors"][1] + b"x")
hostile("zip with more", "w.bin", goods()["zip"][1] + b"x")
hostile("old container", "w.bin", legacy(tensors()))
hostile("unknown suffix", "w.onnx", b"x")

for label, data in {
    "length beyond the file": headed({"a": entry()}, ONES, length=10**6),
    "length without end": headed({"a": entry()}, ONES, length=2**64 - 1),
    "negative length": headed({"a": entry()}, ONES, length=2**63),
    "long header": headed(b'{"a":' + b" " * 2 * DESCRIPTION + json.dumps(entry()).encode() + b"}", ONES),
    "no object": headed([]),
    "no JSON": headed(b"{" * 40),
    "deep": headed(b"[" * 50_000),
    "nothing": headed({}),
    "only metadata": headed({"__metadata__": {}}),
    "a name twice": headed(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 0, (0,))).encode(),) * 2)),
    "overlap": headed({"a": entry(), "b": entry(0, 16)}, ONES),
    "partial overlap": headed({"a": entry(), "b": entry(8, 24)}, ONES + ONES[:8]),
    "hole": headed({"a": entry(16, 32)}, ONES * 2),
    "data beyond the file": headed({"a": entry(0, 2**40, (2**38,))}, ONES),
    "shape beyond the data": headed({"a": entry(0, 16, (2**38,))}, ONES),
    "data beyond the shape": headed({"a": entry(0, 16, (3,))}, ONES),
    "shape beyond numbers": headed({"a": entry(0, 16, (2**62, 2**62))}, ONES),
    "huge and empty": headed({"a": entry(0, 0, (2**62, 2**62, 0))}),
    "negative side": headed({"a": entry(0, 16, (-4,))}, ONES),
    "two negative sides": headed({"a": entry(0, 16, (-2, -2))}, ONES),
    "negative offset": headed({"a": entry(-16, 0)}, ONES),
    "offsets backwards": headed({"a": entry(16, 0)}, ONES),
    "a side that is no whole number": headed({"a": entry(0, 16, (4.0,))}, ONES),
    "a side that is true": headed({"a": entry(0, 4, (True,))}, ONES[:4]),
    "endless number": headed(b'{"a":{"dtype":"F32","shape":[%b],"data_offsets":[0,16]}}' % (b"9" * 5000), ONES),
    "unknown element": headed({"a": entry(element="F128")}, ONES),
    "element that is no text": headed({"a": entry(element=5)}, ONES),
    "complex": headed({"a": entry(0, 16, (2,), "C64")}, ONES),
    "four-bit": headed({"a": entry(0, 16, (32,), "F4")}, ONES),
    "more fields": headed({"a": {**entry(), "call": "os.system"}}, ONES),
    "fewer fields": headed({"a": {"dtype": "F32"}}, ONES),
    "three offsets": headed({"a": {**entry(), "data_offsets": [0, 8, 16]}}, ONES),
    "constants": headed(b'{"a": NaN}'),
    "lone surrogate": headed(b'{"\\ud800":' + json.dumps(entry()).encode() + b"}", ONES),
    "no text": headed(b"\xff\xfe{}"),
}.items():
    hostile(f"safetensors: {label}", "w.safetensors", data)


def patched(data: bytes, place: int, form: str, *values: int) -> bytes:
    """place: from the end, where negative."""
    place %= len(data)
    new = struct.pack(form, *values)
    return data[:place] + new + data[place + len(new) :]


GOOD = archive(program(made()))  # a program of 180 bytes
SAVED = saved({"a": torch.ones(4)})  # with zip64 records
FIRST = GOOD.index(b"PK\1\2")  # first entry of the directory: data.pkl
SECOND = GOOD.index(b"PK\1\2", FIRST + 4)
for label, data in {
    "deflated": archive(program(made()), way=zipfile.ZIP_DEFLATED),
    "a deflated bomb": archive(program(made(numel=2**24, size=(2**24,))), {"w/data/1": bytes(2**22)}, way=8),
    "bzip2": archive(program(made()), way=zipfile.ZIP_BZIP2),
    "traversal": archive(program(made()), {"w/../../x": b"x"}),
    "absolute": archive(program(made()), {"/tmp/x": b"x"}),
    "traversal as top": archive(program(made()), top=".."),
    "no top": archive(program(made()), {"data.pkl": b"x"}),
    "backslashes": archive(program(made()), {"w\\..\\x": b"x"}),
    "two tops": archive(program(made()), {"v/data/1": ONES}),
    "second program": archive(program(made()), {"v/data.pkl": program(made())}),
    "script": archive(program(made()), {"w/code/__torch__.py": b"import os"}),
    "constants": archive(program(made()), {"w/constants.pkl": b"\x80\x02)."}),
    "debris": archive(program(made()), {"w/extra": b"x"}),
    "folder": archive(program(made()), {"w/data/": b""}),
    "no program": GOOD.replace(b"data.pkl", b"data/9.l"),
    "compressed by the directory": patched(GOOD, FIRST + 10, "<H", 8),
    "encrypted by the directory": patched(GOOD, FIRST + 8, "<H", 1),
    "packed size": patched(GOOD, FIRST + 20, "<I", 5),
    "size beyond the file": patched(GOOD, FIRST + 20, "<2I", 2**31, 2**31),
    "size beyond the next member": patched(GOOD, FIRST + 20, "<2I", 400, 400),
    "overlapping members": patched(GOOD, SECOND + 42, "<I", 8),
    "member beyond the file": patched(GOOD, SECOND + 42, "<I", 2**31),
    "local name": GOOD.replace(b"w/version", b"w/verzion", 1),
    "local mark": patched(GOOD, GOOD.index(b"w/version") - 30, "<I", 0),
    "mark": b"PK\5\6" + GOOD[4:],
    "something before": b"PK\3\4" + GOOD,
    "comment": patched(GOOD, -2, "<H", 4) + b"PK\5\6",
    "more members than told": patched(GOOD, -14, "<2H", 1, 1),
    "no members": b"PK\3\4" + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, 0, 4, 0),
    "directory elsewhere": patched(GOOD, -6, "<I", 0),
    "long directory": patched(GOOD, -10, "<2I", 2**32 - 1, 2**32 - 1),
    "zip64: directory elsewhere": patched(SAVED, -50, "<Q", 0),
    "zip64: long directory": patched(SAVED, -58, "<2Q", 2**62, 2**62),
    "zip64: record elsewhere": patched(SAVED, -34, "<Q", 0),
    "zip64: longer record": patched(SAVED, -94, "<Q", 45),
    "zip64: no record": patched(SAVED, -98, "<I", 0),
}.items():
    hostile(f"zip: {label}", "w.bin", data)
doubled = archive(program(made()), {"w/data/1": ONES}).replace(b"w/data/1", b"w/data/0")
hostile("zip: a member twice", "w.bin", doubled)

bytearray_of = b"cbuiltins\nbytearray\n" + whole(2**33) + b"\x85R"
for label, code in {
    "more values than the member": program(made(numel=2**34, size=(2**34,))),
    "fewer values than the member": program(made(numel=2)),
    "size beyond the data": program(made(size=(2**33,))),
    "offset beyond the data": program(made(offset=2**33)),
    "stride beyond the data": program(made(stride=(2**33,))),
    "one value many times": program(made(size=(2**20, 2**13), stride=(0, 0))),
    "values twice": program(made(size=(3, 3), stride=(1, 1))),
    "negative size": program(made(size=(-4,))),
    "negative offset": program(made(offset=-1)),
    "absent member": program(made(key="7")),
    "zero byte in a key": program(made(), made(key="0\0a"), made(key="0\0b")),
    "zero byte in a name": program(made(), names=["a\0b"]),
    "no tensor": program(whole(5)),
    "text": program(text("x")),
    "nothing": program(b"N"),
    "empty": program(),
    "nested": program(program(made())[2:-1]),
    "not a dictionary": b"\x80\x02" + made() + b".",
    "a name that is no text": b"\x80\x02}" + whole(5) + made() + b"s.",
    "a name twice": program(made(), made(), names="aa"),
    "items replaced": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("items") + made() + b"sb.",
    "gigabytes of zeros": program(bytearray_of),
    "bytearray beside": program(made(), bytearray_of),
    "Counter": b"\x80\x02ccollections\nCounter\n)R.",
    "set": program(b"cbuiltins\nset\n)R"),
    "encode": program(b"c_codecs\nencode\n" + text("x") + text("latin1") + b"\x86R"),
    "list": program(b"]"),
    "without data": program(made(name="_rebuild_meta_tensor_no_storage")),
    "sparse": program(made(name="_rebuild_sparse_tensor")),
    "wrapper": program(made(name="_rebuild_wrapper_subclass")),
    "complex": program(made(storage="ComplexFloatStorage", numel=2, size=(2,))),
    "bool": program(made(storage="BoolStorage", numel=16, size=(16,))),
    "quantised": program(made(storage="QInt8Storage", numel=16, size=(16,))),
    "fifth version": b"\x80\x05" + program(made())[2:],
    "memo without end": b"\x80\x02}r\xff\xff\xff\xff.",
    "memo that is empty": b"\x80\x02h\x07.",
    "unfinished": program(made())[:-1],
    "no stack": b"\x80\x02u.",
    "no marks": b"\x80\x02t.",
    "no storage": program(b"(" + text("module") + text("x") + b"tQ"),
    "claim of nothing": program(b")Q"),
    "claim of a number": program(whole(5) + b"Q"),
    "long name": b"\x80\x02}X\xff\xff\xff\x7fa.",
    "long number": b"\x80\x02}\x8b\xff\xff\xff\x7fa.",
    "a pickle of nothing": b"",
}.items():
    hostile(f"program: {label}", "w.bin", archive(code))
for label, content in {
    "nested": {"model": {"a": torch.ones(2)}},
    "with a step": {"a": torch.ones(2), "step": 7},
    "list": [torch.ones(2)],
    "a tensor": torch.ones(2),
    "bare OrderedDict": OrderedDict(),
    "sparse": {"a": torch.eye(3).to_sparse()},
    "meta": {"a": torch.ones(2, device="meta")},
    "expanded": {"a": torch.ones(1).expand(1000)},
    "complex": {"a": torch.ones(2, dtype=torch.complex64)},
    "bool": {"a": torch.ones(2, dtype=torch.bool)},
    "module": torch.nn.Linear(2, 2),
}.items():
    hostile(f"saved: {label}", "w.pt", saved(content))

for element in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
    for value in ("nan", "inf", "-inf"):
        spoilt = {"good": torch.ones(3), "bad": torch.tensor([[1.0], [float(value)]], dtype=element)}
        label = f"{value} of {element}".replace("torch.", "")
        hostile(f"safetensors: {label}", "w.safetensors", safetensors.torch.save(spoilt))
        hostile(f"zip: {label}", "w.bin", saved(spoilt))
        if element is not torch.bfloat16:
            content = pickle.dumps({name: tensor.numpy() for name, tensor in spoilt.items()}, 4)
            hostile(f"pdparams: {label}", "w.pdparams", content)

memo = b"q\x01"
shared_array = pickle.dumps(np.ones(50_000), 2)[2:-1] + b"r\xff\0\0\0"
for label, data in {
    "nothing": b"",
    "one array under many names": b"\x80\x02}(" + text("a") + shared_array
    + b"".join(text(f"n{i}") + b"j\xff\0\0\0" for i in range(500)) + b"u.",
    "a torch file": saved(tensors()),
    "bool": pickle.dumps({"a": np.ones(3, bool)}, 2),
}.items():  # fmt: skip
    hostile(f"pdparams: {label}", "w.pdparams", data)

namesake = [
    "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight", "encoder_norm.weight", "encoder_norm.bias",
    "encoder.layers.0.self_attn.q_proj.weight", "encoder.layers.0.norm1.weight",
]  # fmt: skip
for prefix in ("", "unimo."):
    chinese = {f"{prefix}{name}": torch.ones(2) for name in namesake}
    hostile(f"PaddleNLP {prefix} safetensors", "model.safetensors", safetensors.torch.save(chinese))
    arrays = {name: tensor.numpy() for name, tensor in chinese.items()}
    hostile(f"PaddleNLP {prefix} pdparams", "model_state.pdparams", pickle.dumps(arrays, 2))

PART = safetensors.torch.save({"a": torch.ones(4)})


def indexed(folder: Path, index, *, name: str = "model.safetensors.index.json") -> None:
    data = index if isinstance(index, bytes) else json.dumps(index).encode()
    (folder / name).write_bytes(data)
    for shard in ("x.safetensors", "y.safetensors"):
        (folder / shard).write_bytes(PART)
    (folder.parent / "outside.safetensors").write_bytes(PART)


for label, index in {
    "parent": {"weight_map": {"a": "../outside.safetensors"}},
    "deep parent": {"weight_map": {"a": "sub/../../outside.safetensors"}},
    "absolute": {"weight_map": {"a": "/tmp/outside.safetensors"}},
    "below": {"weight_map": {"a": "sub/x.safetensors"}},
    "here": {"weight_map": {"a": "./x.safetensors"}},
    "hidden": {"weight_map": {"a": ".safetensors"}},
    "backslash": {"weight_map": {"a": "..\\x.safetensors"}},
    "drive": {"weight_map": {"a": "C:x.safetensors"}},
    "address": {"weight_map": {"a": "https://example.org/x.safetensors"}},
    "zero byte": {"weight_map": {"a": "x\0.safetensors"}},
    "line feed": {"weight_map": {"a": "x.safetensors\n"}},
    "another kind": {"weight_map": {"a": "x.bin"}},
    "itself": {"weight_map": {"a": "model.safetensors.index.json"}},
    "number": {"weight_map": {"a": 5}},
    "list of files": {"weight_map": {"a": ["x.safetensors"]}},
    "empty name": {"weight_map": {"a": ""}},
    "absent file": {"weight_map": {"a": "z.safetensors"}},
    "absent tensor": {"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}},
    "tensor not promised": {"weight_map": {"b": "x.safetensors"}},
    "tensor in two files": {"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}},
    "empty": {"weight_map": {}},
    "no map": {"metadata": {}},
    "map that is none": {"weight_map": ["x.safetensors"]},
    "list": ["x.safetensors"],
    "a name twice": b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
    "no JSON": b"{",
    "deep": b"[" * 100_000,
    "long": b'{"weight_map": {"a": "x.safetensors"}' + b" " * DESCRIPTION + b"}",
}.items():
    hostile_folder(f"index: {label}")(lambda folder, _, index=index: indexed(folder, index))


@hostile_folder("index of torch files: payload in a shard")
def _(folder, marker):
    shard = "pytorch_model-00001-of-00001.bin"
    (folder / shard).write_bytes(saved({"a": payloads(marker)["system"]}))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))


@hostile_folder("index: a link to a shard outside")
def _(folder, marker):
    indexed(folder, {"weight_map": {"a": "z.safetensors"}})
    (folder / "z.safetensors").symlink_to("../outside.safetensors")


@hostile_folder("index: a link itself")
def _(folder, marker):
    indexed(folder, {"weight_map": {"a": "x.safetensors"}}, name="elsewhere.json")
    (folder / "model.safetensors.index.json").symlink_to("elsewhere.json")


@hostile_folder("index: a folder as shard")
def _(folder, marker):
    indexed(folder, {"weight_map": {"a": "z.safetensors"}})
    (folder / "z.safetensors").mkdir()


@hostile_folder("index: a pipe as shard")
def _(folder, marker):
    indexed(folder, {"weight_map": {"a": "z.safetensors"}})
    os.mkfifo(folder / "z.safetensors")


for whole_file, target in {
    "model.safetensors": ["../outside.safetensors", "/dev/zero", "model.safetensors", "../absent"],
    "pytorch_model.bin": ["../outside.safetensors", "/dev/zero", "pytorch_model.bin", "../absent"],
    "w_0": ["../outside.safetensors", "/dev/zero", "w_0", "../absent"],
}.items():
    for one in target:

        @hostile_folder(f"link: {whole_file} to {one}")
        def _(folder, marker, whole_file=whole_file, one=one):
            (folder.parent / "outside.safetensors").write_bytes(PART)
            (folder / whole_file).symlink_to(one)


@hostile_folder("link: beside snapshots, out of blobs")
def _(folder, marker):
    (folder.parent / "outside.safetensors").write_bytes(PART)
    (folder / "model.safetensors").symlink_to("../blobs/../outside.safetensors")
    (folder.parent / "blobs").mkdir()


for whole_file in ("model.safetensors", "pytorch_model.bin", "w_0"):

    @hostile_folder(f"pipe: {whole_file}")
    def _(folder, marker, whole_file=whole_file):
        os.mkfifo(folder / whole_file)

    @hostile_folder(f"folder: {whole_file}")
    def _(folder, marker, whole_file=whole_file):
        (folder / whole_file).mkdir()


@hostile_folder("an empty folder")
def _(folder, marker):
    pass


def _absent(folder, marker):
    return folder / "absent.safetensors"


CASES["absent"] = _absent
assert len(CASES) >= 300


# ---- refused, nothing run, nothing eaten ----


def address_space() -> int:
    """The most this process ever had mapped, in bytes: what torch asks for, even where it never touches it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmPeak"))
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


def size_of(path: Path) -> int:
    paths = path.iterdir() if path.is_dir() else [path]
    return sum(part.stat().st_size for part in paths if part.is_file() and not part.is_symlink())


@pytest.mark.parametrize("case", CASES)
def test_hostile_files_are_refused(tmp_path, case):
    folder, marker = tmp_path / "weights", tmp_path / "marker"
    folder.mkdir()
    path = CASES[case](folder, marker)
    with at_most(2 * size_of(path)), pytest.raises(WeightsError) as caught:
        read(path)
    assert str(path) in str(caught.value.where)
    assert not marker.exists()


@pytest.mark.parametrize("label", payloads(Path("x")))
def test_the_payloads_are_live(tmp_path, label):
    """The harness can fail: an ordinary unpickler runs each of them."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps({"a": payloads(marker)[label]}))
    assert marker.exists()


def test_the_meter_sees_greed():
    with pytest.raises(AssertionError, match="in Python"), at_most(0):
        bytearray(4 << 20)
    if address_space():
        with pytest.raises(AssertionError, match="mapped"), at_most(0):
            torch.empty(8 << 30, dtype=torch.uint8)  # never touched


def repeated(start: bytes, unit: bytes, end: bytes, length: int) -> bytes:
    return start + unit * ((length - len(start) - len(end)) // len(unit)) + end


SWELLING = {  # what costs most memory for its length
    "marks": ("w.pdparams", lambda length: repeated(b"\x80\x02", b"(", b".", length)),
    "dictionaries": ("w.bin", lambda length: archive(repeated(b"\x80\x02", b"}", b".", length))),
    "lists": ("w.safetensors", lambda length: headed(repeated(b"[", b"[],", b"0]", length))),
}


@pytest.mark.parametrize("case", SWELLING)
def test_descriptions_that_swell(tmp_path, case):
    """As long as a description may be, and longer: the first costs its constant, the second nothing."""
    name, build = SWELLING[case]
    path = tmp_path / name
    for length, most in ((DESCRIPTION, 24 << 20), (2 * DESCRIPTION, 1 << 20)):
        path.write_bytes(build(length))
        with at_most(2 * size_of(path), python=most), pytest.raises(WeightsError):
            read(path)


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
    with at_most(times * size_of(path)):
        found = read(path)
    assert float(found["a"].sum()) == 2 << 20


def damaged(data: bytes, seed: int) -> bytes:
    """Bits turned, stretches overwritten or doubled."""
    rng = random.Random(seed)
    # Most of what can be wrong is in descriptions, at the front and at the end.
    at = rng.choice([rng.randrange(len(data)), rng.randrange(min(len(data), 400)), -1 - rng.randrange(800) % len(data)])
    at %= len(data)
    if seed % 3 == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if seed % 3 == 1:
        return data[:at] + rng.randbytes(8) + data[at + 8 :]
    return data[:at] + data[max(0, at - 20) : at] + data[at:]


@pytest.mark.parametrize("kind", ["safetensors", "zip", "pdparams"])
def test_damaged_files_are_refused_or_harmless(tmp_path, kind):
    name, data = goods()[kind]
    path, refused = tmp_path / name, 0
    with at_most(4 * len(data)):
        for seed in range(200):
            path.write_bytes(damaged(data, seed))
            try:
                for tensor in read(path).values():
                    assert tensor.numel() * tensor.itemsize <= 2 * len(data)
            except WeightsError as error:
                assert str(path) in str(error.where)
                refused += 1
    assert refused > 100  # a flipped bit inside a number is a number


def test_errors_say_which_tensor(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"good": torch.ones(2), "layer.3.bias": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(WeightsError, match="not finite") as caught:
        read(path)
    assert str(caught.value.where) == f"{path}, layer.3.bias"


def test_the_old_container_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "w.bin").write_bytes(legacy({"a": torch.ones(2)}))
    with pytest.raises(WeightsError, match="zip") as caught:
        read(tmp_path / "w.bin")
    assert "torch.save(torch.load(" in caught.value.do
    torch.save(torch.load(tmp_path / "w.bin", weights_only=True), tmp_path / "new.bin")
    same(read(tmp_path / "new.bin"), {"a": torch.ones(2)})


def test_the_namesake_is_told_apart(tmp_path):
    path = CASES["PaddleNLP unimo. pdparams"](tmp_path, tmp_path)
    with pytest.raises(WeightsError, match="another network") as caught:
        read(path)
    assert "WordPiece" in caught.value.do


def test_every_instruction_torch_needs_is_allowed_and_no_call_beyond(tmp_path):
    """A module of many layers uses long memo numbers; a large tensor, long whole numbers."""
    module = torch.nn.ModuleList(torch.nn.LayerNorm(2) for _ in range(120))
    torch.save(module.state_dict(), tmp_path / "w.bin")
    same(read(tmp_path / "w.bin"), module.state_dict())
    assert not {"NEWOBJ", "INST", "OBJ", "STACK_GLOBAL", "EXT1", "PERSID"} & weight_files.INSTRUCTIONS
