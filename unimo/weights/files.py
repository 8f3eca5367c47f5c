"""Every weight file we take, through one door. Nothing in a file is ever run.

    a folder           Hugging Face: model.safetensors or its shards, else pytorch_model.bin or its shards;
                       otherwise Paddle 1.x, one file per variable, or one file and a list of names
    .safetensors
    .bin .pt .pth      torch's zip container, a flat dictionary of tensors
    .pdparams          Paddle 2.x

Every size is checked against the file before memory is asked for: reading takes at most twice the file, three times for
a pickle of protocol 2, which spells bytes as text. What describes the data (a header, a directory, a program) may grow
eightyfold as Python objects, so it is kept short: see `_describing`. All errors are WeightsError and say where.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from unimo.errors import WeightsError
from unimo.json_files import load_json, parse_json
from unimo.weights import paddle, paddle_variables

ELEMENTS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
DESCRIPTION = 1 << 18  # bytes of a header or program, enough for 1,500 tensors; instructions of a Paddle pickle


def read(path: str | Path, *, names: str | Path | None = None) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU, all finite.

    names: the list of names of a combined file of Paddle 1.x (`unimo.weights.paddle_variables`). Raises WeightsError
    for what is no weight file, does not fit its own description, holds anything but named tensors of numbers, or
    belongs to a network that only shares UNIMO's name.
    """
    path = Path(path)
    try:
        folder_or_file = _folder if path.is_dir() else _file
        found = folder_or_file(path) if names is None else _combined(path, Path(names))
    except OSError as fault:
        raise WeightsError("cannot read the weights", where=fault.filename or path, got=fault.strerror) from fault
    if not found:
        raise WeightsError("no tensors in the file", where=path, expected="name -> tensor")
    _refuse_namesake(found, path)
    return found


def _folder(folder: Path) -> dict[str, Tensor]:
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if (folder / whole).exists():
            return _file(_plain(folder, whole))
        if (folder / f"{whole}.index.json").exists():
            return _shards(folder, f"{whole}.index.json")
    return _of_paddle(paddle_variables.read_folder(folder), folder)


def _combined(path: Path, names: Path) -> dict[str, Tensor]:
    file = paddle_variables.combined_in(path, names) if path.is_dir() else path
    return _of_paddle(paddle_variables.read_combined(file, names), path)


def _of_paddle(arrays: dict[str, np.ndarray], path: Path) -> dict[str, Tensor]:
    return _usable({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def _file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        what = "not a plain file" if path.exists() else "no such file"
        raise WeightsError(what, where=path, expected="a weight file or a folder of them")
    if path.suffix not in READERS:
        raise WeightsError(
            "unknown kind of weight file",
            where=path,
            got=path.suffix or "no suffix",
            expected=", ".join(READERS),
            do="a combined file of Paddle 1.x is read with the list of its names: --names FILE",
        )
    return _usable(READERS[path.suffix](path, path.stat().st_size), path)


def _describing(size: int) -> int:
    """How long the description of a file of `size` bytes may be, to take 20 MiB and less than the file at most."""
    return DESCRIPTION + size // 128


# ---- folders in Hugging Face format ---------------------------------------------------------------------------------


def _shards(folder: Path, index: str) -> dict[str, Tensor]:
    """The files an index names; each must hold exactly the tensors the index promises of it."""
    where = _plain(folder, index)
    content = load_json(where, max_bytes=DESCRIPTION, error=WeightsError)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict):
        raise WeightsError("not an index of weights", where=where, expected='"weight_map": {tensor: file}')
    kind = re.escape(Path(index.removesuffix(".index.json")).suffix)
    for shard in places.values():
        # No separators, no dots in front: a name that cannot leave the folder.
        if not isinstance(shard, str) or not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]*{kind}", shard):
            raise WeightsError("impossible file name in the index", where=where, got=shard)
    found: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        part = _file(_plain(folder, shard))
        promised = {name for name, place in places.items() if place == shard}
        if promised != set(part):
            raise WeightsError(
                "a file does not hold what its index promises",
                where=folder / shard,
                got=f"missing {sorted(promised - set(part))[:3]}, extra {sorted(set(part) - promised)[:3]}",
            )
        found |= part
    return found


