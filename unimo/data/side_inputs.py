"""What was prepared for a pair beyond its image and caption: rewritten captions, related images and sentences."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from unimo.data.regions import ImageRegions
from unimo.data.sample import NO_NODES, Neighbours, Nodes, Regions, Rewrites


@dataclass(frozen=True)
class Prepared:
    """Of a whole corpus of pairs; anything may be absent. regions: of the image corpus, whose images are related, for
    UNIMO."""

    rewrites: Rewrites | None = None
    neighbours: Neighbours | None = None
    regions: Regions | None = None

    def of(
        self, item: int, caption: int, max_length: int, show: Callable[[int], np.ndarray] | None = None
    ) -> SideInputs:
        """max_length: tokens of a caption, special ones not counted. show: pixels (3, S, S) of an image of the image
        corpus, for UNIMO-2."""
        return SideInputs(self, item, caption, max_length, show)


@dataclass(frozen=True)
class SideInputs:
    """Of one caption of one pair. All are drawn without replacement; where there are fewer, all are given."""

    prepared: Prepared
    item: int
    caption: int
    max_length: int
    show: Callable[[int], np.ndarray] | None = None

    def rewritten(
        self, positives: int, negatives: int, rng: np.random.Generator, only: Collection[str] = ()
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Token ids of captions that say the same, and of captions that are not true, all kinds alike often.

        only: see `Rewrites.sample`."""
        rewrites = self.prepared.rewrites
        if rewrites is None:
            return [], []
        same, wrong = rewrites.sample(self.item, self.caption, rng, positives=positives, negatives=negatives, only=only)
        return [ids[: self.max_length] for ids in same], [ids[: self.max_length] for ids in wrong]

    def nodes(self) -> Nodes:
        """The nodes of the caption's scene graph, as `Rewrites.nodes`; none without rewrites."""
        if self.prepared.rewrites is None:
            return NO_NODES
        nodes = self.prepared.rewrites.nodes(self.item, self.caption)
        return nodes.at(nodes.places < self.max_length)

    def related_images(self, count: int, rng: np.random.Generator) -> list[ImageRegions] | list[np.ndarray]:
        """Regions of related images, those without any passed over; or their pixels, where there are no regions."""
        neighbours, regions = self.prepared.neighbours, self.prepared.regions
        if neighbours is None or not count:
            return []
        ids = neighbours.images(self.item)
        order = [int(i) for i in ids[rng.permutation(len(ids))]]
        if regions is not None:
            return [regions.image(i) for i in [i for i in order if regions.has(i)][:count]]
        return [] if self.show is None else [self.show(i) for i in order[:count]]

    def related_texts(self, count: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Token ids of related sentences."""
        neighbours = self.prepared.neighbours
        if neighbours is None or not count:
            return []
        ids = neighbours.sentences(self.item)
        return [neighbours.tokens(int(i))[: self.max_length] for i in ids[rng.permutation(len(ids))[:count]]]
