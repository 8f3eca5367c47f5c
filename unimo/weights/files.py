"""Reader of every weight file we take. Nothing in a file is ever run.

    a folder           Hugging Face: model.safetensors or its shards, else pytorch_model.bin or its shards;
                       otherwise Paddle 1.x, one file per variable, or one file and a list of names
    .safetensors
    .bin .pt .pth      torch's zip container, a flat dictionary of tensors
    .pdparams          Paddle 2.x

Every size is checked against the file before memory is asked for: reading takes at most twice the file, three times for
a pickle of protocol 2, which spells bytes as text. All errors are WeightsError and say where.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimo.errors import WeightsError
from unimo.json_files import load_json
from unimo.safetensors_files import expect, read_safetensors, usable
from unimo.weights import paddle

MAX_INDEX = 1 << 18  # bytes of an index of shards
# What torch.save needs to write a dictionary of tensors; weights_only allows more, such as a bytearray of any size.
TORCH_CALLS = re.compile(r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage")


def read(path: str | Path, *, names: str | Path | None = None) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU, all finite.

    names: the list of names of a combined file of Paddle 1.x (`unimo.weights.paddle`). Raises WeightsError for what is
    no weight file, does not fit its own description, holds anything but named tensors of numbers, or belongs to a
    network that only shares UNIMO's name.
    """
    path = Path(path)
    try:
        folder_or_file = _folder if path.is_dir() else _file
        found = folder_or_file(path) if names is None else _combined(path, Path(names))
    except OSError as fault:
        raise WeightsError("cannot read the weights", where=fault.filename or path, got=fault.strerror) from fault
    expect(bool(found), path, "no tensors in the file", expected="name -> tensor")
    _refuse_namesake(found, path)
    return found


def _folder(folder: Path) -> dict[str, Tensor]:
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if (folder / whole).exists():
            return _file(_plain(folder, whole))
        if (folder / f"{whole}.index.json").exists():
            return _shards(folder, f"{whole}.index.json")
    return _of_paddle(paddle.read_folder(folder), folder)


def _combined(path: Path, names: Path) -> dict[str, Tensor]:
    file = paddle.combined_in(path, names) if path.is_dir() else path
    return _of_paddle(paddle.read_combined(file, names), path)


def _file(path: Path) -> dict[str, Tensor]:
    what = "not a plain file" if path.exists() else "no such file"
    expect(path.is_file(), path, what, expected="a weight file or a folder of them")
    kinds = f"{', '.join(READERS)}; or with --names FILE a combined file of Paddle 1.x"
    expect(path.suffix in READERS, path, "unknown kind of weight file", path.suffix or "no suffix", kinds)
    return READERS[path.suffix](path)


def _shards(folder: Path, index: str) -> dict[str, Tensor]:
    """The files an index names; each must hold exactly the tensors the index promises of it."""
    where = _plain(folder, index)
    content = load_json(where, max_bytes=MAX_INDEX, error=WeightsError)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict):
        raise WeightsError("not an index of weights", where=where, expected='"weight_map": {tensor: file}')
    kind = re.escape(Path(index.removesuffix(".index.json")).suffix)
    for shard in places.values():
        # No separators, no dots in front: a name that cannot leave the folder.
        inside = isinstance(shard, str) and re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]*{kind}", shard)
        expect(bool(inside), where, "impossible file name in the index", shard)
    found: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        part = _file(_plain(folder, shard))
        promised = {name for name, place in places.items() if place == shard}
        got = f"missing {sorted(promised - set(part))[:3]}, extra {sorted(set(part) - promised)[:3]}"
        expect(promised == set(part), folder / shard, "a file does not hold what its index promises", got)
        found |= part
    return found


def _plain(folder: Path, name: str) -> Path:
    """A plain file of this folder. Links are followed only where the hub's cache lays them: snapshots/ID to blobs."""
    path, home = folder / name, folder.resolve()
    plain = path.is_file()
    if plain and path.is_symlink():
        plain = home.parent.name == "snapshots" and path.resolve().parent == home.parent.parent / "blobs"
    expect(plain, path, "not a plain file", expected="a file of its own in this folder")
    return path


def _torch(path: Path) -> dict[str, Tensor]:
    """A dictionary that torch.save wrote, read by torch.load once directory and program have been looked through."""
    size, where = path.stat().st_size, f"{path}, data.pkl"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            programs = [member for member in members if member.filename.endswith("data.pkl")]
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            expect(stored and sum(member.file_size for member in members) <= size, path, "members that swell")
            expect(len(programs) == 1, path, "not an archive of torch.save", f"{len(programs)} data.pkl")
            limit, length = paddle.max_description(size), programs[0].file_size
            expect(length <= limit, where, "too long a program", f"{length} bytes", f"at most {limit}")
            paddle.check_pickle(io.BytesIO(archive.read(programs[0])), size, where, torch_calls=TORCH_CALLS)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as fault:  # its readers raise whatever a damaged file leads them into
        what, got = "not a plain dictionary of tensors in torch's zip container", type(fault).__name__
        do = "fetch it again; or, one of torch before 1.6: torch.save(torch.load(OLD, weights_only=True), NEW)"
        raise WeightsError(what, where=path, got=got, do=do) from fault
    expect(isinstance(content, dict), path, "not a dictionary", type(content).__name__, "name -> tensor")
    # An OrderedDict's own `items` can be replaced by its file.
    return usable({name: value for name, value in dict.items(content)}, path)  # noqa: C416


def _of_paddle(arrays: dict[str, np.ndarray], path: Path) -> dict[str, Tensor]:
    """The arrays as tensors of their own, in this machine's byte order; each array is let go before the next."""
    order = {name: array.dtype.newbyteorder("=") for name, array in arrays.items()}
    return usable({name: torch.from_numpy(arrays.pop(name).astype(order[name], "C")) for name in order}, path)


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".safetensors": read_safetensors,
    ".bin": _torch,
    ".pt": _torch,
    ".pth": _torch,
    ".pdparams": lambda path: _of_paddle(paddle.read_pdparams(path), path),
}


def _refuse_namesake(found: dict[str, Tensor], path: Path) -> None:
    """PaddleNLP's `unimo-text-*` (spec unimo §9.5) carries the name of this model, but is another."""
    traits = ("embeddings.token_type_embeddings.weight", "encoder_norm.weight", "encoder.layers.0.norm1.weight")
    for prefix in ("", "unimo."):
        if all(prefix + trait in found for trait in traits):
            what, got = "weights of another network: PaddleNLP's Chinese, text-only UNIMO-text", prefix + traits[0]
            do = "use PaddleNLP for it: WordPiece vocabulary, relu, type embeddings, positions from 0, no image part"
            raise WeightsError(what, where=path, got=got, expected="UNIMO or UNIMO-2 of the papers", do=do)