def _plain(folder: Path, name: str) -> Path:
    """A plain file of this folder. Links are followed only where the hub's cache lays them: snapshots/ID to blobs."""
    path, home = folder / name, folder.resolve()
    plain = path.is_file()
    if plain and path.is_symlink():
        plain = home.parent.name == "snapshots" and path.resolve().parent == home.parent.parent / "blobs"
    if not plain:
        raise WeightsError("not a plain file", where=path, expected="a file of its own in this folder")
    return path


# ---- safetensors ----------------------------------------------------------------------------------------------------


def _safetensors(path: Path, size: int) -> dict[str, Tensor]:
    """length of the header (8 bytes) · header (JSON) · data without holes.

    Read here because the usual reader lets a name stand twice.
    """
    with path.open("rb") as file:
        length, entries = _header(file, size, path)
        found, at = {}, 0
        for first, last, shape, dtype, name in sorted(entries, key=lambda entry: entry[:2]):
            where, wanted = f"{path}, {name}", math.prod(shape) * dtype.itemsize
            _expect(first == at, "data with a hole or an overlap", where, f"data from byte {first}", at)
            _expect(last - first == wanted, "the data do not fit the shape", where, f"{last - first} bytes", wanted)
            _expect(last <= size - 8 - length, "truncated file", where, f"{size} bytes", 8 + length + last)
            data = torch.empty(wanted, dtype=torch.uint8)
            file.readinto(data.numpy().data)
            found[name] = data.view(dtype).reshape(shape)
            at = last
        _expect(8 + length + at == size, "bytes that belong to no tensor", path, f"{size} bytes", 8 + length + at)
    return found


def _header(
    file: BinaryIO, size: int, path: Path
) -> tuple[int, list[tuple[int, int, tuple[int, ...], torch.dtype, str]]]:
    """Length of the header; first byte, last byte + 1, shape, element type and name of every tensor in it."""
    length = int.from_bytes(file.read(8), "little")
    most = min(size - 8, _describing(size))
    _expect(length <= most, "not a safetensors file", path, f"a header of {length} bytes", f"at most {most}")
    header = parse_json(file.read(length), where=f"{path}, header", error=WeightsError)
    _expect(isinstance(header, dict), "not a safetensors file", path, type(header).__name__, "name -> tensor")
    header.pop("__metadata__", None)
    return length, [(*_entry(entry, f"{path}, {name}"), name) for name, entry in header.items()]


def shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a .safetensors file: its header alone is read. Raises as `read`."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError("no such file", where=path, expected="a .safetensors file")
    try:
        with path.open("rb") as file:
            return {name: shape for *_, shape, _, name in _header(file, path.stat().st_size, path)[1]}
    except OSError as fault:
        raise WeightsError("cannot read the weights", where=path, got=fault.strerror) from fault


def _entry(entry: Any, where: str) -> tuple[int, int, tuple[int, ...], torch.dtype]:
    """First byte, last byte + 1, shape, element type."""
    match entry:
        case {"dtype": str(element), "shape": [*shape], "data_offsets": [first, last]} if len(entry) == 3:
            _expect(element in ELEMENTS, "unknown element type", where, element, ", ".join(ELEMENTS))
            whole = all(type(number) is int and number >= 0 for number in (*shape, first, last))
            _expect(whole and math.prod(side or 1 for side in shape) < 2**60, "impossible shape", where, entry)
            return first, last, tuple(shape), ELEMENTS[element]
    raise WeightsError("not an entry of a safetensors header", where=where, expected="dtype, shape, data_offsets")


# ---- torch's zip container ------------------------------------------------------------------------------------------

MEMBER = re.compile(
    r"(?!\.\.?/)(?P<top>[^/\\\0]+)/(data\.pkl|data/[0-9]+|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id)"
)
# What torch.save needs to write a dictionary of tensors; torch.load with weights_only would run several more.
CALLS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch DoubleStorage", "torch FloatStorage", "torch HalfStorage", "torch BFloat16Storage",
    "torch LongStorage", "torch IntStorage", "torch ShortStorage", "torch CharStorage", "torch ByteStorage",
}  # fmt: skip
INSTRUCTIONS = {
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "EMPTY_DICT", "SETITEM", "SETITEMS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "NEWTRUE", "NEWFALSE", "NONE",
}  # fmt: skip


