"""Which objects were detected on images, and how many of them two images share (spec unimo §3.3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_matrix

from unimo.corpus.corpus import Corpus
from unimo.errors import UsageError
from unimo.ragged import offsets_of
from unimo.regions.store import RegionStore

# The class that says "no object", of sources that have one: the last of both kinds of detectors (see
# `unimo.regions.detectors`), the first of bottom-up attention as published.
_NO_OBJECT = {"detector": -1, "faster-rcnn": -1, "tsv": 0}
_OF_THE_FILES = ("names", "first")  # what tells files of regions apart, not detectors


class Labels(Protocol):
    """Of each image of a corpus, in order, the class numbers (k,) of its detected objects; a list will do."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...


class Detected:
    """Labels of prepared regions: the likeliest class of every region that is at least `confidence` sure of it.

    An image without regions has none. They are read one at a time: all of them would not fit.
    """

    def __init__(self, regions: RegionStore, confidence: float):
        self.regions, self.confidence = regions, confidence
        self.no_object = _NO_OBJECT.get(_source(regions).get("source", ""))

    def __len__(self) -> int:
        return len(self.regions)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._of(i) if self.regions.has(i) else np.zeros(0, np.int64) for i in range(len(self)))

    def _of(self, i: int) -> np.ndarray:
        classes = self.regions.image(i).classes
        assert classes is not None
        named = classes[1:]  # row 0 is the whole image
        if self.no_object is not None:
            named[:, self.no_object] = 0
        return named.argmax(axis=1)[named.max(axis=1) >= self.confidence]


def detected(
    regions: str | Path | Sequence[str | Path], pairs: Corpus, images: Corpus, confidence: float
) -> tuple[Detected, Detected]:
    """The objects on the images of both corpora, from what `unimo prepare regions` wrote.

    Raises what `RegionStore.open` raises, and UsageError where the regions name no classes, or those of one detector
    for the pairs and of another for the images.
    """
    stores = [RegionStore.open(regions, corpus) for corpus in (pairs, images)]
    for store in stores:
        if not store.classes:
            raise UsageError(
                "regions without classes name no objects",
                where=store.sidecars[0].path,
                do="prepare regions with a source that has classes, or leave --regions away",
            )
    ours, theirs = ({**_source(store), "classes": store.classes} for store in stores)
    if ours != theirs:
        raise UsageError(
            "objects of two detectors cannot be compared",
            where=stores[1].sidecars[0].path,
            got=json.dumps(theirs),
            expected=f"{json.dumps(ours)}, as in {stores[0].sidecars[0].path}",
            do="prepare the regions of pairs and images in the same way",
        )
    return Detected(stores[0], confidence), Detected(stores[1], confidence)


def _source(store: RegionStore) -> dict[str, Any]:
    source = store.sidecars[0].header["source"]
    return {name: value for name, value in source.items() if name not in _OF_THE_FILES}


@dataclass(frozen=True)
class Objects:
    """Class counts of the objects on each image of the pairs, and on each of the images: (n, classes), sparse."""

    pairs: csr_matrix
    images: csr_matrix

    @classmethod
    def of(cls, labels: tuple[Labels, Labels], pairs: Corpus, images: Corpus) -> Objects:
        """Raises UsageError where there are not as many labels as images."""
        for side, some, corpus in zip(("pairs", "images"), labels, (pairs, images)):
            if len(some) != len(corpus):
                raise UsageError(f"labels of other {side}", got=f"{len(some)} images", expected=len(corpus))
        return cls.counted(*labels)

    @classmethod
    def counted(cls, pairs: Labels, images: Labels) -> Objects:
        rows = [[np.asarray(row, np.int64) for row in side] for side in (pairs, images)]
        classes = 1 + max((int(row.max(initial=0)) for side in rows for row in side), default=0)
        tables = []
        for side in rows:
            flat = np.concatenate([np.zeros(0, np.int64), *side])
            offsets = offsets_of([len(row) for row in side])
            tables.append(csr_matrix((np.ones(len(flat)), flat, offsets), (len(side), classes)))
            tables[-1].sum_duplicates()
        return cls(*tables)

    def overlap(self, i: int, chosen: np.ndarray) -> np.ndarray:
        """Multiset Jaccard of the objects of image i of the pairs with those of the chosen (m,) images: (m,) in 0 .. 1.

        Two dogs beside one dog and one cat: 1 / 3. Two images without objects share nothing.
        """
        own, common = self.pairs[i].toarray()[0], self.images[chosen]
        sizes = np.asarray(common.sum(axis=1)).ravel()
        common.data = np.minimum(common.data, own[common.indices])
        shared = np.asarray(common.sum(axis=1)).ravel()
        return (shared / np.maximum(sizes + own.sum() - shared, 1e-12)).astype(np.float32)

    def digest(self) -> str:
        """SHA-256 of all of them and of what is done with them."""
        digest = hashlib.sha256(b"taken by shared objects, ranked by looks")
        for side in (self.pairs, self.images):
            for array in (side.indptr, side.indices, side.data):
                digest.update(hashlib.sha256(array.tobytes()).digest())
        return digest.hexdigest()

    def without(self) -> int:
        """How many images of the pairs have no object."""
        return int((np.diff(self.pairs.indptr) == 0).sum())
