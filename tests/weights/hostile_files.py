"""Hostile weight files, by name: payloads that would run, and files that lie about their sizes and contents."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from unimo.safetensors_files import DTYPES


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    found = {f"layer.{i}.weight": (9 * torch.randn(3, 1 + i)).to(element) for i, element in enumerate(DTYPES)}
    return found | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "image.π": torch.randn(2, 3, 2, 2)}


def arrays() -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors().items() if tensor.dtype is not torch.bfloat16}


# ---- parts of hostile files


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
    """Pickles an ordinary unpickler would run."""
    found = {
        f"{name} {protocol}": pickle.dumps({"a": payload, "b": np.ones(3, "f4")}, protocol)
        for name, payload in payloads(marker).items()
        for protocol in (0, 2, 4)
    }
    touch = f"touch {marker}".encode()
    short = b"U" + bytes([len(touch)]) + touch
    return found | {
        "alone": pickle.dumps(payloads(marker)["system"], 2),
        "in an array": pickle.dumps({"a": np.array([payloads(marker)["system"]], object)}, 4),
        "inst": b"(S'" + touch + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + touch + b"'\no.",
        "newobj": b"\x80\x02cos\nsystem\n(" + short + b"t\x81.",
        "by import": b"\x80\x02cbuiltins\n__import__\nU\x02os\x85R.",
        "by attribute": b"\x80\x04\x8c\x08builtins\x8c\x0cgetattr\x93.",
        "through numpy": b"\x80\x04\x8c\x05numpy\x8c\x16core.multiarray.os.path\x93" + short + b"\x85R.",
        "by a state": b"\x80\x02cnumpy\ndtype\nU\x02f4\x85R}(U\x0c__setstate__cos\nsystem\nub" + short + b"b.",
        "by the decoder": b"\x80\x02c_codecs\ndecode\n" + short + b"U\x03hex\x86R.",
    }


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def several(values) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def made(key="0", numel=4, size=(4,), stride=(1,), offset=0, storage="Float", name="_rebuild_tensor_v2") -> bytes:
    """The instructions for one tensor, as torch writes them."""
    claim = b"(" + text("storage") + f"ctorch\n{storage}Storage\n".encode() + text(key) + text("cpu") + whole(numel)
    rest = whole(offset) + several(size) + several(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n" + name.encode() + b"\n(" + claim + b"tQ" + rest + b"tR"


def program(*items: bytes, names: str = "abcdefgh") -> bytes:
    return b"\x80\x02}(" + b"".join(text(name) + item for name, item in zip(names, items)) + b"u."


ONES = struct.pack("<4f", 1, 1, 1, 1)


def archive(code: bytes, records: dict[str, bytes] | None = None, *, way: int = 0) -> bytes:
    """A zip file laid out like torch's. way: how members are stored."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", way) as file:
        for name, data in {"data.pkl": code, "version": b"3\n", "byteorder": b"little", "data/0": ONES}.items():
            file.writestr(f"w/{name}", data)
        for name, data in (records or {}).items():
            file.writestr(name, data)
    return out.getvalue()


def saved(content, **options) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def legacy(content) -> bytes:
    return saved(content, _use_new_zipfile_serialization=False)


