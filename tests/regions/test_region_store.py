"""Regions come back as they were stored, whatever was killed in between, and never for other images."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import random
import shutil
import tarfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from unimo.corpus.corpus import open_corpus
from unimo.data.regions import ImageRegions, image_regions
from unimo.errors import DataError, ResourceError, UnimoError, UsageError
from unimo.regions.rows import RowFormat, check_distributions
from unimo.regions.sidecar import Sidecar, fingerprint, open_header, sidecar_path, spans
from unimo.regions.store import RegionStore
from unimo.regions.writer import SidecarWriter

F, K = 6, 5
ROWS = RowFormat(F, K)
BAD = DataError("A box lies outside its image", where="here", got="9", expected="less", do="look")


def write_tar(path, count, seed=0):
    """Little images with keys 000, 001, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            png = io.BytesIO()
            pixels = np.random.default_rng([seed, i]).integers(0, 256, (8, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(png, "PNG")
            info = tarfile.TarInfo(f"{seed}-{i:03d}.png")
            info.size = len(png.getvalue())
            tar.addfile(info, io.BytesIO(png.getvalue()))
    return path


def some_regions(i, features=F, classes=K) -> ImageRegions:
    rng = np.random.default_rng(i)
    regions = 1 + i % 4
    corners = np.sort(rng.random((regions, 2, 2)), axis=1).reshape(regions, 4) * [12, 8, 12, 8]
    odds = rng.random((regions, classes)) + 0.01
    return image_regions(
        rng.normal(size=(regions, features)) * 10**i, corners, 12, 8, classes=odds / odds.sum(1, keepdims=True)
    )


def write_sidecars(corpus, folder, rows=ROWS, bad=(), source="a"):
    for shard, first, end in spans(corpus):
        header = open_header(corpus, first, end, {"source": source}, rows, 36)
        place = sidecar_path(shard, corpus.kind, folder)
        with SidecarWriter(place, header, [corpus.keys[i] for i in range(first, end)], rows) as writer:
            for i in range(first, end):
                writer.add(BAD if i in bad else some_regions(i % 5))
            writer.finish()
    return RegionStore.open(folder, corpus)


@pytest.fixture
def corpus(tmp_path):
    write_tar(tmp_path / "shards/a.tar", 4, seed=1)
    write_tar(tmp_path / "shards/b.tar", 5, seed=2)
    return open_corpus("images", tmp_path / "shards")


# ---- round trip


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("top", [0, 2])
def test_round_trip(corpus, tmp_path, precision, top):
    store = write_sidecars(corpus, tmp_path / "out", RowFormat(F, K, precision, top))
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


def test_other_readers_of_safetensors_understand_it(corpus, tmp_path):
    write_sidecars(corpus, tmp_path / "out")
    for path in (tmp_path / "out").glob("*.safetensors"):
        sidecar = Sidecar(path)
        with safe_open(path, framework="numpy") as stored:
            assert set(stored.keys()) == {"offsets", "keys_blob", "keys_offsets", "boxes", "features", "classes"}
            for name in ("boxes", "features", "classes"):
                np.testing.assert_array_equal(stored.get_tensor(name), sidecar.tables[name])
            assert json.loads(stored.metadata()["source"]) == {"source": "a"}
        assert all(table.flags.aligned for table in sidecar.tables.values())


def test_images_without_classes(corpus, tmp_path):
    rows = RowFormat(F, 0)
    with SidecarWriter(tmp_path / "x", open_header(corpus, 0, 1, {}, rows, 36), ["k"], rows) as writer:
        plain = some_regions(3)
        with pytest.raises(DataError, match="Another number of classes"):
            writer.add(plain)
        writer.add(ImageRegions(plain.features, plain.boxes))
        assert Sidecar(writer.finish()).image(0).classes is None


def test_bad_images_have_no_rows_and_keep_their_reason(corpus, tmp_path):
    store = write_sidecars(corpus, tmp_path / "out", bad=(0, 3, 6))
    assert store.lengths.tolist() == [0, 3, 4, 0, 2, 2, 0, 4, 5]
    assert [i for i in range(9) if not store.has(i)] == [0, 3, 6]
    with pytest.raises(DataError, match=r"outside its image.*where: here.*got: 9.*expected: less.*do: look"):
        store.image(6)
    np.testing.assert_array_equal(store.image(7).boxes, some_regions(2).boxes)
    with pytest.raises(IndexError):
        store.image(9)


def test_a_shard_of_bad_images_only(corpus, tmp_path):
    store = write_sidecars(corpus, tmp_path / "out", bad=range(9))
    assert not store.lengths.any()
    RegionStore.open(tmp_path / "out", corpus, verify=True)


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


# ---- killed and started again


def test_the_same_twice(corpus, tmp_path):
    for name in "ab":
        write_sidecars(corpus, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 2
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_kill_leaves_the_successor_writes_the_same_bytes(corpus, tmp_path, seed):
    rng = random.Random(seed)
    keys = [str(i) for i in range(8)]
    header = open_header(corpus, 0, 4, {}, ROWS, 36)

    def images():
        return [BAD if i == 2 else some_regions(i % 5) for i in range(8)]

    with SidecarWriter(tmp_path / "whole", header, keys, ROWS) as writer:
        for image in images():
            writer.add(image)
        expected = writer.finish().read_bytes()

    place = tmp_path / "killed"
    for _ in range(3):  # killed three times
        with SidecarWriter(place, header, keys, ROWS) as writer:
            for image in images()[len(writer.errors) : len(writer.errors) + rng.randint(1, 3)]:
                writer.add(image)
        damaged = rng.choice(sorted(writer.partial.iterdir()))
        data = damaged.read_bytes()
        damage = rng.choice(["cut", "more", "flip", "none"])
        if damage == "cut":
            data = data[: rng.randint(0, len(data))]
        elif damage == "more":
            data += rng.randbytes(rng.randint(1, 50))
        elif damage == "flip" and data:
            at = rng.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        damaged.write_bytes(data)
    with SidecarWriter(place, header, keys, ROWS) as writer:
        for image in images()[len(writer.errors) :]:
            writer.add(image)
        assert writer.finish().read_bytes() == expected
    assert not writer.partial.exists()


def test_a_partial_sidecar_of_other_settings_is_begun_anew(corpus, tmp_path):
    for source, found in (("a", 0), ("a", 1), ("b", 0)):
        header = open_header(corpus, 0, 4, {"source": source}, ROWS, 36)
        with SidecarWriter(tmp_path / "x", header, ["k", "l", "m"], ROWS) as writer:
            assert len(writer.errors) == found
            writer.add(some_regions(1))


def test_two_at_once(corpus, tmp_path):
    header = open_header(corpus, 0, 4, {}, ROWS, 36)
    with SidecarWriter(tmp_path / "x", header, ["k", "l"], ROWS) as writer:
        with pytest.raises(ResourceError, match="another process"):
            SidecarWriter(tmp_path / "x", header, ["k", "l"], ROWS)
        writer.add(some_regions(1))
        with pytest.raises(UnimoError, match="not every image"):
            writer.finish()
    with SidecarWriter(tmp_path / "x", header, ["k", "l"], ROWS) as writer:
        assert len(writer.errors) == 1


def test_no_room(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write regions"):
        SidecarWriter(tmp_path / "file" / "x", open_header(corpus, 0, 4, {}, ROWS, 36), ["k"], ROWS)


# ---- which images


def test_sidecars_follow_their_images_not_their_names(corpus, tmp_path):
    """Shards may be renamed, in another order, or only some of them."""
    store = write_sidecars(corpus, tmp_path / "out")
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
    write_sidecars(corpus, tmp_path / "out")
    write_tar(tmp_path / "shards/b.tar", 5, seed=3)
    with pytest.raises(DataError, match=r"no regions fit this shard.*b\.tar.*5 images as they are now"):
        RegionStore.open(tmp_path / "out", open_corpus("images", tmp_path / "shards"))
    with pytest.raises(DataError, match="no sidecar"):
        RegionStore.open(None, corpus)
    a, b = (fingerprint(corpus, *span[1:]) for span in spans(corpus))
    assert a != b


def test_beside_the_shards_by_default(corpus, tmp_path):
    for shard, first, end in spans(corpus):
        with SidecarWriter(
            sidecar_path(shard, "images"), open_header(corpus, first, end, {}, ROWS, 36), corpus.keys[first:end], ROWS
        ) as writer:
            for i in range(first, end):
                writer.add(some_regions(i % 5))
            writer.finish()
    assert (tmp_path / "shards/a.tar.images.regions.safetensors").is_file()
    assert len(RegionStore.open(None, corpus)) == 9
    assert len(open_corpus("images", tmp_path / "shards")) == 9  # the sidecars are no images


def test_shards_of_different_sources_do_not_mix(corpus, tmp_path):
    write_sidecars(corpus, tmp_path / "out")
    only = open_corpus("images", tmp_path / "shards/b.tar")
    write_sidecars(only, tmp_path / "out", source="b")
    with pytest.raises(UsageError, match="different sources"):
        RegionStore.open(tmp_path / "out", corpus)


@pytest.mark.parametrize("damage", ["cut", "longer", "header", "version", "offsets", "empty", "text"])
def test_damaged_sidecars_are_refused(corpus, tmp_path, damage):
    write_sidecars(corpus, tmp_path / "out")
    path = next((tmp_path / "out").glob("a*"))
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(
        {
            "cut": data[:-1],
            "longer": data + b"0",
            "header": data.replace(b'"counts": "{', b'"counts": "}', 1),
            "version": data.replace(b'"version": "1"', b'"version": "2"', 1),
            "offsets": data[: begin + 9] + bytes([data[begin + 9] ^ 1]) + data[begin + 10 :],
            "empty": b"",
            "text": b"to be or not to be" * 9,
        }[damage]
    )
    with pytest.raises(DataError, match="not a sidecar of regions") as caught:
        RegionStore.open(tmp_path / "out", corpus)
    assert caught.value.where == path


def test_no_flipped_bit_of_a_header_is_believed(corpus, tmp_path):
    store = write_sidecars(corpus, tmp_path / "out")
    path = store.sidecars[0].path
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    rng = random.Random(0)
    for _ in range(300):
        at, damaged = rng.randrange(begin), bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            again = Sidecar(path)
        except DataError:
            continue
        for i in range(len(again)):  # a blank became another blank, or the like
            np.testing.assert_array_equal(again.image(i).features, some_regions(i).features.astype(np.float16))
    path.write_bytes((2**20).to_bytes(8, "little") + b"[" * 2**20)
    with pytest.raises(DataError, match="not a sidecar"):
        Sidecar(path)


def test_every_byte_is_verified_on_request(corpus, tmp_path):
    write_sidecars(corpus, tmp_path / "out")
    RegionStore.open(tmp_path / "out", corpus, verify=True)
    path = next((tmp_path / "out").glob("b*"))
    data = bytearray(path.read_bytes())
    data[data.index(Sidecar(path).tables["features"].tobytes()) + 5] ^= 4
    path.write_bytes(data)
    RegionStore.open(tmp_path / "out", corpus)
    with pytest.raises(DataError, match="bytes that were not written so"):
        RegionStore.open(tmp_path / "out", corpus, verify=True)


# ---- workers


def _sums(store):
    return [float(store.image(i).features.sum()) for i in range(len(store))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_works_in_workers(corpus, tmp_path, method):
    store = write_sidecars(corpus, tmp_path / "out")
    assert len(pickle.dumps(store)) < 20_000  # paths, not tables
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(_sums, store).result() == _sums(store)
