"""Images of a collection that resemble the image of a pair."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from unimo.cluster import Each
from unimo.corpus.corpus import Corpus
from unimo.nearest import Found, nearest, top_k
from unimo.neighbours.approximate import Approximate
from unimo.neighbours.image_vectors import ImageVectors, colours, seen_by
from unimo.neighbours.objects import Objects, Overlap
from unimo.neighbours.settings import NeighbourSettings

if TYPE_CHECKING:
    from unimo.inference import Pipeline

_QUERIES_AT_ONCE = 512


class Gallery:
    """Vectors of all images, on disk, and who is near whom: by cosine, and, where objects are known, among the `pool`
    nearest by the objects they share. The very image of a pair (the same bytes) is no neighbour."""

    def __init__(
        self,
        pairs: Corpus,
        images: Corpus,
        folder: Path,
        settings: NeighbourSettings,
        model: Pipeline | None,
        objects: Objects | None,
        each: Each,
        say: Callable[[str], None],
    ):
        self.settings, self.size = settings, len(images)
        self.overlap = None if objects is None else Overlap(objects, settings.overlap)
        describe = colours if model is None or model.side is None else seen_by(model)
        folder.mkdir(exist_ok=True)
        self.own = ImageVectors(pairs, folder, describe, each, say)
        self.others = ImageVectors(images, folder, describe, each, say)
        self.copies: dict[bytes, list[int]] = {}
        for i, name in enumerate(self.others.hashes()):
            self.copies.setdefault(name, []).append(i)
        self.own_hashes = self.own.hashes()
        beyond = settings.approximate_above is not None and self.size > settings.approximate_above
        self.approximate = Approximate(self.others.blocks()) if beyond else None

    def near(self, rows: range) -> list[Found]:
        k = self.settings.images if self.overlap is None else max(self.settings.pool, self.settings.images)
        found: list[Found] = []
        for first in range(rows.start, rows.stop, _QUERIES_AT_ONCE):
            some = range(first, min(first + _QUERIES_AT_ONCE, rows.stop))
            same = [self.copies.get(self.own_hashes[i], []) for i in some]
            queries = self.own.rows(some)
            if self.approximate is None:
                blocks = self.others.blocks()
                found += nearest(queries, blocks, k, exclude=same, least=self.settings.least_image)
            else:
                found += self.approximate.nearest(queries, k, same, self.settings.least_image)
        if self.overlap is None:
            return found
        return [self._sharing(self.overlap, i, one) for i, one in zip(rows, found)]

    def _sharing(self, overlap: Overlap, i: int, found: Found) -> Found:
        """Those of the visually nearest that share most objects with pair i, the most similar of them first.

        Where two share alike much, the more similar one is taken.
        """
        best = top_k(overlap(i, found[0]), self.settings.images, least=self.settings.least_overlap)
        best.sort()  # places in `found`, which is in order of similarity
        return found[0][best], found[1][best]
