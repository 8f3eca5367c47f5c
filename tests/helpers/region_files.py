"""Region sidecars of a corpus from regions made up by a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimo.corpus.corpus import Corpus
from unimo.data.regions import ImageRegions
from unimo.errors import DataError
from unimo.regions.rows import RowFormat
from unimo.regions.store import FORMAT, RegionStore, sidecar_header, sidecar_path
from unimo.sidecar import SidecarWriter


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
