"""The regions of a corpus, by item, out of the sidecars of its shards (`unimo.regions.sidecar`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.data.regions import ImageRegions
from unimo.errors import DataError, UsageError
from unimo.ragged import offsets_of
from unimo.regions.sidecar import SUFFIX, Sidecar, fingerprint, sidecar_path, spans


class RegionStore:
    """The regions of a corpus, by item. lengths: (n,) rows of each item, 0 where its image is bad.

    feature_size, classes: F and K of every image.
    """

    def __init__(self, sidecars: Sequence[Sidecar]):
        self.sidecars = list(sidecars)
        self.feature_size, self.classes = sidecars[0].rows.features, sidecars[0].rows.classes
        self._first = offsets_of([len(sidecar) for sidecar in sidecars])
        self.lengths = np.concatenate([np.diff(sidecar.offsets) for sidecar in sidecars])
        self.fingerprint = hashlib.sha256(
            "".join(sidecar.header["content_sha256"] + sidecar.header["fingerprint"] for sidecar in sidecars).encode()
        ).hexdigest()

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
        known = {}
        for path in _sidecars_at(paths, corpus):
            sidecar = Sidecar(path)
            known[sidecar.header["fingerprint"]] = sidecar
        chosen: list[Sidecar] = []
        for shard, first, end in spans(corpus):
            images = fingerprint(corpus, first, end)
            if images not in known:
                raise DataError(
                    "no regions fit this shard",
                    where=shard,
                    got=", ".join(str(other.path) for other in list(known.values())[:3]) or "no sidecar",
                    expected=f"a {SUFFIX} made of these {end - first} images as they are now",
                    do="unimo prepare regions",
                )
            sidecar = known[images]
            if chosen and _made_by(sidecar) != _made_by(chosen[0]):
                raise UsageError(
                    "regions of different sources or settings",
                    where=sidecar.path,
                    got=" ".join(_made_by(sidecar)),
                    expected=f"{' '.join(_made_by(chosen[0]))}, as in {chosen[0].path}",
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
        s = int(np.searchsorted(self._first, i, side="right")) - 1
        sidecar, j = self.sidecars[s], i - int(self._first[s])
        if not self.lengths[i]:
            parts: dict[str, Any] = next(bad for bad in sidecar.quarantined if bad["key"] == sidecar.keys[j])
            raise DataError(**{name: value for name, value in parts.items() if name != "key"})
        return sidecar.image(j)


def _sidecars_at(paths: str | Path | Sequence[str | Path] | None, corpus: Corpus) -> Iterator[Path]:
    if paths is None:
        places = (sidecar_path(shard, corpus.kind) for shard, _, _ in spans(corpus))
        yield from (place for place in places if place.is_file())
        return
    for path in map(Path, [paths] if isinstance(paths, (str, Path)) else paths):
        if path.is_dir():
            yield from sorted(path.glob(f"*{SUFFIX}"))
            yield from sorted(path.glob(f".unimo-*{SUFFIX}"))
        else:
            yield path


def _made_by(sidecar: Sidecar) -> tuple[str, str]:
    return sidecar.header["source"], sidecar.header["settings"]
