"""The sidecar index of a shard: plain arrays with string metadata in safetensors, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from unimo.disk import disk_error, write_atomic
from unimo.paths import user_path
from unimo.ragged import Strings

INDEX_VERSION = 3  # 3: one entry of metadata, so that equal indexes are equal files
_ENTRY = "unimo-index"


@dataclass
class Index:
    """What is remembered of one shard (see `indexing.build_index`)."""

    header: dict[str, str]
    arrays: dict[str, np.ndarray]

    @property
    def counts(self) -> dict[str, int]:
        return json.loads(self.header["counts"])

    @property
    def quarantined(self) -> list[dict]:
        return json.loads(self.header["quarantined"])

    def strings(self, name: str) -> Strings:
        return Strings(self.arrays[f"{name}_blob"], self.arrays[f"{name}_offsets"])


def save_index(path: Path, index: Index) -> None:
    """A reader finds the old index or the new one, never half of one. ResourceError where it cannot be written."""
    arrays = {name: np.ascontiguousarray(value) for name, value in index.arrays.items()}
    entry = {"version": INDEX_VERSION, "sha256": _hash(index.header, arrays), "header": index.header}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
    write_atomic(path, save(arrays, metadata={_ENTRY: json.dumps(entry, sort_keys=True)}))


def load_index(path: Path) -> Index | None:
    """The stored index, or None when there is none that can be trusted: it is then simply built again."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as stored:
            entry = json.loads((stored.metadata() or {})[_ENTRY])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
        sound = entry["version"] == INDEX_VERSION and entry["sha256"] == _hash(entry["header"], arrays)
        return Index(entry["header"], arrays) if sound else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _hash(header: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def index_path(shard: Path, kind: str, index_dir: Path | None) -> Path:
    """Beside the shard (a folder's index lies inside it), or under index_dir, or under the user's cache folder.

    The kind is part of the name, since one tar may serve as pairs in one run and as images in another.
    """
    if index_dir is None:
        home = shard if shard.is_dir() else shard.parent
        if os.access(home, os.W_OK) and home.stat().st_mode & 0o222:  # root may write where nobody should
            name = f".unimo-{kind}" if shard.is_dir() else f"{shard.name}.{kind}"
            return home / f"{name}.index.safetensors"
        where = "the folder of indexes, where none may lie beside the shards; name one as index_dir"
        index_dir = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", where) / "unimo" / "index"
    place = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:12]
    return index_dir / f"{shard.name}-{place}.{kind}.index.safetensors"
