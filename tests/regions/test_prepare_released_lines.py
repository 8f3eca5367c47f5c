"""Regions out of released lines: `unimo prepare regions --source lines:FILES`, and feature lines that are packed."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from corpus.test_released_lines import blob, coco, entailment
from region_files import HEIGHT, WIDTH, entries_of, good, noise_tar, prepared, published_row

from unimo.corpus.bad_samples import BadSamples
from unimo.errors import DataError
from unimo.regions.prepare import find_source


def arrays(i):
    found = good(i)
    return {
        "n": str(len(found.boxes)), "boxes": blob(found.boxes), "x": blob(found.features), "p": blob(found.classes),
        "w": str(WIDTH), "h": str(HEIGHT),
    }  # fmt: skip


@pytest.mark.parametrize("make", [coco, entailment])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_images_of_released_lines(tmp_path, make, ending):
    """COCO's are found by their number; an image of several lines is read once, a broken one is named by its line."""
    names = ["COCO_val2014_000000000042", "000000000043", "1000092795", "44"]
    shards = noise_tar(tmp_path / "shards/a.tar", names)
    numbers = ["42", "43", "1000092795", "44"]
    lines = [make("a dog", number, str(i), **arrays(i)) for i, number in enumerate(numbers)]
    lines.insert(2, make("a cat", "42", "9", **arrays(7)))
    lines[-1] = make("a dog", "44", "5", **{**arrays(3), "n": "4"})
    data = "\n".join(lines).encode()
    path = tmp_path / f"lines{ending}"
    path.write_bytes(gzip.compress(data) if ending else data)
    bad_samples = BadSamples(tmp_path / "bad.jsonl")
    store = prepared(shards, f"lines:{path}", tmp_path / "out", bad_samples=bad_samples)
    assert [store.has(i) for i in range(4)] == [True, True, True, False]
    for i in range(3):
        image = store.image(i)
        np.testing.assert_allclose(image.features[1:], good(i).features, rtol=1e-3, atol=1e-6)
        assert (image.classes is not None) is (make is coco)
    (entry,) = entries_of(tmp_path / "bad.jsonl")
    assert entry["key"] == "44" and f"lines{ending}, line 5" in entry["where"]


def test_packed_feature_lines(tmp_path):
    shards = noise_tar(tmp_path / "shards/a.tar", ["0", "1", "2"])
    rows = [published_row(str(i), good(i)) for i in range(3)]
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x.tsv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    store = prepared(shards, f"tsv:{tmp_path}/f", tmp_path / "out")
    for i in range(3):
        np.testing.assert_allclose(store.image(i).features[1:], good(i).features, rtol=1e-3, atol=1e-6)
    (tmp_path / "f" / "x.tsv.gz").write_bytes(gzip.compress("\n".join(rows).encode())[:-30])
    with pytest.raises(DataError, match="cannot unpack"):
        find_source(f"tsv:{tmp_path}/f")
