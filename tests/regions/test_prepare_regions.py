"""Every bad answer is named, what is there is kept, and a kill costs nothing."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from corpora import image, tar_of
from dying import ended, fork
from region_files import (
    WIDTH,
    entries_of,
    good,
    noise_tar,
    prepared,
    quiet,
)

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import open_corpus
from unimo.errors import DataError, UsageError
from unimo.regions.prepare import SOURCES, find_source, prepare_regions
from unimo.regions.source import Detections, RegionSource
from unimo.regions.store import RegionStore


class Fixed(RegionSource):
    """A source whose regions are given by key; `calls` counts what it was called for."""

    feature_size, classes = 4, 3

    def __init__(self, answers=None):
        self.answers, self.calls = answers or {}, 0

    def identity(self):
        return {"source": "fixed"}

    def regions(self, image):
        self.calls += 1
        found = good(sum(image.key.encode()))
        return Detections(**{**vars(found), **self.answers.get(image.key, {})})


def test_rows_and_store(shards, tmp_path):
    lines: list[str] = []
    rows = prepare_regions("images", shards, Fixed(), out=tmp_path / "out", max_regions=3, say=lines.append)
    assert [(row["offered"], row["used"], row["quarantined"], row["regions"]) for row in rows] == [
        (5, 5, 0, 15),
        (3, 3, 0, 9),
    ]
    assert re.search(r"a\.tar \| 5 of 5 images \| 3\.0 regions each \| .* s \(.* images/s\)", lines[0])
    assert lines[-1] == "2 shards: regions of 8 images, F = 4, K = 3; 0 bad"
    store = RegionStore.open(tmp_path / "out", open_corpus("images", shards))
    image, found = store.image(0), good(sum(b"a0"))
    np.testing.assert_allclose(image.features[1:], found.features[:3], rtol=1e-3)
    np.testing.assert_allclose(image.features[0], found.features.mean(axis=0), rtol=1e-3)  # of all five, not of three
    np.testing.assert_allclose(image.boxes[2, 0], found.boxes[1, 0] / WIDTH, rtol=1e-6)


def test_what_is_there_is_not_made_again(shards, tmp_path):
    source = Fixed()
    prepare_regions("images", shards, source, out=tmp_path / "out", say=quiet)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    lines: list[str] = []
    rows = prepare_regions("images", shards, source, out=tmp_path / "out", say=lines.append)
    assert source.calls == 8 and not any(row["built"] for row in rows) and "unchanged" in lines[0]
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
    noise_tar(shards / "b.tar", ["b0", "b1", "b2", "b3"], seed=20)
    assert len(prepared(shards, Fixed(), tmp_path / "out")) == 9


def test_pairs_and_images_of_a_shard_share_their_regions(world, tmp_path):
    prepare_regions("pairs", world / "pairs", "truth", out=tmp_path, say=quiet)
    store = RegionStore.open(tmp_path, open_corpus("images", world / "pairs"))
    assert len(store) == 30 and store.lengths.min() >= 3


@pytest.mark.parametrize("verify", ["header", "decode"])
def test_images_that_cannot_be_decoded_are_named(shards, tmp_path, verify):
    """By the index, which decodes every image, or else when their turn comes."""
    tar_of(shards / "c.tar", {"c0.png": image(5)[:200], "c1.png": image(5)})
    lines: list[str] = []
    options = {"verify": verify, "index_dir": tmp_path / "index", "bad_samples": BadSamples(tmp_path / "bad.jsonl")}
    prepare_regions("images", shards, "grid", words=8, out=tmp_path / "out", say=lines.append, **options)
    (entry,) = entries_of(tmp_path / "bad.jsonl")
    assert (entry["key"], entry["what"]) == ("c0", "cannot decode image")
    assert lines[0].startswith("1 of 10 are bad (1 x cannot decode image)") is (verify == "decode")
    assert f"regions of 9 images, F = 256, K = 8; {int(verify == 'header')} bad" in lines[-1]


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
    (entry,) = entries_of(tmp_path / "bad.jsonl")
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


def test_real_images(shared, tmp_path):
    path = shared / "data" / "flickr8k" / "extra-00000.tar"
    prepare_regions("images", path, "grid", words=32, out=tmp_path, index_dir=tmp_path, say=quiet)
    store = RegionStore.open(tmp_path, open_corpus("images", path, index_dir=tmp_path))
    assert (store.lengths == 31).all()
    entropy = [-(c * np.log(c + 1e-9)).sum(1).mean() for c in (store.image(i).classes[1:] for i in range(20))]
    assert 0.1 < np.mean(entropy) < np.log(32) - 0.3  # neither always one word nor all alike
