"""The sidecar of a shard that holds its index."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimo.errors import DataError
from unimo.paths import user_path
from unimo.ragged import Strings
from unimo.sidecar import Format, Sidecar

FORMAT = Format("index", 7, "unimo data check")


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


def load_index(path: Path) -> Index | None:
    """The stored index, or None when there is none that can be trusted: it is then simply built again."""
    try:
        stored = Sidecar(path, FORMAT)
        return Index(stored.header, stored.arrays())
    except DataError:
        return None


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


def beside_index(shard: Path, kind: str, folder: str | Path | None, ending: str) -> Path:
    """Where another sidecar of a shard lies: in `folder`, else where its index would."""
    index = index_path(shard, kind, None if folder is None else Path(folder))
    return index.with_name(index.name.removesuffix("index.safetensors") + ending)
