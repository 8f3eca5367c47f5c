"""Truth, grids and detectors say where things are and what they look like."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import image, image_of, tar_of
from PIL import Image
from region_files import (
    HEIGHT,
    WIDTH,
    first_image,
    noise_tar,
    prepared,
)

from unimo.corpus.corpus import open_corpus
from unimo.errors import DataError, UsageError, WeightsError
from unimo.model.build import ModelSettings, build
from unimo.regions.detectors import Detector, FasterRCNN, Preprocessing, UNIMO2Patches, ViTPatches, patch_encoder
from unimo.regions.grid import Grid, Pixels, _coverage, k_means
from unimo.regions.prepare import find_source
from unimo.regions.source import CorpusImage, random_projection
from unimo.regions.truth import Truth
from unimo.synthetic.world import COLOURS, COMBINATIONS
from unimo.weights.saving import save_pretrained


def test_truth_lies_where_a_thing_is_drawn(world, tmp_path):
    """Alone in its image, a thing is all that differs from the ground (whose blotches differ by at most 7)."""
    store = prepared(world / "classes", "truth", tmp_path / "out")
    corpus = open_corpus("images", world / "classes")
    for i, key in enumerate(corpus.keys):
        pixels = np.asarray(CorpusImage(corpus, i).image).astype(int)
        ground = np.median(pixels.reshape(-1, 3), axis=0)
        ys, xs = np.nonzero(np.abs(pixels - ground).max(axis=2) > 40)
        regions = store.image(i)
        assert len(regions) == 2
        drawn = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        np.testing.assert_allclose(regions.boxes[1, :4] * 64, drawn, atol=1.01)
        label = corpus.meta(i)["label"]
        assert regions.classes[1].argmax() == label, key
        np.testing.assert_allclose(regions.classes[1, label], 0.9 + 0.1 / 64, atol=1e-3)


def test_truth_of_images_with_many_things(world, tmp_path):
    for name in ("pairs", "images"):  # with boxes in the JSON, and drawn anew from world.json
        store = prepared(world / name, Truth(), tmp_path / name)
        corpus = open_corpus("images", world / name)
        for i in range(len(corpus)):
            pixels, regions = np.asarray(CorpusImage(corpus, i).image).astype(int), store.image(i)
            assert 3 <= len(regions) <= 5
            covered = np.zeros((64, 64), bool)
            for box, classes in zip(regions.boxes[1:, :4] * 64, regions.classes[1:]):
                x1, y1 = np.floor(box[:2]).astype(int)
                x2, y2 = np.ceil(box[2:]).astype(int)
                covered[y1:y2, x1:x2] = True
                colour, _ = COMBINATIONS[classes.argmax()]
                near = np.abs(pixels[y1:y2, x1:x2] - COLOURS[colour]).max(axis=2) < 40
                assert near.mean() > 0.15  # a ring or a cross covers least
            ground = np.median(pixels.reshape(-1, 3), axis=0)
            assert np.abs(pixels - ground).max(axis=2)[~covered].max() < 40  # nothing is drawn beside the boxes


def test_features_of_truth_are_the_crop(world):
    image = first_image(world / "classes", 5)
    found, source = Truth().regions(image), Truth(feature_size=300)
    x1, y1, x2, y2 = found.boxes[0]
    crop = np.asarray(image.image).astype(float)[round(y1) : round(y2), round(x1) : round(x2)]
    seen = found.features.reshape(8, 8, 3)
    np.testing.assert_allclose(seen.mean(axis=(0, 1)) * 127.5 + 127.5, crop.mean(axis=(0, 1)), atol=12)
    larger = source.regions(image).features
    assert larger.shape == (1, 300)
    np.testing.assert_array_equal(larger, random_projection(found.features, 300))


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({}, "an image without truth"),
        ({"boxes": [[0, 0, 5, 5]]}, "not the truth of a scene"),
        ({"boxes": [[0, 0, 5, 5]], "objects": []}, "not the truth of a scene"),
        ({"boxes": [], "objects": []}, "not the truth of a scene"),
        ({"boxes": [[0, 0, 5]], "objects": [{"colour": "red", "shape": "star"}]}, "not the truth of a scene"),
        ({"boxes": [[0, 0, 5, 5]], "objects": [{"colour": "red", "shape": "dog"}]}, "not the truth of a scene"),
        (
            {"boxes": [[0, 0, 5, 50]], "objects": [{"colour": "red", "shape": "star"}]},
            "A box is not within its image",
        ),
    ],
)
def test_truth_that_is_none(tmp_path, meta, reason):
    noise_tar(tmp_path / "x/a.tar", ["a"], meta=meta)
    (tmp_path / "world.json").write_text(
        json.dumps({"parameters": {"seed": 0, "objects": [2, 4], "twins": 0, "size": 64}})
    )
    with pytest.raises(DataError, match=reason):
        Truth().regions(first_image(tmp_path / "x"))


def test_images_that_the_world_did_not_draw(world, tmp_path):
    tar_of(tmp_path / "x/a.tar", {"image-000001.png": image(1, size=(64, 64))})
    with pytest.raises(DataError, match="no world to draw from"):
        Truth().regions(first_image(tmp_path / "x"))
    (tmp_path / "world.json").write_bytes((world / "world.json").read_bytes())
    with pytest.raises(DataError, match="draws another image"):
        Truth().regions(first_image(tmp_path / "x"))


def test_shares_cover_each_interval_once():
    np.testing.assert_allclose(_coverage(4, 4), np.eye(4))
    np.testing.assert_allclose(_coverage(2, 3), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(_coverage(12, 7).sum(axis=1), 1, rtol=1e-6)


def test_grid_boxes_and_pooling(tmp_path):
    """An image in four flat colours: each quarter's box has its colour, the whole their mean."""
    quarters = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours = [[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [100, 100, 100]]]
    for r in range(2):
        for k in range(2):
            quarters[r * HEIGHT // 2 :, k * WIDTH // 2 :] = colours[r][k]
    grid = Grid(Pixels(), words=2)
    states = grid.patches.states(Image.fromarray(quarters))
    assert states.shape == (12, 12, 41)
    np.testing.assert_allclose(states[0, 0, :3] * 255, [200, 0, 0], atol=1)
    np.testing.assert_allclose(states[..., 6:33].sum(axis=-1), 1, rtol=1e-6)  # each pixel has one of 27 colours
    pooled = grid._pooled(Image.fromarray(quarters)).reshape(30, 9, 41)
    np.testing.assert_allclose(pooled[1:5, 4, :3] * 255, np.reshape(colours, (4, 3)), atol=1)
    np.testing.assert_allclose(pooled[0].mean(axis=0)[:3] * 255, np.mean(colours, axis=(0, 1)), atol=4)
    np.testing.assert_allclose(
        grid._boxes[:6],
        [[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1], [0, 0, 1 / 3, 1 / 3]],
    )


def test_directions_of_edges():
    """Vertical stripes change along x (direction 0), horizontal ones along y (direction pi / 2, the fifth of 8)."""
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, (np.arange(96) // 4) % 2 == 0] = 255
    for pixels, expected in ((stripes, 0), (stripes.transpose(1, 0, 2), 4)):
        histogram = Pixels().states(Image.fromarray(np.ascontiguousarray(pixels)))[..., 33:]
        assert (histogram.argmax(axis=-1) == expected).all() and (histogram.max(axis=-1) > 0.1).all()


def test_k_means_finds_what_lies_together():
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(6, 5)) * 20
    rows = (middles.repeat(40, axis=0) + rng.normal(size=(240, 5))).astype(np.float32)
    rng.shuffle(rows)
    centres = k_means(rows, 6)
    assert np.linalg.norm(middles[:, None] - centres, axis=2).min(axis=1).max() < 1
    np.testing.assert_array_equal(centres, k_means(rows.copy(), 6))
    equal = k_means(np.ones((5, 2), np.float32), 3)  # fewer different rows than centres
    assert np.isfinite(equal).all()


def test_grid_regions(shards, tmp_path):
    store = prepared(shards, "grid", tmp_path / "out", words=8, feature_size=64)
    again = prepared(shards, "grid", tmp_path / "again", words=8, feature_size=64)
    for i in range(8):
        image = store.image(i)
        assert image.features.shape == (31, 64) and image.classes.shape == (31, 8)
        np.testing.assert_array_equal(image.features, again.image(i).features)
        np.testing.assert_allclose(image.boxes[1], [0, 0, 1, 1, 1])
    assert sorted(p.name for p in (tmp_path / "out").iterdir())[-1] == "region-vocabulary.safetensors"
    every = np.concatenate([store.image(i).features[1:] for i in range(8)])
    np.testing.assert_allclose(every.std(), 1, atol=0.3)


def test_one_vocabulary_for_two_corpora(shards, tmp_path):
    vocabulary = tmp_path / "words.safetensors"
    first = prepared(shards / "a.tar", "grid", tmp_path / "a", words=8, vocabulary=vocabulary)
    kept = vocabulary.read_bytes()
    second = prepared(shards / "b.tar", "grid", tmp_path / "b", words=8, vocabulary=vocabulary)
    assert vocabulary.read_bytes() == kept
    assert first.sidecars[0].header["source"] == second.sidecars[0].header["source"]
    with pytest.raises(UsageError, match="vocabulary of another grid"):
        prepared(shards, "grid", tmp_path / "c", words=9, vocabulary=vocabulary)
    vocabulary.write_bytes(kept[:-1])
    with pytest.raises(DataError, match="not a file of visual words"):
        prepared(shards, "grid", tmp_path / "c", words=8, vocabulary=vocabulary)
    with pytest.raises(UsageError, match="too few regions"):
        prepared(shards, "grid", tmp_path / "d", words=5000)


def tiny_vit(folder: Path) -> Path:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_grid_over_a_vit(shards, tmp_path):
    from transformers import ViTModel

    folder = tiny_vit(tmp_path / "vit")
    store = prepared(shards, f"grid:{folder}", tmp_path / "out", words=8)
    assert store.image(0).features.shape == (31, 16)
    image = first_image(shards).image
    theirs = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    patches = patch_encoder(str(folder), "cpu")
    assert isinstance(patches, ViTPatches)
    pixels = patches.pixels.normalise(np.asarray(image.resize((32, HEIGHT), 3).resize((32, 32), 3)))
    with torch.no_grad():
        states = theirs(torch.from_numpy(pixels)[None]).last_hidden_state[0, 1:].reshape(4, 4, 16).numpy()
    np.testing.assert_allclose(patches.states(image), states, atol=1e-5)
    pooled = Grid(patches, words=2)._pooled(image)
    np.testing.assert_allclose(pooled[0], states.mean(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(pooled[2], states[:2, 2:].mean(axis=(0, 1)), atol=1e-5)


def test_grid_over_our_own_model(shards, tmp_path):
    sizes = {"image_depth": 1, "text_depth": 1, "grounded_depth": 1, "image_size": 32, "patch": 8}
    settings = ModelSettings(width=16, heads=2, positions=32, dictionary=8, chosen=2, **sizes)
    torch.manual_seed(0)
    folder = save_pretrained(build(settings), tmp_path / "ours", settings)
    patches = patch_encoder(str(folder), "cpu")
    assert isinstance(patches, UNIMO2Patches) and patches.states(image_of(1)).shape == (4, 4, 16)
    store = prepared(shards, f"grid:{folder}", tmp_path / "out", words=8)
    assert store.image(0).features.shape == (31, 16)
    assert str(tmp_path) not in str(store.sidecars[0].header)


def tiny_detr(folder: Path, family: str) -> Path:
    import transformers

    torch.manual_seed(0)
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    few = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_layers": 1, "decoder_layers": 1}
    labels = {"num_labels": 7}
    if family == "rt_detr":
        config = transformers.RTDetrConfig(
            **{**few, **labels},
            backbone_config=transformers.RTDetrResNetConfig(**resnet, out_features=["stage2", "stage3", "stage4"]),
            encoder_in_channels=[8, 16, 16],
            encoder_hidden_dim=16,
            decoder_in_channels=[16, 16, 16],
            num_queries=15,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            num_denoising=0,
        )
        model = transformers.RTDetrForObjectDetection(config)
    else:
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 15}
        backbone = transformers.ResNetConfig(**resnet, out_features=["stage4"])
        config = transformers.DetrConfig(**few, **labels, **heads, use_timm_backbone=False, backbone_config=backbone)
        model = transformers.DetrForObjectDetection(config)
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64} if family == "rt_detr" else {"shortest_edge": 32, "longest_edge": 40}
    normalised = {} if family != "rt_detr" else {"do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size, **normalised}))
    return folder


@pytest.mark.parametrize("family", ["detr", "rt_detr"])
def test_detectors(shards, tmp_path, family):
    from transformers import AutoModelForObjectDetection

    folder = tiny_detr(tmp_path / "model", family)
    source = Detector(str(folder), threshold=0.2, min_regions=4, device="cpu")
    assert (source.feature_size, source.classes) == (16, 8)
    image = first_image(shards)
    found = source.regions(image)
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        seen = model(pixel_values=torch.from_numpy(source.pixels(image.image))[None])
    if family == "detr":
        scores = seen.logits[0].softmax(-1)[:, :-1].max(-1).values
    else:
        scores = seen.logits[0].sigmoid().max(-1).values
    count = max(int((scores >= 0.2).sum()), 4)
    best = scores.argsort(descending=True, stable=True)[:count]
    np.testing.assert_allclose(found.features, seen.last_hidden_state[0][best].numpy(), atol=1e-5)
    x, y, w, h = seen.pred_boxes[0][best].T.numpy()
    corners = np.stack([(x - w / 2), (y - h / 2), (x + w / 2), (y + h / 2)], axis=1).clip(0, 1)
    np.testing.assert_allclose(found.boxes, corners * [WIDTH, HEIGHT, WIDTH, HEIGHT], atol=1e-4)
    np.testing.assert_allclose(found.classes.sum(axis=1), 1, rtol=1e-5)
    store = prepared(shards, f"detector:{folder}", tmp_path / "out", max_regions=6)
    assert store.image(0).features.shape == (7, 16)
    assert str(tmp_path) not in str(store.sidecars[0].header)


def test_a_lone_class_keeps_its_sigmoid(monkeypatch, tmp_path, shards):
    source = Detector(str(tiny_detr(tmp_path / "model", "rt_detr")), device="cpu")
    logits = np.full((15, 7), -30.0)
    logits[3, 2] = 1.5
    monkeypatch.setattr(source, "_run", lambda image: (logits, np.full((15, 4), 0.5), np.zeros((15, 16))))
    found = source.regions(first_image(shards))
    np.testing.assert_allclose(found.classes[0, [2, 7]], [1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(1.5))], rtol=1e-6)
    assert len(found.boxes) == 10  # one is sure enough; the fewest stay in any case


def test_preprocessing(tmp_path):
    usual = Preprocessing.read(tmp_path, "detr")
    assert usual.size == (800, 1333) and usual.keep
    assert usual(Image.new("RGB", (640, 480))).shape == (3, 800, 1067)
    assert usual(Image.new("RGB", (2000, 500))).shape == (3, 333, 1333)
    assert Preprocessing.read(tmp_path, "rt_detr_v2") == Preprocessing((640, 640), False, None, None)
    white = usual.normalise(np.full((1, 1, 3), 255, np.uint8))[:, 0, 0]
    np.testing.assert_allclose(white, [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-5)
    place = tmp_path / "preprocessor_config.json"
    place.write_text('{"size": 64, "max_size": 96, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    assert Preprocessing.read(tmp_path, "detr").size == (64, 96)
    for wrong in ('{"size": {"width": 5}}', '{"image_std": [0, 1, 1]}', '{"size": "large"}'):
        place.write_text(wrong)
        with pytest.raises(WeightsError, match="preprocessing"):
            Preprocessing.read(tmp_path, "detr")


def test_models_that_are_none(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for make in (lambda: Detector(str(tmp_path)), lambda: patch_encoder(str(tmp_path), "cpu")):
        with pytest.raises(WeightsError, match="cannot load this model"):
            make()
    with pytest.raises(WeightsError):
        patch_encoder(str(tmp_path / "nowhere"), "cpu")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")  # never opened
    with pytest.raises(WeightsError, match="cannot load this model"):
        Detector(str(tmp_path))


def test_faster_rcnn_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UsageError, match=r"needs a torchvision that works.*pip install .*detector:MODEL") as caught:
        find_source("faster-rcnn:weights.safetensors")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="torchvision"):
        FasterRCNN("weights.safetensors")
