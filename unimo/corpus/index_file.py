"""The sidecar index of a shard: plain arrays with string metadata in safetensors, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from unimo.errors import ResourceError
from unimo.paths import user_path

INDEX_VERSION = 2  # 2: what is passed over is not bad; named images; what could not be read is tried again


@dataclass
class Index:
    """What is remembered of one shard: string metadata and plain arrays (see `sources.build_index` for their
    names)."""

    header: dict[str, str]
    arrays: dict[str, np.ndarray]

    @property
    def counts(self) -> dict[str, int]:
        return json.loads(self.header["counts"])

    @property
    def quarantined(self) -> list[dict]:
        return json.loads(self.header["quarantined"])


def save_index(path: Path, index: Index) -> None:
    """Write beside, flush to disk, then rename: a reader finds the old index or the new one, never half of
    one."""
    header = {**index.header, "format": "unimo-index", "version": str(INDEX_VERSION)}
    header["self_sha256"] = _self_hash(header, index.arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".unimo-", suffix=".partial")
        os.close(handle)
        try:
            arrays = {k: np.ascontiguousarray(v) for k, v in index.arrays.items()}
            with open(name, "wb") as written:  # noqa: PTH123 - a descriptor to flush
                written.write(_in_order(save(arrays, metadata=header)))
                written.flush()
                os.fsync(written.fileno())
            os.chmod(name, 0o644)  # noqa: PTH101 - mkstemp's 0600 would hide it from other users of the shard
            os.replace(name, path)  # noqa: PTH105
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108
            raise
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            "cannot write the index",
            where=path,
            got=getattr(error, "strerror", None) or str(error),
            expected="room and permission beside the shard, or in index_dir",
            do="free disk space, or name a writable folder as index_dir",
        ) from error


def _in_order(data: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library leaves them in the random order of a hash map."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def load_index(path: Path) -> Index | None:
    """The stored index, or None when there is none that can be trusted: it is then simply built again."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as stored:
            header = dict(stored.metadata() or {})
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, ValueError):
        return None
    claimed = header.pop("self_sha256", None)
    if header.get("format") != "unimo-index" or header.get("version") != str(INDEX_VERSION):
        return None
    return Index(header, arrays) if claimed == _self_hash(header, arrays) else None


def _self_hash(header: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def index_path(shard: Path, kind: str, index_dir: Path | None) -> Path:
    """Beside the shard (a folder's index lies inside it), or under index_dir, or under the user's cache
    folder.

    The kind is part of the name, since one tar may serve as pairs in one run and as images in another.
    """
    if index_dir is None:
        home = shard if shard.is_dir() else shard.parent
        if os.access(home, os.W_OK) and home.stat().st_mode & 0o222:  # root may write where nobody should
            return home / (
                f".unimo-{kind}.index.safetensors" if shard.is_dir() else f"{shard.name}.{kind}.index.safetensors"
            )
        where = "the folder of indexes, where none may lie beside the shards; name one as index_dir"
        cache = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", where)
        index_dir = cache / "unimo" / "index"
    place = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:12]
    return index_dir / f"{shard.name}-{place}.{kind}.index.safetensors"