def _torch(path: Path, size: int) -> dict[str, Tensor]:
    """A dictionary that torch.save wrote. torch.load reads it, once directory and program have been looked through."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            raise WeightsError(
                "not torch's zip container",
                where=path,
                expected="a file of torch.save, version 1.6 or later",
                do="an older one, where you trust it: torch.save(torch.load(OLD, weights_only=True), NEW)",
            )
        start, length = _program(file, size, path)
        file.seek(start)
        made = _check_program(file.read(length), path)
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as fault:  # its readers raise whatever a damaged file leads them into
            raise WeightsError(
                "not a plain dictionary of tensors",
                where=path,
                got=type(fault).__name__,  # its message would advise to load without care
                do="fetch the file again, or ask for safetensors",
            ) from fault
    _expect(isinstance(content, dict), "not a dictionary", path, type(content).__name__, "name -> tensor")
    found = {}
    for name, value in dict.items(content):  # an OrderedDict's own `items` can be replaced by its file
        where = f"{path}, {name}"
        _expect(isinstance(name, str), "a name that is not text", where, type(name).__name__)
        _expect(isinstance(value, Tensor), "an entry that is no tensor", where, type(value).__name__)
        held = value.untyped_storage().nbytes()
        _expect(value.numel() * value.itemsize <= held, "a tensor larger than its data", where, tuple(value.shape))
        found[name] = value.detach()
    kept = len({id(value) for value in dict.values(content)})
    _expect(made == kept, "tensors without a name of their own", path, f"{made} made, {kept} named")
    return found


def _program(file: BinaryIO, size: int, path: Path) -> tuple[int, int]:
    """First byte and length of the pickle in a zip file that can be read in one way only.

    So: the directory ends the file, without comment; members are stored as they are, apart from each other and inside
    the file, once each and under the names that torch.save gives.
    """
    end = _directory(file, size, path)
    try:
        members = sorted(zipfile.ZipFile(file).infolist(), key=lambda member: member.header_offset)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as fault:
        raise WeightsError("damaged zip directory", where=path, got=fault) from fault
    begins: dict[str, tuple[int, int]] = {}
    tops = set()
    for member, limit in zip(members, [*(member.header_offset for member in members[1:]), end]):
        raw, where = member.orig_filename, f"{path}, member {member.orig_filename}"
        known = MEMBER.fullmatch(raw)
        if known is None:
            raise WeightsError("a member torch.save does not write", where=where, do="ask for the weights alone")
        tops.add(known["top"])
        _expect(known[2] not in begins, "a member twice", where)
        stored = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1
        _expect(stored and member.file_size == member.compress_size, "a member that is not stored as it is", where)
        file.seek(member.header_offset)
        mark, name, extra = struct.unpack("<4s22x2H", file.read(30).ljust(30, b"\0"))
        encoded = raw.encode("utf-8" if member.flag_bits & 0x800 else "cp437")
        _expect(mark == b"PK\3\4" and file.read(name) == encoded, "the directory and a member disagree", where)
        begin = member.header_offset + 30 + name + extra
        last = begin + member.file_size
        _expect(last <= limit, "a member that reaches beyond its place", where, f"to byte {last}", f"at most {limit}")
        begins[known[2]] = begin, member.file_size
    _expect(len(tops) == 1 and "data.pkl" in begins, "not an archive of torch.save", path, f"{len(members)} members")
    length = begins["data.pkl"][1]
    _expect(length <= _describing(size), "too long a program", path, f"{length} bytes", _describing(size))
    return begins["data.pkl"]


def _directory(file: BinaryIO, size: int, path: Path) -> int:
    """First byte of the zip directory, by the last 22 bytes of the file or the zip64 records (76 more) before them."""
    file.seek(max(0, size - 98))
    tail = file.read(98).rjust(98, b"\0")
    mark, length, first, comment = struct.unpack("<4s8x2IH", tail[-22:])
    _expect(mark == b"PK\5\6" and comment == 0, "truncated or extended zip file", path)
    end = size - 22
    if tail[-42:-38] == b"PK\6\7":
        end = size - 98
        mark, rest, length, first = struct.unpack("<4sQ28x2Q", tail[:56])
        (place,) = struct.unpack("<Q", tail[64:72])
        _expect((mark, rest, place) == (b"PK\6\6", 44, end), "damaged zip64 records", path)
    _expect(first + length == end, "a zip directory elsewhere than told", path, f"{first} + {length}", end)
    _expect(length <= _describing(size), "too long a zip directory", path, f"{length} bytes", _describing(size))
    return first


def _check_program(program: bytes, path: Path) -> int:
    """Looks a pickle through, without running it, for anything beyond a dictionary of tensors -> how many it makes."""
    made, at = 0, 0
    try:
        for instruction, argument, place in pickletools.genops(io.BytesIO(program)):
            at = place or 0
            if instruction.name not in INSTRUCTIONS:
                raise ValueError(f"instruction {instruction.name}, which no dictionary of tensors needs")
            if instruction.name == "PROTO" and argument != 2:
                raise ValueError(f"protocol {argument}, which torch.save does not use")
            if instruction.name == "GLOBAL" and argument not in CALLS:
                raise ValueError(f"the file wants to call {str(argument).replace(' ', '.')}")
            if isinstance(argument, str) and "\0" in argument:
                # The reader's names end at a zero byte: one member under many names would be loaded as often.
                raise ValueError("a name with a zero byte")
            made += instruction.name == "BINPERSID"  # each tensor's claim to its data
    except ValueError as fault:
        raise WeightsError(
            "not a plain dictionary of tensors",
            where=f"{path}, data.pkl, byte {at}",
            got=fault,
            expected="names and tensors, nothing else",
            do="ask for the weights as safetensors",
        ) from fault
    return made


# ---- Paddle 2.x -----------------------------------------------------------------------------------------------------


def _pdparams(path: Path, size: int) -> dict[str, Tensor]:
    """The arrays as tensors of their own; the file's bytes are let go one array after the other."""
    if size:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _count(pickletools.genops(content), _describing(size), path)  # type: ignore[arg-type]
    arrays = paddle.read_pdparams(path)
    total = sum(array.nbytes for array in arrays.values())
    _expect(total <= size, "the same data under several names", path, f"{total} bytes of arrays", f"at most {size}")
    return {name: _own(arrays.pop(name)) for name in list(arrays)}