def headed(header, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(first=0, last=16, shape=(4,), element="F32"):
    return {"dtype": element, "shape": list(shape), "data_offsets": [first, last]}


# ---- files that lie about themselves

Files = dict[str, bytes]
CASES: dict[str, tuple[str | None, Files]] = {}  # label -> what to read (None: the folder), and the files


def cases(prefix: str, name: str, contents: dict[str, bytes]) -> None:
    CASES.update({f"{prefix}: {label}": (name, {name: data}) for label, data in contents.items()})


GOOD = {
    "safetensors": ("w.safetensors", safetensors.torch.save(tensors())),
    "zip": ("w.bin", saved(tensors())),
    "pdparams": ("w.pdparams", pickle.dumps(arrays(), 4)),
}
for kind, (file_name, data) in GOOD.items():
    cuts = sorted({len(data) * i // 8 for i in range(8)} | {len(data) - 1, len(data) - 9, 1, 8})
    cases(f"{kind} cut", file_name, {str(at): data[:at] for at in cuts})

cases("safetensors", "w.safetensors", {
    "more": GOOD["safetensors"][1] + b"x",
    "length beyond the file": headed({"a": entry()}, ONES, length=10**6),
    "length without end": headed({"a": entry()}, ONES, length=2**64 - 1),
    "deep": headed(b"[" * 50_000),
    "overlap": headed({"a": entry(), "b": entry(0, 16)}, ONES),
    "hole": headed({"a": entry(16, 32)}, ONES * 2),
    "data beyond the file": headed({"a": entry(0, 2**40, (2**38,))}, ONES),
    "shape beyond the data": headed({"a": entry(0, 16, (2**38,))}, ONES),
    "data beyond the shape": headed({"a": entry(0, 16, (3,))}, ONES),
    "shape beyond numbers": headed({"a": entry(0, 16, (2**62, 2**62))}, ONES),
    "negative side": headed({"a": entry(0, 16, (-4,))}, ONES),
    "unknown element": headed({"a": entry(element="F128")}, ONES),
    "complex": headed({"a": entry(0, 16, (2,), "C64")}, ONES),
    "no text": headed(b"\xff\xfe{}"),
})  # fmt: skip
cases("zip", "w.bin", {
    "more": GOOD["zip"][1] + b"x" * 70_000,
    "old container": legacy(tensors()),
    "deflated": archive(program(made()), way=zipfile.ZIP_DEFLATED),
    "a deflated bomb": archive(program(made(numel=2**24, size=(2**24,))), {"w/data/1": bytes(2**22)}, way=8),
    "second program": archive(program(made()), {"v/data.pkl": program(made())}),
    "script": archive(program(made()), {"w/constants.pkl": b"\x80\x02).", "w/code/__torch__.py": b"import os"}),
    "no program": archive(program(made())).replace(b"data.pkl", b"data/9.l"),
    "no zip": b"PK\5\6" + archive(program(made()))[4:],
})  # fmt: skip
bytearray_of = b"cbuiltins\nbytearray\n" + whole(2**33) + b"\x85R"
cases("program", "w.bin", {label: archive(code) for label, code in {
    "more values than the member": program(made(numel=2**34, size=(2**34,))),
    "size beyond the data": program(made(size=(2**33,))),
    "offset beyond the data": program(made(offset=2**33)),
    "stride beyond the data": program(made(stride=(2**33,))),
    "one value many times": program(made(size=(2**20, 2**13), stride=(0, 0))),
    "values twice": program(made(size=(3, 3), stride=(1, 1))),
    "absent member": program(made(key="7")),
    "zero byte in a key": program(made(), made(key="0\0a"), made(key="0\0b")),
    "no tensor": program(whole(5)),
    "empty": program(),
    "nested": program(program(made())[2:-1]),
    "not a dictionary": b"\x80\x02" + made() + b".",
    "a name that is no text": b"\x80\x02}" + whole(5) + made() + b"s.",
    "items replaced": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("items") + made() + b"sb.",
    "gigabytes of zeros": program(made(), bytearray_of),
    "Counter": b"\x80\x02ccollections\nCounter\n)R.",
    "sparse": program(made(name="_rebuild_sparse_tensor")),
    "bool": program(made(storage="Bool", numel=16, size=(16,))),
    "memo without end": b"\x80\x02}r\xff\xff\xff\xff.",
    "unfinished": program(made())[:-1],
    "long name": b"\x80\x02}X\xff\xff\xff\x7fa.",
    "long number": b"\x80\x02}\x8b\xff\xff\xff\x7fa.",
    "a pickle of nothing": b"",
}.items()})  # fmt: skip
cases("saved", "w.pt", {label: saved(content) for label, content in {
    "nested": {"model": {"a": torch.ones(2)}},
    "with a step": {"a": torch.ones(2), "step": 7},
    "sparse": {"a": torch.eye(3).to_sparse()},
    "meta": {"a": torch.ones(2, device="meta")},
    "expanded": {"a": torch.ones(1).expand(1000)},
    "complex": {"a": torch.ones(2, dtype=torch.complex64)},
    "module": torch.nn.Linear(2, 2),
}.items()})  # fmt: skip

huge = struct.pack("<Q", 2**62)
shared_array = pickle.dumps(np.ones(50_000), 2)[2:-1] + b"r\xff\0\0\0"
latin = text("a" * 10_000) + b"q\1(" + b"c_codecs\nencode\nh\1U\6latin1\x86R" * 500
reconstruct = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + whole(2**40) + b"\x85U\1b\x87R"
cases("pdparams", "w.pdparams", {
    "nothing": b"",
    "a torch file": saved(tensors()),
    "one array under many names": b"\x80\x02}(" + text("a") + shared_array
    + b"".join(text(f"n{i}") + b"j\xff\0\0\0" for i in range(500)) + b"u.",
    "the same text as bytes again and again": b"\x80\x02}(" + latin + b"tu.",
    "an array without data": b"\x80\x02}U\1a" + reconstruct + b"s.",
    "bool": pickle.dumps({"a": np.ones(3, bool)}, 2),
    "a name that is no text": pickle.dumps({1: np.ones(2)}, 4),
    "a list": pickle.dumps([np.ones(2)], 4),
    "a structured array": pickle.dumps({"a": np.zeros(2, "f4,i4")}, 4),
    "protocol 5": pickle.dumps({"a": np.ones(2)}, 5),
    "BINBYTES8": b"\x80\x04}\x8c\x01a\x8e" + huge + b"x\x94s.",
    "BYTEARRAY8": b"\x80\x05}\x8c\x01a\x96" + huge + b"x\x94s.",
    "FRAME": b"\x80\x04\x95" + huge + b"}.",
    "LONG_BINPUT": b"\x80\x04}r\xff\xff\xff\xff.",
    "PERSID": b"\x80\x02}U\x01aPname\ns.",
    "EXT1": b"\x80\x02}U\x01a\x82\x01s.",
    **{f"{name} of a size": b"\x80\x02}U\x01ac" + name.replace(".", "\n").encode() + b"\n" + whole(2**40) + b"\x85Rs."
       for name in ("numpy.ndarray", "numpy.zeros", "builtins.bytearray", "builtins.bytes", "builtins.list")},
})  # fmt: skip
for value in ("nan", "inf", "-inf"):
    for element in ("float64", "float32", "float16"):
        spoilt = {"good": torch.ones(3), "bad": torch.tensor([[1.0], [float(value)]], dtype=getattr(torch, element))}
        content = pickle.dumps({name: tensor.numpy() for name, tensor in spoilt.items()}, 4)
        cases(f"{value} of {element} 1", "w.safetensors", {"": safetensors.torch.save(spoilt)})
        cases(f"{value} of {element} 2", "w.bin", {"": saved(spoilt)})
        cases(f"{value} of {element} 3", "w.pdparams", {"": content})
cases("unknown suffix", "w.onnx", {"": b"x"})
CASES["absent"] = ("absent.safetensors", {})
CASES["an empty folder"] = (None, {})

NAMESAKE = [
    "embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight", "encoder_norm.weight",
    "encoder.layers.0.norm1.weight",
]  # fmt: skip
for prefix in ("", "unimo."):
    chinese = {f"{prefix}{name}": torch.ones(2) for name in NAMESAKE}
    pickled = pickle.dumps({name: tensor.numpy() for name, tensor in chinese.items()}, 2)
    cases(f"PaddleNLP {prefix} 1", "model.safetensors", {"": safetensors.torch.save(chinese)})
    cases(f"PaddleNLP {prefix} 2", "model_state.pdparams", {"": pickled})

PART = safetensors.torch.save({"a": torch.ones(4)})
for label, index in {
    "parent": {"a": "../outside.safetensors"},
    "absolute": {"a": "/tmp/outside.safetensors"},
    "hidden": {"a": ".safetensors"},
    "address": {"a": "https://example.org/x.safetensors"},
    "zero byte": {"a": "x\0.safetensors"},
    "line feed": {"a": "x.safetensors\n"},
    "another kind": {"a": "x.bin"},
    "absent file": {"a": "z.safetensors"},
    "absent tensor": {"a": "x.safetensors", "b": "x.safetensors"},
    "tensor not promised": {"b": "x.safetensors"},
    "tensor in two files": {"a": "x.safetensors", "b": "y.safetensors"},
    "empty": {},
    "map that is none": ["x.safetensors"],
    "no JSON": b"{",
    "deep": b"[" * 100_000,
    "long": b'{"weight_map": {"a": "x.safetensors"}' + b" " * (1 << 18) + b"}",
}.items():
    listed = index if isinstance(index, bytes) else json.dumps({"weight_map": index}).encode()
    files = {"model.safetensors.index.json": listed, "x.safetensors": PART, "y.safetensors": PART}
    CASES[f"index: {label}"] = (None, {**files, "../outside.safetensors": PART})
