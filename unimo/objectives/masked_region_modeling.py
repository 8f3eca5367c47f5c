"""Masked region modelling: what was seen where nothing is shown? Visual learning of UNIMO (spec unimo §2.1).

    R rows of an image, [IMG] first · k masked rows · F features · K detector classes

Hidden: regions drawn as anchors, and every region that overlaps an anchor, for their content would leak; their features
become zero, their boxes stay. [IMG] is the mean of the regions, so it is computed again without them. Asked of every
hidden row, alone or beside the caption: its features (squared error) and the detector's distribution over classes
(cross-entropy with soft labels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from unimo.batch import Batch
from unimo.config import setting
from unimo.data.batch_builder import BatchBuilder, SampledExample
from unimo.data.regions import ImageRegions
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.model.unimo import UNIMO
from unimo.objectives.objective import Part

STREAMS = ("pairs", "images")


@dataclass(frozen=True)
class MaskedRegionModeling:
    members = ("unimo",)
    trains = ("fused", "region_features", "region_classes")
    parts = ("mrm.features", "mrm.classes", "mrm.classes.accuracy")
    weight: float = setting(1.0, "weight of masked regions; 0 switches the objective off", at_least=0, at_most=1e6)
    class_weight: float = setting(
        1.0, "weight of their classes, as a fraction of `weight`, which features have", at_least=0, at_most=1e6
    )
    pairs: int = setting(32, "pairs per step whose regions are hidden beside their caption", at_least=0)
    ratio: float = setting(0.15, "fraction of an image's regions that are anchors", above=0, at_most=1)
    overlap: float = setting(
        0.3, "intersection over union with an anchor beyond which a region is hidden too", at_least=0, at_most=1
    )
    whole_again: bool = setting(True, "compute [IMG] again without the hidden regions")
    squared_error: Literal["mean", "sum"] = setting(
        "mean", "over a region's features: mean (ours), or sum (the paper's formula)"
    )

    def corrupt(self, builder: BatchBuilder) -> None:
        if not builder.regions:
            return
        builder.read_captions()
        chosen = builder.first_pairs(self.pairs)
        builder.extra["mrm.pairs"] = chosen
        sampled = {"pairs": [(i, builder.pairs[i]) for i in chosen], "images": list(enumerate(builder.images))}
        for stream in STREAMS:
            for i, one in sampled[stream]:
                self._hide(builder, stream, builder.regions[stream][i], one)

    def _hide(self, builder: BatchBuilder, stream: str, seen: ImageRegions, sampled: SampledExample) -> None:
        rows = masked_rows(seen.boxes, sampled.rng("mrm"), self.ratio, self.overlap)
        hidden = without(seen, rows, whole_again=self.whole_again)
        group = builder.regions.setdefault(f"{stream}.hidden", [])
        rows_of_stream = builder.extra.setdefault(f"mrm.{stream}.rows", [])
        rows_of_stream += [(len(group), row) for row in rows.tolist()]
        group.append(hidden)
        builder.extra.setdefault(f"mrm.{stream}.features", []).extend(seen.features[rows])
        if seen.classes is not None:
            builder.extra.setdefault(f"mrm.{stream}.classes", []).extend(seen.classes[rows])

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        requests = {}
        if "pairs.hidden" in batch.image_groups:
            texts = batch.texts_of("pairs.clean")[batch.host.extra["mrm.pairs"]]
            requests["mrm.pairs"] = Request(batch.images_of("pairs.hidden"), texts)
        if "images.hidden" in batch.image_groups:
            requests["mrm.images"] = Request(batch.images_of("images.hidden"), None)
        return requests

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        streams = [stream for stream in STREAMS if f"mrm.{stream}" in fused]
        if not streams:
            return {}
        assert isinstance(model, UNIMO) and model.region_features is not None and model.region_classes is not None
        rows = {stream: batch.host.extra[f"mrm.{stream}.rows"] for stream in streams}
        states = torch.cat([fused[f"mrm.{stream}"].image_rows(*rows[stream].T) for stream in streams])
        features = torch.cat([batch.extra[f"mrm.{stream}.features"] for stream in streams])
        error = (model.region_features(states).float() - features).square()
        error = error.mean(-1) if self.squared_error == "mean" else error.sum(-1)
        parts = {"mrm.features": Part(error.sum(), len(states), self.weight)}
        if all(f"mrm.{stream}.classes" in batch.extra for stream in streams):
            classes = torch.cat([batch.extra[f"mrm.{stream}.classes"] for stream in streams])
            logits = model.region_classes(states).float()
            right = (logits.detach().argmax(-1) == classes.argmax(-1)).sum()
            total = F.cross_entropy(logits, classes, reduction="sum")
            parts["mrm.classes"] = Part(total, len(states), self.weight * self.class_weight)
            parts["mrm.classes.accuracy"] = Part(right, len(states), 0.0)
        return parts


def masked_rows(boxes: np.ndarray, rng: np.random.Generator, ratio: float, overlap: float) -> np.ndarray:
    """Rows to hide, ascending: anchors, each region with probability `ratio` and at least one, and what overlaps them.

    boxes: (R, 5), row 0 the whole image, which is never hidden.
    """
    n = len(boxes) - 1
    if n < 1:
        return np.zeros(0, np.int64)
    anchors = rng.random(n) < ratio
    if not anchors.any():
        anchors[rng.integers(n)] = True
    near = intersection_over_union(boxes[1:, :4], boxes[1:, :4])[anchors] > overlap
    return 1 + (anchors | near.any(0)).nonzero()[0]


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, 4), (m, 4) corners x1, y1, x2, y2 -> (n, m); 0 where both are without area."""
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.prod(corner.clip(0), axis=-1)
    area_a, area_b = (np.prod((x[:, 2:] - x[:, :2]).clip(0), axis=-1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def without(seen: ImageRegions, rows: np.ndarray, *, whole_again: bool = True) -> ImageRegions:
    """The image with the features of `rows` zero, and [IMG] the mean of what is left (zero if nothing is)."""
    features = seen.features.copy()
    features[rows] = 0.0
    if whole_again:
        left = np.setdiff1d(np.arange(1, len(features)), rows)
        features[0] = features[left].mean(0) if len(left) else 0.0
    return ImageRegions(features, seen.boxes, seen.classes)