def _count(instructions: Iterable[Any], most: int, path: Path) -> None:
    """Refuses a program too long for its data. What else is wrong with it, its reader says."""
    try:
        for number, _ in enumerate(instructions):
            _expect(number < most, "too long a program", path, f"more than {most} instructions", "about 30 an array")
    except (ValueError, OverflowError):
        return


def _own(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


READERS: dict[str, Callable[[Path, int], dict[str, Tensor]]] = {
    ".safetensors": _safetensors,
    ".bin": _torch,
    ".pt": _torch,
    ".pth": _torch,
    ".pdparams": _pdparams,
}

# ---- what every format must satisfy ---------------------------------------------------------------------------------


def _usable(found: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors of numbers, dense, on the CPU, finite: or a WeightsError that names the first that is not."""
    for name, tensor in found.items():
        where = f"{path}, {name}"
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in ELEMENTS.values()
        kind = f"{tensor.dtype} {tensor.layout} on {tensor.device}"
        _expect(plain, "not a tensor of plain numbers", where, kind, ", ".join(ELEMENTS))
        if tensor.is_floating_point() and tensor.numel():
            low, high = tensor.aminmax()  # passes NaN on, and needs no copy
            finite = bool(low.isfinite() and high.isfinite())
            _expect(finite, "values that are not finite", where, f"from {low} to {high}", "finite values")
    return found


def _refuse_namesake(found: dict[str, Tensor], path: Path) -> None:
    """PaddleNLP's `unimo-text-*` (spec unimo §9.5) carries the name of this model, but is another."""
    traits = ("embeddings.token_type_embeddings.weight", "encoder_norm.weight", "encoder.layers.0.norm1.weight")
    for prefix in ("", "unimo."):
        if all(prefix + trait in found for trait in traits):
            raise WeightsError(
                "weights of another network: PaddleNLP's Chinese, text-only UNIMO-text",
                where=path,
                got=", ".join(prefix + trait for trait in traits),
                expected="UNIMO or UNIMO-2 of the papers",
                do="use PaddleNLP for it: WordPiece vocabulary, relu, type embeddings that are used, positions from 0, "
                "no image part",
            )


def _expect(holds: bool, what: str, where: object, got: object = None, expected: object = None) -> None:
    if not holds:
        raise WeightsError(what, where=where, got=got, expected=expected)
