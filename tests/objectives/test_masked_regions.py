"""Masked region modelling: what is hidden, what may leak, and that it can be learnt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder, SampledExample
from unimo.data.regions import ImageRegions, image_regions
from unimo.model.unimo import UNIMO
from unimo.objectives import step
from unimo.objectives.masked_region_modeling import (
    MaskedRegionModeling,
    intersection_over_union,
    masked_rows,
    without,
)
from unimo.tokenizer import Tokenizer

FEATURES, CLASSES = 6, 5


def image(seed: int, n: int = 8) -> ImageRegions:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, size=(n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, size=(n, 2))], axis=1)
    features = rng.normal(size=(n, FEATURES)).astype(np.float32)
    return image_regions(features, boxes, 100, 100, classes=rng.dirichlet(np.ones(CLASSES), size=n))


def builder(pairs: int = 4, images: int = 3) -> BatchBuilder:
    made = BatchBuilder(0, 16, Tokenizer.default())
    for i in range(pairs):
        made.pairs.append(SampledExample(f"pair {i}", i, np.array([10 + i, 20 + i]), (0, i, 0), i))
        made.regions.setdefault("pairs", []).append(image(i))
    for i in range(images):
        made.images.append(SampledExample(f"image {i}", i, np.zeros(0, np.int64), (0, 100 + i, 0), i))
        made.regions.setdefault("images", []).append(image(100 + i))
    return made


def batch(**options) -> Batch:
    made = builder()
    MaskedRegionModeling(**{"pairs": 4, **options}).corrupt(made)
    return made.finish()


def tiny(seed: int = 0) -> UNIMO:
    torch.manual_seed(seed)
    sizes = {"width": 32, "heads": 4, "depth": 2, "positions": 20, "initial_std": 0.1, "dropout": 0.0}
    return UNIMO(**sizes, region_size=FEATURES, region_classes=CLASSES, region_heads=True, attention_dropout=0.0)


def area(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def test_intersection_over_union_is_what_its_name_says():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1, size=(6, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 1, size=(6, 2))], axis=1)
    got = intersection_over_union(boxes[:4], boxes)
    for i, j in np.ndindex(4, 6):
        a, b = boxes[i], boxes[j]
        both = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
        assert got[i, j] == pytest.approx(both / (area(a) + area(b) - both))
    flat = np.array([[0.3, 0.3, 0.3, 0.5]])
    assert intersection_over_union(flat, flat) == 0.0


def test_what_overlaps_an_anchor_is_hidden_too_and_the_whole_image_never():
    near, far = [0, 0, 10, 10], [50, 50, 60, 60]
    seen = image_regions(np.ones((4, 2)), [near, [1, 1, 11, 11], far, [70, 0, 80, 9]], 100, 100)
    for seed in range(200):
        rows = masked_rows(seen.boxes, np.random.default_rng(seed), 0.15, 0.3).tolist()
        assert rows and 0 not in rows and (1 in rows) == (2 in rows)
    alone = [len(masked_rows(seen.boxes, np.random.default_rng(seed), 0.15, 1.0)) for seed in range(2000)]
    expected = 4 * 0.15 + 0.85**4  # anchors, or one where chance drew none
    assert np.mean(alone) == pytest.approx(expected, abs=4 * np.std(alone) / math.sqrt(2000))


def test_nothing_of_a_hidden_region_is_left_to_see():
    """Two images that differ in hidden features only look the same, unless [IMG] is kept as it was."""
    one = image(0)
    rows = np.array([2, 5])
    features = one.features.copy()
    features[rows] += 3.0
    features[0] = features[1:].mean(0)
    other = ImageRegions(features, one.boxes, one.classes)
    for again in (True, False):
        a, b = (without(seen, rows, whole_again=again) for seen in (one, other))
        assert np.array_equal(a.features, b.features) == again
        assert not a.features[rows].any() and np.array_equal(a.boxes, one.boxes)
    everything = without(one, np.arange(1, len(one)))
    assert not everything.features.any()


def test_every_hidden_row_is_asked_for_what_it_was():
    made = batch()
    first, last = made.image_groups["pairs.hidden"]
    rows, features = made.extra["mrm.pairs.rows"], made.extra["mrm.pairs.features"]
    for (image_number, row), wanted in zip(rows.tolist(), features):
        assert not made.regions.features[first + image_number, row].any()
        torch.testing.assert_close(made.regions.features[image_number, row], wanted)
    assert len(rows) == len(made.extra["mrm.pairs.classes"]) >= last - first == 4
    hidden = (made.regions.features[first:last, 1:] == 0).all(-1) & (made.regions.boxes[first:last, 1:] != 0).any(-1)
    assert hidden.sum() == len(rows)


@pytest.mark.parametrize("squared_error", ["mean", "sum"])
def test_losses_begin_at_chance_and_can_be_learnt(squared_error):
    model, made = tiny(), batch(squared_error=squared_error)
    asked = {"mrm": MaskedRegionModeling(squared_error=squared_error)}
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(150):
        parts, _ = step(model, made, asked)
        means = {name: float(part.total.detach()) / int(part.count) for name, part in parts.items()}
        loss = sum(part.weight * part.total / part.count for part in parts.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(means)
    targets = torch.cat([made.extra[f"mrm.{stream}.features"] for stream in ("pairs", "images")])
    variance = float(targets.square().mean()) * (FEATURES if squared_error == "sum" else 1)
    assert history[0]["mrm.features"] == pytest.approx(variance, rel=0.5)
    assert history[0]["mrm.classes"] == pytest.approx(math.log(CLASSES), rel=0.5)
    assert history[-1]["mrm.features"] < 0.1 * variance
    entropy = torch.cat([made.extra[f"mrm.{stream}.classes"] for stream in ("pairs", "images")])
    floor = float(-(entropy * entropy.log()).sum(-1).mean())
    assert floor - 1e-3 <= history[-1]["mrm.classes"] < floor + 0.1  # soft labels cannot be told better than themselves


def test_captions_help_beside_pairs_and_are_absent_beside_images():
    model, made = tiny(), batch()
    asked = MaskedRegionModeling().requests(model, made, model.towers(made))
    assert asked["mrm.pairs"].text is not None and asked["mrm.images"].text is None
    assert len(asked["mrm.pairs"]) == 4 and len(asked["mrm.images"]) == 3


def test_without_regions_nothing_is_asked():
    made = BatchBuilder(0, 16, Tokenizer.default())
    MaskedRegionModeling().corrupt(made)
    assert not made.finish().image_groups
