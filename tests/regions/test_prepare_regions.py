"""Every source says where things are and what they look like; every bad answer is named; a kill costs nothing."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import re
import signal
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from dying import ended, fork
from PIL import Image

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import open_corpus
from unimo.errors import DataError, UsageError, WeightsError
from unimo.model.build import ModelSettings, build
from unimo.regions.detector_files import NPZ, TSV, read_npz
from unimo.regions.detectors import Detector, FasterRCNN, Preprocessing, UNIMO2Patches, ViTPatches, patch_encoder
from unimo.regions.grid import Grid, Pixels, _coverage, k_means, squared_distances
from unimo.regions.prepare import SOURCES, find_source, prepare_regions
from unimo.regions.source import CorpusImage, Detections, RegionSource, random_projection
from unimo.regions.store import RegionStore
from unimo.regions.truth import Truth
from unimo.synthetic.dataset import write_world
from unimo.synthetic.world import COLOURS, COMBINATIONS
from unimo.weights.saving import save_pretrained

WIDTH, HEIGHT = 24, 16


def quiet(line: str) -> None:
    pass


def write_tar(path: Path, images: dict[str, Image.Image], metas: dict[str, dict] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, image in images.items():
            png = io.BytesIO()
            image.save(png, "PNG")
            members = {f"{key}.png": png.getvalue()}
            if metas and key in metas:
                members[f"{key}.json"] = json.dumps(metas[key]).encode()
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def noise(seed: int, size=(WIDTH, HEIGHT)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def shards(tmp_path) -> Path:
    write_tar(tmp_path / "shards/a.tar", {f"a{i}": noise(i) for i in range(5)})
    write_tar(tmp_path / "shards/b.tar", {f"b{i}": noise(10 + i) for i in range(3)})
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    write_world(folder, pairs=30, images=12, texts=1, heldout=4, compositional=4, classes=64)
    return folder


def prepared(paths, source, out: Path, **options) -> RegionStore:
    prepare_regions("images", paths, source, out=out, say=quiet, **options)
    return RegionStore.open(out, open_corpus("images", paths), verify=True)


def shown(paths, i=0) -> CorpusImage:
    return CorpusImage(open_corpus("images", paths), i)


class Fixed(RegionSource):
    """A source with given regions, by key."""

    feature_size, classes = 4, 3

    def __init__(self, answers=None):
        self.answers, self.calls = answers or {}, 0

    def identity(self):
        return {"source": "fixed"}

    def regions(self, image):
        self.calls += 1
        found = good(sum(image.key.encode()))
        return Detections(**{**vars(found), **self.answers.get(image.key, {})})


def good(seed: int) -> Detections:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((5, 2, 2)), axis=1).reshape(5, 4) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    classes = rng.random((5, 3))
    return Detections(rng.normal(size=(5, 4)), corners, WIDTH, HEIGHT, classes / classes.sum(1, keepdims=True))


# ---- the run


def test_rows_and_store(shards, tmp_path):
    said: list[str] = []
    rows = prepare_regions("images", shards, Fixed(), out=tmp_path / "out", max_regions=3, say=said.append)
    assert [(row["offered"], row["used"], row["quarantined"], row["regions"]) for row in rows] == [
        (5, 5, 0, 15),
        (3, 3, 0, 9),
    ]
    assert re.search(r"a\.tar \| 5 of 5 images \| 3\.0 regions each \| .* s \(.* images/s\)", said[0])
    assert said[-1] == "2 shards: regions of 8 images, F = 4, K = 3; 0 bad"
    store = RegionStore.open(tmp_path / "out", open_corpus("images", shards))
    image, found = store.image(0), good(sum(b"a0"))
    np.testing.assert_allclose(image.features[1:], found.features[:3], rtol=1e-3)
    np.testing.assert_allclose(image.features[0], found.features.mean(axis=0), rtol=1e-3)  # of all five, not of three
    np.testing.assert_allclose(image.boxes[2, 0], found.boxes[1, 0] / WIDTH, rtol=1e-6)


def test_what_is_there_is_not_made_again(shards, tmp_path):
    source = Fixed()
    prepare_regions("images", shards, source, out=tmp_path / "out", say=quiet)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    said: list[str] = []
    rows = prepare_regions("images", shards, source, out=tmp_path / "out", say=said.append)
    assert source.calls == 8 and not any(row["built"] for row in rows) and "unchanged" in said[0]
    with pytest.raises(UsageError, match=r"other regions lie here.*settings"):
        prepare_regions("images", shards, source, out=tmp_path / "out", max_regions=2, say=quiet)
    with pytest.raises(UsageError, match=r"other regions lie here.*source"):
        prepare_regions("images", shards, "grid", words=4, out=tmp_path / "out", say=quiet)
    damaged = next(iter(before))
    damaged.write_bytes(before[damaged][:-1])  # noticed and made again, the other one left alone
    rows = prepare_regions("images", shards, source, out=tmp_path / "out", say=quiet)
    assert sorted(row["built"] for row in rows) == [False, True]
    assert {path: path.read_bytes() for path in before} == before


def test_a_changed_shard_is_made_again(shards, tmp_path):
    prepared(shards, Fixed(), tmp_path / "out")
    write_tar(shards / "b.tar", {f"b{i}": noise(20 + i) for i in range(4)})
    assert len(prepared(shards, Fixed(), tmp_path / "out")) == 9


def test_pairs_and_images_of_a_shard_share_their_regions(world, tmp_path):
    prepare_regions("pairs", world / "pairs", "truth", out=tmp_path, say=quiet)
    store = RegionStore.open(tmp_path, open_corpus("images", world / "pairs"))
    assert len(store) == 30 and store.lengths.min() >= 3


def test_images_that_cannot_be_decoded(shards, tmp_path):
    png = io.BytesIO()
    noise(5).save(png, "PNG")
    with tarfile.open(shards / "c.tar", "w") as tar:
        info = tarfile.TarInfo("c0.png")
        info.size = 200
        tar.addfile(info, io.BytesIO(png.getvalue()[:200]))
    bad_samples = BadSamples(tmp_path / "bad.jsonl")
    options = {"words": 8, "verify": "header", "index_dir": tmp_path / "index", "bad_samples": bad_samples}
    prepare_regions("images", shards, "grid", out=tmp_path / "out", say=quiet, **options)
    (entry,) = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert (entry["key"], entry["what"]) == ("c0", "cannot decode image")


def test_images_that_the_index_refused_are_said(shards, tmp_path):
    png = io.BytesIO()
    noise(5).save(png, "PNG")
    with tarfile.open(shards / "c.tar", "w") as tar:
        for name, data in (("c0.png", png.getvalue()[:200]), ("c1.png", png.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    said: list[str] = []
    prepare_regions("images", shards, Fixed(), out=tmp_path / "out", say=said.append)
    assert said[0].startswith("1 of 10 are bad (1 x cannot decode image)")
    assert said[-1] == "3 shards: regions of 9 images, F = 4, K = 3; 0 bad"


BOX = [1.0, 2.0, 9.0, 8.0]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"features": np.zeros((4, 4))}, "Not one feature row for each box"),
        ({"features": np.zeros((5, 3))}, "Another number of features than the other images have"),
        ({"features": np.full((5, 4), np.nan)}, "A feature is not finite"),
        ({"features": np.full((5, 4), 1e9)}, "A feature is too large for float16"),
        ({"boxes": np.zeros((0, 4)), "features": np.zeros((0, 4))}, "Not a table of boxes"),
        ({"boxes": [BOX] * 4 + [[1, 2, np.nan, 8]]}, "A box is not finite"),
        ({"boxes": [BOX] * 4 + [[9, 2, 1, 8]]}, "A box ends before it begins"),
        ({"boxes": [BOX] * 4 + [[2, 1, 8, 23]]}, "A box lies outside its image"),  # y1, x1, y2, x2
        ({"boxes": [BOX] * 4 + [[-9, 1, 8, 9]]}, "A box lies outside its image"),
        ({"boxes": [BOX] * 4 + [[0, 0, 16, 24]]}, "A box lies outside its image"),
        ({"classes": np.full((5, 3), 0.3)}, "Class probabilities do not sum to one"),
        ({"classes": [[1.5, -0.5, 0]] * 5}, "A class probability is negative"),
        ({"classes": np.full((5, 3), np.nan)}, "A class probability is not finite"),
        ({"classes": np.ones((4, 3)) / 3}, "Not one class probability row for each box"),
        ({"classes": np.ones((5, 2)) / 2}, "Another number of classes than the other images have"),
        ({"classes": None}, "Another number of classes than the other images have"),
        ({"width": 0}, "An image without a size"),
    ],
)
def test_every_bad_answer_is_named_and_nothing_stops(shards, tmp_path, answer, reason):
    bad_samples = BadSamples(tmp_path / "bad.jsonl")
    store = prepared(shards, Fixed({"a3": answer}), tmp_path / "out", bad_samples=bad_samples)
    (entry,) = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert (entry["key"], entry["what"]) == ("a3", reason) and entry["shard"].endswith("a.tar")
    assert (bad_samples.offered, bad_samples.used, bad_samples.quarantined) == (8, 7, 1)
    assert [i for i in range(8) if not store.has(i)] == [3]
    with pytest.raises(DataError, match=re.escape(reason)):
        store.image(3)


def test_no_regions_at_all(shards, tmp_path):
    bad = {f"{s}{i}": {"features": np.zeros((1, 4))} for s in "ab" for i in range(5)}
    with pytest.raises(DataError, match=r"not one image has regions.*8 x Not one feature row"):
        prepared(shards, Fixed(bad), tmp_path / "out")


def test_wrong_calls(shards):
    with pytest.raises(UsageError, match="have no images"):
        prepare_regions("texts", shards, Fixed())
    with pytest.raises(UsageError, match="already made"):
        prepare_regions("images", shards, Fixed(), words=3)
    with pytest.raises(UsageError, match="did you mean grid"):
        find_source("gird")
    with pytest.raises(UsageError, match="the size they have"):
        find_source("detector:somewhere", feature_size=7)
    for name in set(SOURCES) - {"truth", "grid"}:
        with pytest.raises(UsageError, match=f"needs a place.*{name}:FILE"):
            find_source(name)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_and_started_again(shards, tmp_path):
    """At an image of the second shard: the first is kept, the rest is made, and the bytes are the same."""

    class Deadly(Fixed):
        def regions(self, image):
            if image.key == "b1":
                os.kill(os.getpid(), signal.SIGKILL)
            return super().regions(image)

    prepared(shards, Fixed(), tmp_path / "whole")
    out = tmp_path / "out"
    assert ended(fork(lambda: prepare_regions("images", shards, Deadly(), out=out, say=quiet))) == -signal.SIGKILL
    source = Fixed()
    rows = prepare_regions("images", shards, source, out=out, say=quiet)
    assert [row["built"] for row in rows] == [False, True] and source.calls == 3
    assert bytes_in(out) == bytes_in(tmp_path / "whole")


def test_interrupted_it_goes_on_at_the_very_image(shards, tmp_path):
    class Interrupted(Fixed):
        def regions(self, image):
            if image.key == "a3":
                raise KeyboardInterrupt
            return super().regions(image)

    with pytest.raises(KeyboardInterrupt):
        prepared(shards, Interrupted(), tmp_path / "out")
    rows = prepare_regions("images", shards, Fixed(), out=tmp_path / "out", say=quiet)
    assert [row["resumed"] for row in rows] == [3, 0]


# ---- truth


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
    image = shown(world / "classes", 5)
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
    write_tar(tmp_path / "x/a.tar", {"a": noise(1)}, {"a": meta})
    (tmp_path / "world.json").write_text(
        json.dumps({"parameters": {"seed": 0, "objects": [2, 4], "twins": 0, "size": 64}})
    )
    with pytest.raises(DataError, match=reason):
        Truth().regions(shown(tmp_path / "x"))


def test_images_that_the_world_did_not_draw(world, tmp_path):
    write_tar(tmp_path / "x/a.tar", {"image-000001": noise(1, (64, 64))})
    with pytest.raises(DataError, match="no world to draw from"):
        Truth().regions(shown(tmp_path / "x"))
    (tmp_path / "world.json").write_bytes((world / "world.json").read_bytes())
    with pytest.raises(DataError, match="draws another image"):
        Truth().regions(shown(tmp_path / "x"))


# ---- grid


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
    assert np.sqrt(squared_distances(middles.astype(np.float32), centres).min(axis=1)).max() < 1
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


# ---- models


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
    image = shown(shards).image
    theirs = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    look = patch_encoder(str(folder), "cpu")
    assert isinstance(look, ViTPatches)
    pixels = look.pixels.normalise(np.asarray(image.resize((32, HEIGHT), 3).resize((32, 32), 3)))
    with torch.no_grad():
        states = theirs(torch.from_numpy(pixels)[None]).last_hidden_state[0, 1:].reshape(4, 4, 16).numpy()
    np.testing.assert_allclose(look.states(image), states, atol=1e-5)
    pooled = Grid(look, words=2)._pooled(image)
    np.testing.assert_allclose(pooled[0], states.mean(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(pooled[2], states[:2, 2:].mean(axis=(0, 1)), atol=1e-5)


def test_grid_over_our_own_model(shards, tmp_path):
    settings = ModelSettings(
        width=16,
        heads=2,
        image_depth=1,
        text_depth=1,
        grounded_depth=1,
        image_size=32,
        patch=8,
        positions=32,
        dictionary=8,
        chosen=2,
    )
    torch.manual_seed(0)
    folder = save_pretrained(build(settings), tmp_path / "ours", settings)
    look = patch_encoder(str(folder), "cpu")
    assert isinstance(look, UNIMO2Patches) and look.states(noise(1)).shape == (4, 4, 16)
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
    image = shown(shards)
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
    found = source.regions(shown(shards))
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


# ---- files


def published_row(name, found: Detections, classes=True) -> str:
    """A line as the released readers expect it, written from their description alone."""
    cells = [name, str(int(found.width)), str(int(found.height)), str(len(found.boxes))]
    for table in (found.boxes, found.features, found.classes if classes else None):
        if table is not None:
            cells.append(base64.b64encode(np.ascontiguousarray(table, dtype="<f4").tobytes()).decode())
    return "\t".join(cells)


@pytest.mark.parametrize("classes", [True, False])
def test_tsv_as_published(shards, tmp_path, classes):
    keys = [f"a{i}" for i in range(5)] + [f"b{i}" for i in range(3)]
    rows = [published_row(f"{key}.jpg", good(i), classes) for i, key in enumerate(keys)]
    (tmp_path / "part.tsv.0").write_text("\n".join(rows[:3]) + "\n")
    (tmp_path / "part.tsv.1").write_text("\r\n".join(rows[3:]))
    store = prepared(shards, f"tsv:{tmp_path}/part.tsv.*", tmp_path / "out")
    for i in range(8):
        found, image = good(i), store.image(i)
        np.testing.assert_allclose(image.features[1:], found.features, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(image.boxes[1:, 2], found.boxes[:, 2] / WIDTH, rtol=1e-5)
        if classes:
            np.testing.assert_allclose(image.classes[1:], found.classes, atol=1e-3)
        else:
            assert image.classes is None


def test_bad_rows_of_a_tsv_are_named(shards, tmp_path):
    lines = {
        f"{s}{i}": published_row(f"{s}{i}.jpg", good(i)).split("\t") for s, n in (("a", 5), ("b", 3)) for i in range(n)
    }
    lines["a0"][5] = lines["a0"][5][:-8]  # the first row is damaged: the next ones say how long rows are
    lines["a1"][3] = "4"
    lines["a2"].pop(4)
    lines["a2"].pop(4)
    lines["a3"][1:3] = lines["a3"][2:0:-1]
    lines["a4"][4] = "*" + lines["a4"][4][1:]
    lines["b0"][3] = "-5"
    none = Detections(np.zeros((0, 4)), np.zeros((0, 4)), WIDTH, HEIGHT, np.zeros((0, 3)))
    lines = {"0": published_row("other", none).split("\t"), **lines}  # no boxes: says nothing about the others
    del lines["b1"]
    (tmp_path / "x.tsv").write_text("\n".join(map("\t".join, lines.values())) + "\n")
    bad_samples = BadSamples(tmp_path / "bad.jsonl")
    store = prepared(shards, TSV(str(tmp_path / "x.tsv")), tmp_path / "out", bad_samples=bad_samples)
    entries = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert {entry["key"]: entry["what"] for entry in entries} == {
        "a0": "A table of another size",
        "a1": "A table of another size",
        "a2": "Wrong number of columns",
        "a3": "width and height have changed places",
        "a4": "Not base64",
        "b0": "Not a whole number",
        "b1": "the file has no regions of this image",
    }
    assert all("x.tsv, line " in entry["where"] for entry in entries if entry["key"] in ("a0", "a1", "a2", "a4"))
    assert [i for i in range(8) if store.has(i)] == [7]


def test_a_tsv_of_images_in_another_size(shards, tmp_path):
    found = good(0)
    double = Detections(found.features, found.boxes * 2, 2 * WIDTH, 2 * HEIGHT, found.classes)
    said: list[str] = []
    (tmp_path / "x.tsv").write_text(published_row("a0", double) + "\n" + published_row("a0.jpg", found))
    source = TSV(str(tmp_path / "x.tsv"))
    source.fit(open_corpus("images", shards), tmp_path, said.append)
    assert said == ["1 rows repeat an image and are left out, among them a0"]
    assert (source.feature_size, source.classes) == (4, 3)
    seen = source.regions(shown(shards))
    assert (seen.width, seen.height) == (2 * WIDTH, 2 * HEIGHT)
    np.testing.assert_allclose(seen.boxes, 2 * found.boxes, rtol=1e-6)


def test_npz(shards, tmp_path):
    folder = tmp_path / "npz"
    folder.mkdir()
    for i in range(5):
        found = good(i)
        np.savez(folder / f"a{i}.npz", features=found.features, boxes=found.boxes, classes=found.classes)
    shares = np.concatenate([good(0).boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT], np.zeros((5, 3))], axis=1)
    np.savez(
        folder / "b0.jpg.npz", features=good(0).features, norm_bb=shares.astype(np.float16), soft_labels=good(0).classes
    )
    np.savez(folder / "b1.npz", features=np.array([{}]), boxes=good(1).boxes)  # pickled
    np.savez(folder / "b2.npz", other=good(1).features)
    (folder / "a4.npz").write_bytes(b"PK not a zip")
    bad_samples = BadSamples(tmp_path / "bad.jsonl")
    store = prepared(shards, f"npz:{folder}", tmp_path / "out", bad_samples=bad_samples)
    entries = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert {entry["key"]: entry["what"] for entry in entries} == {
        "a4": "not an .npz file of plain arrays",
        "b1": "not an .npz file of plain arrays",
        "b2": "no regions in this record",
    }
    assert "Object arrays" in next(entry["got"] for entry in entries if entry["key"] == "b1")
    np.testing.assert_allclose(store.image(5).boxes[1:], store.image(0).boxes[1:], atol=1e-3)
    with pytest.raises(DataError, match="no such folder"):
        NPZ(str(tmp_path / "none"))


def test_case_one_name_for_two_images_is_refused(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        write_tar(tmp_path / f"shards/{name}.tar", {"0001": noise(seed), f"0002{name}": noise(seed + 10)})
    (tmp_path / "npz").mkdir()
    for name in ("0001", "0002a", "0002b"):
        np.savez(tmp_path / "npz" / f"{name}.npz", features=good(0).features, boxes=good(0).boxes)
    bad_samples = BadSamples()
    prepare_regions(
        "images", tmp_path / "shards", f"npz:{tmp_path / 'npz'}", out=tmp_path / "o", say=quiet, bad_samples=bad_samples
    )
    assert bad_samples.summary()["reasons"] == {"several images would take the regions of one name": 2}


def lone_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, good(0).features)
    return stream.getvalue()


def archive_of(header: str, *, bits: int = 0, method: int = 0) -> bytes:
    """An .npz whose array has this header; bits, method: what the archive says of its encryption and compression."""
    text = header.encode() + b"\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("features.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    data = bytearray(stream.getvalue())
    central = data.find(b"PK\x01\x02")
    for at in (6, central + 8):
        data[at] |= bits
    for at in (8, central + 10):
        data[at] |= method
    return bytes(data)


ARRAY = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}"
FOREIGN = {
    "an .npy": lone_array(),
    "nothing": b"",
    "a pickle": pickle.dumps({"features": 1}),
    "encrypted": archive_of(ARRAY % "2, 2", bits=1),
    "an unknown compression": archive_of(ARRAY % "2, 2", method=99),
    "more than any memory": archive_of(ARRAY % "1000000000000, 1000"),
    "less than nothing": archive_of(ARRAY % "-1, 8"),
    "a header without end": archive_of("(" * 5000),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_archive_is_named_and_stops_nothing(kind):
    with pytest.raises(DataError, match=r"not an .npz file of plain arrays \| where: it \| got: \w") as refused:
        read_npz(FOREIGN[kind], where="it")
    assert "without pickles" in refused.value.parts()["expected"]


def test_files_without_a_record_and_folders_among_them(shards, tmp_path):
    (tmp_path / "tsv" / "folder.tsv").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no such file.*tsv/\*"):
        find_source(f"tsv:{tmp_path}/tsv/*")
    (tmp_path / "tsv" / "x.tsv").write_text("")
    with pytest.raises(DataError, match=r"no regions in these files.*tsv/\*"):
        find_source(f"tsv:{tmp_path}/tsv/*")
    (tmp_path / "tsv" / "x.tsv").write_text(published_row("a0", good(0)))
    assert TSV(f"{tmp_path}/tsv/*").regions(shown(shards)).features.shape == (5, 4)


def test_a_link_to_nothing_in_hdf5_is_named(monkeypatch):
    class File(dict):
        def __getitem__(self, name):
            raise KeyError("unable to synchronously open object (component not found)")

    library = types.SimpleNamespace(File=lambda place, mode: File(a0=None))
    monkeypatch.setitem(sys.modules, "h5py", library)
    with pytest.raises(DataError, match=r"not a group of arrays.*hdf5, a0.*component not found"):
        find_source("hdf5:x.h5")


@pytest.mark.parametrize(("name", "module"), [("hdf5", "h5py"), ("lmdb", "lmdb")])
def test_a_missing_extra_is_named(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"needs {module}.*unimo\[regions\].*pip install {module}"):
        find_source(f"{name}:somewhere")


def test_hdf5(shards, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for i in range(5):
            group, found = file.create_group(f"a{i}"), good(i)
            group["features"], group["bbox"], group["cls_prob"] = found.features, found.boxes, found.classes
            group.attrs["image_w"], group.attrs["image_h"] = WIDTH, HEIGHT
        file["b0"] = np.zeros(3)
    store = prepared(shards, f"hdf5:{tmp_path}/x.h5", tmp_path / "out")
    assert store.lengths.tolist() == [6] * 5 + [0] * 3
    np.testing.assert_allclose(store.image(4).features[1:], good(4).features, rtol=1e-3)
    (tmp_path / "x.h5").write_text("text")
    with pytest.raises(DataError, match="not an HDF5 file"):
        find_source(f"hdf5:{tmp_path}/x.h5")


def test_lmdb(shards, tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "db")) as db, db.begin(write=True) as writing:
        for i in range(5):
            stream, found = io.BytesIO(), good(i)
            np.savez_compressed(stream, features=found.features, bbox=found.boxes, soft_labels=found.classes)
            writing.put(f"a{i}.npz".encode(), stream.getvalue())
        writing.put(b"b0.npz", b"\x80\x04pickle")
        writing.put(b"__keys__", b"[]")
    store = prepared(shards, f"lmdb:{tmp_path}/db", tmp_path / "out")
    assert store.lengths.tolist() == [6] * 5 + [0] * 3
    np.testing.assert_allclose(store.image(4).features[1:], good(4).features, rtol=1e-3)


# ---- real images


def test_real_images(shared, tmp_path):
    path = shared / "data" / "flickr8k" / "extra-00000.tar"
    prepare_regions("images", path, "grid", words=32, out=tmp_path, index_dir=tmp_path, say=quiet)
    store = RegionStore.open(tmp_path, open_corpus("images", path, index_dir=tmp_path))
    assert (store.lengths == 31).all()
    entropy = [-(c * np.log(c + 1e-9)).sum(1).mean() for c in (store.image(i).classes[1:] for i in range(20))]
    assert 0.1 < np.mean(entropy) < np.log(32) - 0.3  # neither always one word nor all alike
