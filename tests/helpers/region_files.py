"""Regions made up by a test: little corpora of noise, detections, sidecars and published lines."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from corpora import image, tar_of

from unimo.corpus.corpus import Corpus, open_corpus
from unimo.data.regions import ImageRegions
from unimo.errors import DataError
from unimo.regions.prepare import prepare_regions
from unimo.regions.rows import RowFormat
from unimo.regions.source import CorpusImage, Detections
from unimo.regions.store import FORMAT, RegionStore, sidecar_header, sidecar_path
from unimo.sidecar import SidecarWriter

WIDTH, HEIGHT = 24, 16
KEYS = [*(f"a{i}" for i in range(5)), *(f"b{i}" for i in range(3))]


def write_regions(
    corpus: Corpus,
    folder: Path | None,
    images: Sequence[ImageRegions | DataError],
    rows: RowFormat,
    source: dict[str, Any] | None = None,
) -> RegionStore:
    """images: of every item its regions, or why it has none. folder: None, beside the shards."""
    for shard, items in corpus.ranges():
        header = sidecar_header(corpus, items, source or {"source": "test", "of": shard.name}, rows, 36)
        place = sidecar_path(shard, corpus.kind, folder)
        with SidecarWriter(place, FORMAT, header, [corpus.keys[i] for i in items], rows.columns) as writer:
            for image in images[items.start + len(writer) : items.stop]:
                bad = image.parts() if isinstance(image, DataError) else None
                writer.add(None if isinstance(image, DataError) else rows.encode(image), bad)
    return RegionStore.open(folder, corpus)


def quiet(line: str) -> None:
    """Progress nobody reads."""


def noise_tar(path: Path, keys: Sequence[str], seed: int = 0, meta: dict[str, Any] | None = None) -> Path:
    """Images of noise, WIDTH x HEIGHT, and a .json beside each where meta is given."""
    members = [(f"{key}.png", image(seed + i, size=(WIDTH, HEIGHT))) for i, key in enumerate(keys)]
    if meta is not None:
        members += [(f"{key}.json", json.dumps(meta).encode()) for key in keys]
    return tar_of(path, members)


def two_shards(folder: Path) -> Path:
    noise_tar(folder / "a.tar", KEYS[:5])
    noise_tar(folder / "b.tar", KEYS[5:], seed=10)
    return folder


def good(seed: int) -> Detections:
    """Five regions with four features and three classes."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((5, 2, 2)), axis=1).reshape(5, 4) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    classes = rng.random((5, 3))
    return Detections(rng.normal(size=(5, 4)), corners, WIDTH, HEIGHT, classes / classes.sum(1, keepdims=True))


def prepared(paths, source, out: Path, **options) -> RegionStore:
    prepare_regions("images", paths, source, out=out, say=quiet, **options)
    return RegionStore.open(out, open_corpus("images", paths), verify=True)


def first_image(paths, i=0) -> CorpusImage:
    return CorpusImage(open_corpus("images", paths), i)


def entries_of(path: Path) -> list[dict[str, str]]:
    """The lines of a report of bad samples."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def published_row(name, found: Detections, classes=True) -> str:
    """A line as the released readers expect it, written from their description alone."""
    cells = [name, str(int(found.width)), str(int(found.height)), str(len(found.boxes))]
    for table in (found.boxes, found.features, found.classes if classes else None):
        if table is not None:
            cells.append(base64.b64encode(np.ascontiguousarray(table, dtype="<f4").tobytes()).decode())
    return "\t".join(cells)
