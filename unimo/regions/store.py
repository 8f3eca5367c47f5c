"""Prepared regions of a corpus, by item (spec unimo §4).

n images of a shard · T rows of all of them · F features · K classes, k of them kept

A sidecar `SHARD.KIND.regions.safetensors` (see `unimo.sidecar`) holds, for every image, [IMG] first; nothing if it is
bad:

    boxes (T, 5) float32      corners and area as fractions of the image
    features (T, F) float16, or int8 with scales (T,) float32
    classes (T, K) float16, or the k likeliest (T, k) with class_ids (T, k) uint16, or absent

Its header says of which images (`images`: SHA-256 of keys and bytes), by which source and settings, and which images
are bad and why (`notes`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.corpus.index_file import beside_index
from unimo.data.regions import ImageRegions
from unimo.errors import DataError, UsageError
from unimo.ragged import offsets_of
from unimo.regions.rows import RowFormat
from unimo.sidecar import Format, Sidecar, plain

FORMAT = Format("regions", 2, "unimo prepare regions")
SUFFIX = "regions.safetensors"


def sidecar_path(shard: Path, kind: str, folder: str | Path | None = None) -> Path:
    """Where the regions of a shard lie: in `folder`, else where its index would."""
    return beside_index(shard, kind, folder, SUFFIX)


def sidecar_header(
    corpus: Corpus, items: range, source: Mapping[str, Any], rows: RowFormat, max_regions: int
) -> dict[str, Any]:
    """What decides the content of a sidecar. source: JSON values that tell one source from another."""
    settings = {**asdict(rows), "max_regions": max_regions}
    return plain({"images": corpus.images_sha256(items), "source": source, "settings": settings})


class RegionStore:
    """The regions of a corpus, by item. lengths: (n,) rows of each item, 0 where its image is bad.

    feature_size, classes: F and K of every image. Only paths and offsets in memory: safe to hand to workers.
    """

    def __init__(self, sidecars: Sequence[Sidecar]):
        self.sidecars = list(sidecars)
        settings = dict(sidecars[0].header["settings"])
        settings.pop("max_regions")
        self._rows = RowFormat(**settings)
        self.feature_size, self.classes = self._rows.features, self._rows.classes
        self._first = offsets_of([len(sidecar) for sidecar in sidecars])
        self.lengths = np.concatenate([np.diff(sidecar.offsets) for sidecar in sidecars])
        self.fingerprint = hashlib.sha256("".join(sidecar.sha256 for sidecar in sidecars).encode()).hexdigest()

    @classmethod
    def open(
        cls, paths: str | Path | Sequence[str | Path] | None, corpus: Corpus, *, verify: bool = False
    ) -> RegionStore:
        """The sidecars of every shard of `corpus`, whatever their names.

        paths: sidecars, or folders that hold them; None: where `unimo prepare regions` puts them by itself. verify:
        read every byte. Raises DataError where a shard has none or a file is damaged, UsageError where they come from
        different sources or settings.
        """
        if corpus.kind == "texts":
            raise UsageError("texts have no regions", where="RegionStore.open", expected="images or pairs")
        known = {sidecar.header["images"]: sidecar for sidecar in _sidecars_at(paths, corpus)}
        chosen: list[Sidecar] = []
        for shard, items in corpus.ranges():
            sidecar = known.get(corpus.images_sha256(items))
            if sidecar is None:
                raise DataError(
                    "no regions fit this shard",
                    where=shard,
                    got=", ".join(str(other.path) for other in list(known.values())[:3]) or "no sidecar",
                    expected=f"a {SUFFIX} made of these {len(items)} images as they are now",
                    do=f"run `{FORMAT.command}`",
                )
            first = chosen[0] if chosen else sidecar
            for name in ("source", "settings"):
                if sidecar.header[name] != first.header[name]:
                    raise UsageError(
                        "regions of different sources or settings",
                        where=sidecar.path,
                        got=f"{name} {sidecar.header[name]}",
                        expected=f"{first.header[name]}, as in {first.path}",
                        do="prepare all shards in the same way",
                    )
            if verify:
                sidecar.verify()
            chosen.append(sidecar)
        return cls(chosen)

    def __len__(self) -> int:
        return int(self._first[-1])

    def has(self, i: int) -> bool:
        return bool(self.lengths[i])

    def image(self, i: int) -> ImageRegions:
        """The regions of item i, [IMG] first. Raises DataError, with the reason, where its image is bad."""
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        number = int(np.searchsorted(self._first, i, side="right")) - 1
        sidecar, item = self.sidecars[number], i - int(self._first[number])
        if not self.lengths[i]:
            raise DataError(**sidecar.notes[item])
        return self._rows.decode(sidecar.item(item, self._rows.columns))


def _sidecars_at(paths: str | Path | Sequence[str | Path] | None, corpus: Corpus) -> Iterator[Sidecar]:
    """Those beside the shards that are there; all of a folder; any that is named."""
    if paths is None:
        places = [place for shard, _ in corpus.ranges() if (place := sidecar_path(shard, corpus.kind)).is_file()]
    else:
        named = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
        places = [place for path in named for place in (sorted(path.iterdir()) if path.is_dir() else [path])]
        places = [place for place in places if place in named or place.name.endswith(f".{SUFFIX}")]
    return (Sidecar(place, FORMAT) for place in places)
