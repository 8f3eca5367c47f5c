"""Which objects were detected on images, and how many of them two images share (spec unimo §3.3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.errors import UsageError
from unimo.nearest import Bags, bags, cosines, document_frequency, overlaps, tf_idf
from unimo.regions.store import RegionStore

# The class that says "no object", of sources that have one: the last of both kinds of detectors (see region_models),
# the first of bottom-up attention as published.
_NO_OBJECT = {"detector": -1, "faster-rcnn": -1, "tsv": 0}
_OF_THE_FILES = ("names", "first")  # facts of a source of regions that tell files apart, not detectors


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
        self.no_object = _NO_OBJECT.get(_facts(regions).get("source", ""))

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
    ours, theirs = RegionStore.open(regions, pairs), RegionStore.open(regions, images)
    for store in (ours, theirs):
        if not store.classes:
            raise UsageError(
                "regions without classes name no objects",
                where=store.sidecars[0].path,
                do="prepare regions with a source that has classes, or leave --regions away",
            )
    made = [{**_facts(store), "classes": store.classes} for store in (ours, theirs)]
    if made[0] != made[1]:
        raise UsageError(
            "objects of two detectors cannot be compared",
            where=theirs.sidecars[0].path,
            got=json.dumps(made[1]),
            expected=f"{json.dumps(made[0])}, as in {ours.sidecars[0].path}",
            do="prepare the regions of pairs and images in the same way",
        )
    return Detected(ours, confidence), Detected(theirs, confidence)


def _facts(store: RegionStore) -> dict[str, Any]:
    facts = json.loads(store.sidecars[0].header["source"])
    return {name: value for name, value in facts.items() if name not in _OF_THE_FILES}


@dataclass(frozen=True)
class Objects:
    """Counted classes of the objects on each image of the pairs, and on each of the images."""

    pairs: Bags
    images: Bags

    @classmethod
    def of(cls, labels: tuple[Labels, Labels], pairs: Corpus, images: Corpus) -> Objects:
        """Raises UsageError where there are not as many labels as images."""
        for side, some, corpus in zip(("pairs", "images"), labels, (pairs, images)):
            if len(some) != len(corpus):
                raise UsageError(f"labels of other {side}", got=f"{len(some)} images", expected=len(corpus))
        return cls(bags(labels[0]), bags(labels[1]))

    def digest(self) -> str:
        """SHA-256 of all of them and of what is done with them."""
        digest = hashlib.sha256(b"taken by shared objects, ranked by looks")
        for side in (self.pairs, self.images):
            for array in (side.offsets, side.terms, side.values):
                digest.update(hashlib.sha256(array.tobytes()).digest())
        return digest.hexdigest()

    def without(self) -> int:
        """How many images of the pairs have no object."""
        return int((np.diff(self.pairs.offsets) == 0).sum())


class Overlap:
    """How much of their objects two images share, 0 to 1: multiset Jaccard, or the cosine of TF-IDF weights."""

    def __init__(self, objects: Objects, measure: Literal["jaccard", "tfidf"]):
        self.measure, self.pairs, self.images = overlaps, objects.pairs, objects.images
        if measure == "tfidf":  # classes weigh as they are rare among the images
            size = 1 + max(int(side.terms.max(initial=0)) for side in (objects.pairs, objects.images))
            frequency = document_frequency(objects.images, size)
            self.pairs, self.images = (
                tf_idf(side, frequency, len(objects.images)) for side in (self.pairs, self.images)
            )
            self.measure = cosines

    def __call__(self, i: int, chosen: np.ndarray) -> np.ndarray:
        """(m,) float32: image i of the pairs with the chosen ones (m,) of the images."""
        return self.measure(self.images, chosen, self.pairs, i).astype(np.float32)
