"""Regions come back as they were stored, and never for other images."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
from region_files import noise_tar, write_regions

from unimo.corpus.corpus import open_corpus
from unimo.data.regions import ImageRegions, image_regions
from unimo.errors import DataError, UsageError
from unimo.regions.rows import RowFormat, check_distributions
from unimo.regions.store import RegionStore

F, K = 6, 5
ROWS = RowFormat(F, K)
BAD = DataError("A box lies outside its image", where="here", got="9", expected="less", do="look")


def some_regions(i, features=F, classes=K) -> ImageRegions:
    rng = np.random.default_rng(i)
    regions = 1 + i % 4
    corners = np.sort(rng.random((regions, 2, 2)), axis=1).reshape(regions, 4) * [12, 8, 12, 8]
    odds = rng.random((regions, classes)) + 0.01
    return image_regions(
        rng.normal(size=(regions, features)) * 10**i, corners, 12, 8, classes=odds / odds.sum(1, keepdims=True)
    )


def stored(corpus, folder, rows=ROWS, bad=(), source="a") -> RegionStore:
    images = [BAD if i in bad else some_regions(i % 5) for i in range(len(corpus))]
    return write_regions(corpus, folder, images, rows, {"source": source})


@pytest.fixture
def corpus(tmp_path):
    noise_tar(tmp_path / "shards/a.tar", [f"1-{i}" for i in range(4)], seed=10)
    noise_tar(tmp_path / "shards/b.tar", [f"2-{i}" for i in range(5)], seed=20)
    return open_corpus("images", tmp_path / "shards")


# ---- round trip


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("top", [0, 2])
def test_round_trip(corpus, tmp_path, precision, top):
    store = stored(corpus, tmp_path / "out", RowFormat(F, K, precision, top))
    assert len(store) == 9 and (store.feature_size, store.classes) == (F, K)
    for i in range(9):
        wanted, got = some_regions(i % 5), store.image(i)
        assert store.lengths[i] == len(wanted) == len(got)
        assert {got.features.dtype, got.boxes.dtype, got.classes.dtype} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(got.boxes, wanted.boxes)
        largest = np.abs(wanted.features).max(axis=1, keepdims=True)
        error = np.abs(got.features - wanted.features)
        # half a step: of 127 up to the row's largest, or of float16's 11 bits at the value itself
        bound = largest / 254 if precision == "int8" else np.abs(wanted.features) * 2**-11 + 1e-7
        assert (error <= bound * 1.001).all()
        np.testing.assert_allclose(got.classes.sum(axis=1), 1, rtol=1e-6)
        if top:
            order = np.argsort(-wanted.classes, axis=1)
            kept = np.take_along_axis(wanted.classes, order[:, :top], axis=1)
            np.testing.assert_allclose(np.take_along_axis(got.classes, order[:, :top], axis=1), kept, rtol=2e-3)
            others = np.take_along_axis(got.classes, order[:, top:], axis=1)
            np.testing.assert_allclose(
                others, np.broadcast_to((1 - kept.sum(1, keepdims=True)) / 3, others.shape), atol=1e-3
            )
        else:
            np.testing.assert_allclose(got.classes, wanted.classes, rtol=2e-3, atol=1e-6)


def test_bad_images_have_no_rows_and_keep_their_reason(corpus, tmp_path):
    store = stored(corpus, tmp_path / "out", bad=(0, 3, 6))
    assert store.lengths.tolist() == [0, 3, 4, 0, 2, 2, 0, 4, 5]
    assert [i for i in range(9) if not store.has(i)] == [0, 3, 6]
    with pytest.raises(DataError, match=r"outside its image.*where: here.*got: 9.*expected: less.*do: look"):
        store.image(6)
    np.testing.assert_array_equal(store.image(7).boxes, some_regions(2).boxes)
    with pytest.raises(IndexError):
        store.image(9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: ImageRegions(r.features * 1e6, r.boxes, r.classes), "too large for float16"),
        (lambda r: ImageRegions(r.features[:, 1:], r.boxes, r.classes), "number of features.*got: 5.*expected: 6"),
        (lambda r: ImageRegions(r.features, r.boxes), "number of classes.*got: 0.*expected: 5"),
    ],
)
def test_what_cannot_be_stored_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        ROWS.encode(change(some_regions(3)))


def test_impossible_formats():
    for options in ({"precision": "float8"}, {"top": K + 1}, {"classes": 2**16}, {"features": 0}):
        with pytest.raises(UsageError):
            RowFormat(**{"features": F, "classes": K, **options})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.5, 0.5], [0.7, 0.1]], "do not sum to one.*region 1.*0.8"),
        ([[1.2, -0.2], [0.5, 0.5]], "negative.*region 0.*-0.2"),
        ([[0, 0]], "do not sum to one"),
    ],
)
def test_distributions(rows, message):
    with pytest.raises(DataError, match=message):
        check_distributions(np.array(rows))
    check_distributions(np.array([[0.502, 0.503], [1, 0]]))


# ---- which images


def test_sidecars_follow_their_images_not_their_names(corpus, tmp_path):
    """Shards may be renamed, in another order, or only some of them."""
    store = stored(corpus, tmp_path / "out")
    (tmp_path / "else").mkdir()
    shutil.copy(tmp_path / "shards/b.tar", tmp_path / "else/0.tar")
    shutil.copy(tmp_path / "shards/a.tar", tmp_path / "else/1.tar")
    moved = open_corpus("images", tmp_path / "else")
    again = RegionStore.open(tmp_path / "out", moved)
    for i, key in enumerate(moved.keys):
        j = list(corpus.keys).index(key)
        np.testing.assert_array_equal(again.image(i).features, store.image(j).features)
    only = open_corpus("images", tmp_path / "else/0.tar")
    assert len(RegionStore.open(sorted((tmp_path / "out").glob("*")), only)) == 5


def test_sidecars_of_other_images_are_refused(corpus, tmp_path):
    stored(corpus, tmp_path / "out")
    noise_tar(tmp_path / "shards/b.tar", [f"2-{i}" for i in range(5)], seed=30)
    with pytest.raises(DataError, match=r"no regions fit this shard.*b\.tar.*5 images as they are now"):
        RegionStore.open(tmp_path / "out", open_corpus("images", tmp_path / "shards"))
    with pytest.raises(DataError, match="no sidecar"):
        RegionStore.open(None, corpus)
    a, b = (corpus.images_sha256(items) for _, items in corpus.ranges())
    assert a != b


def test_shards_of_different_sources_do_not_mix(corpus, tmp_path):
    stored(corpus, tmp_path / "out")
    only = open_corpus("images", tmp_path / "shards/b.tar")
    stored(only, tmp_path / "out", source="b")
    with pytest.raises(UsageError, match="different sources"):
        RegionStore.open(tmp_path / "out", corpus)


def test_beside_the_shards_by_default_without_classes(corpus, tmp_path):
    rows, plain = RowFormat(F, 0), some_regions(3)
    store = write_regions(corpus, None, [ImageRegions(plain.features, plain.boxes)] * 9, rows, {"source": "a"})
    assert (tmp_path / "shards/a.tar.images.regions.safetensors").is_file() and store.image(8).classes is None
    assert len(open_corpus("images", tmp_path / "shards")) == 9  # the sidecars are no images


def test_every_byte_is_verified_on_request(corpus, tmp_path):
    store = stored(corpus, tmp_path / "out", bad=range(4))
    path = store.sidecars[1].path
    data = bytearray(path.read_bytes())
    data[data.index(store.sidecars[1].array("features").tobytes()) + 5] ^= 4
    path.write_bytes(data)
    assert len(pickle.dumps(RegionStore.open(tmp_path / "out", corpus))) < 20_000  # paths, not tables
    with pytest.raises(DataError, match="other bytes of features"):
        RegionStore.open(tmp_path / "out", corpus, verify=True)
