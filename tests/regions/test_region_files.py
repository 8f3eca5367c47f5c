"""Regions in files of others: every published form is read, every bad record named."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from region_files import (
    HEIGHT,
    KEYS,
    WIDTH,
    entries_of,
    first_image,
    good,
    noise_tar,
    prepared,
    published_row,
    quiet,
)

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import open_corpus
from unimo.errors import DataError, UsageError
from unimo.regions.detector_files import NPZ, TSV, read_npz
from unimo.regions.prepare import find_source, prepare_regions
from unimo.regions.source import Detections


@pytest.mark.parametrize("classes", [True, False])
def test_tsv_as_published(shards, tmp_path, classes):
    rows = [published_row(f"{key}.jpg", good(i), classes) for i, key in enumerate(KEYS)]
    (tmp_path / "part.tsv.0").write_text("\n".join(rows[:3]) + "\n")
    (tmp_path / "part.tsv.1").write_text("\r\n".join(rows[3:]))
    store = prepared(shards, f"tsv:{tmp_path}/part.tsv.*", tmp_path / "out")
    for i in range(8):
        found, regions = good(i), store.image(i)
        np.testing.assert_allclose(regions.features[1:], found.features, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(regions.boxes[1:, 2], found.boxes[:, 2] / WIDTH, rtol=1e-5)
        assert (regions.classes is not None) is classes
        if classes:
            np.testing.assert_allclose(regions.classes[1:], found.classes, atol=1e-3)


def test_bad_rows_of_a_tsv_are_named(shards, tmp_path):
    lines = {key: published_row(f"{key}.jpg", good(i)).split("\t") for i, key in enumerate(KEYS)}
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
    entries = entries_of(tmp_path / "bad.jsonl")
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
    lines: list[str] = []
    (tmp_path / "x.tsv").write_text(published_row("a0", double) + "\n" + published_row("a0.jpg", found))
    source = TSV(str(tmp_path / "x.tsv"))
    source.fit(open_corpus("images", shards), tmp_path, lines.append)
    assert lines == ["1 rows repeat an image and are left out, among them a0"]
    assert (source.feature_size, source.classes) == (4, 3)
    seen = source.regions(first_image(shards))
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
    entries = entries_of(tmp_path / "bad.jsonl")
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
    for name, seed in (("a", 1), ("b", 5)):
        noise_tar(tmp_path / f"shards/{name}.tar", ["0001", f"0002{name}"], seed)
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
    assert TSV(f"{tmp_path}/tsv/*").regions(first_image(shards)).features.shape == (5, 4)


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


def write_hdf5(path: Path) -> str:
    with pytest.importorskip("h5py").File(path, "w") as file:
        for i in range(5):
            group, found = file.create_group(f"a{i}"), good(i)
            group["features"], group["bbox"], group["cls_prob"] = found.features, found.boxes, found.classes
            group.attrs["image_w"], group.attrs["image_h"] = WIDTH, HEIGHT
        file["b0"] = np.zeros(3)
    return f"hdf5:{path}"


def write_lmdb(path: Path) -> str:
    with pytest.importorskip("lmdb").open(str(path)) as db, db.begin(write=True) as writing:
        for i in range(5):
            stream, found = io.BytesIO(), good(i)
            np.savez_compressed(stream, features=found.features, bbox=found.boxes, soft_labels=found.classes)
            writing.put(f"a{i}.npz".encode(), stream.getvalue())
        writing.put(b"b0.npz", b"\x80\x04pickle")
        writing.put(b"__keys__", b"[]")
    return f"lmdb:{path}"


@pytest.mark.parametrize("write", [write_hdf5, write_lmdb])
def test_databases(shards, tmp_path, write):
    store = prepared(shards, write(tmp_path / "x"), tmp_path / "out")
    assert store.lengths.tolist() == [6] * 5 + [0] * 3
    np.testing.assert_allclose(store.image(4).features[1:], good(4).features, rtol=1e-3)


def test_a_file_that_is_no_hdf5(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "x.h5").write_text("text")
    with pytest.raises(DataError, match="not an HDF5 file"):
        find_source(f"hdf5:{tmp_path}/x.h5")
