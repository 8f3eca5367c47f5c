"""A UNIMO small enough for any test, with weights large enough that everything it does can be seen."""

from __future__ import annotations

import numpy as np
import torch
from tiny_unimo2 import VOCABULARY
from torch import Tensor

from unimo.batch import Batch, Regions, Texts
from unimo.data.regions import ImageRegions, image_regions, stack_regions
from unimo.model.unified import Fused
from unimo.model.unimo import UNIMO

FEATURES = 7


def lively_unimo(seed: int = 0, **options) -> UNIMO:
    """Every norm has weights of its own too, so that no two of them could be mistaken for each other."""
    torch.manual_seed(seed)
    sizes = {"width": 16, "heads": 2, "depth": 2, "region_size": FEATURES, "region_classes": 5}
    model = UNIMO(**{**sizes, "vocabulary": VOCABULARY, "positions": 64, **options}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
            else:
                parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.1)
    return model


def detected(counts: list[int], seed: int = 0) -> list[ImageRegions]:
    """Images of 100 x 80 pixels with so many regions each, [IMG] not counted."""
    rng = np.random.default_rng(seed)
    found = []
    for n in counts:
        boxes = np.concatenate([rng.uniform(0, 40, (n, 2)), rng.uniform(40, 80, (n, 2))], 1)
        found.append(image_regions(rng.standard_normal((n, FEATURES)), boxes, 100, 80))
    return found


def random_regions(counts: list[int], seed: int = 0) -> Regions:
    return stack_regions(detected(counts, seed))


def regions_batch(regions: Regions | None, texts: Texts) -> Batch:
    return Batch(0, torch.zeros(0, 3, 1, 1, dtype=torch.uint8), texts, {}, {}, {}, regions=regions)


def rows_of(fused: Fused, i: int, texts: Texts) -> Tensor:
    """All states of sequence i of a request: image, ground, words."""
    words = 0 if fused.request.text is None else int(texts.lengths[fused.request.text[i]])
    first = int(fused.starts[i])
    return fused.hidden[first : first + int(fused.image_length[i] + fused.ground_length[i]) + words]
