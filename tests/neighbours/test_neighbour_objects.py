"""With prepared regions, related images are those of the visually nearest that share most detected objects."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from region_files import write_regions
from typer.testing import CliRunner

from unimo.cli import app
from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.data.augment import resize
from unimo.data.images import load_rgb
from unimo.data.regions import ImageRegions
from unimo.errors import DataError, UsageError
from unimo.nearest import colours_and_edges
from unimo.neighbours.objects import Detected, detected
from unimo.neighbours.prepare import NeighbourSettings, neighbours
from unimo.neighbours.store import Neighbours, read_part
from unimo.regions.prepare import prepare_regions
from unimo.regions.rows import RowFormat
from unimo.regions.store import RegionStore
from unimo.synthetic.dataset import IMAGES_FROM, write_world
from unimo.synthetic.world import scene
from unimo.tokenizer import Tokenizer

PAIRS, IMAGES, POOL, KEPT = 10, 40, 25, 6
SET = ["--set", f"pool={POOL}", "--set", f"images={KEPT}"]


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    write_world(folder, pairs=PAIRS, images=IMAGES, texts=0, heldout=0, compositional=0, classes=0, size=32)
    return folder


@pytest.fixture(scope="module")
def corpora(world) -> tuple[Corpus, Corpus]:
    tokenizer = Tokenizer.default()
    return open_corpus("pairs", world / "pairs", tokenizer=tokenizer), open_corpus("images", world / "images")


@pytest.fixture(scope="module")
def regions(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("regions")
    for kind in ("pairs", "images"):
        prepare_regions(kind, world / kind, "truth", out=folder, say=quiet)  # type: ignore[arg-type]
    return folder


def write_classes(corpus: Corpus, folder: Path, tables: list[np.ndarray | None], source: str, classes: int) -> None:
    """Regions with these classes, (R, K) for each image; None: a bad image."""
    images: list[ImageRegions | DataError] = []
    for table in tables:
        if table is None:
            images.append(DataError("bad"))
        else:
            size = len(table) + 1
            named = np.concatenate([table.mean(0, keepdims=True), table]) if classes else None
            images.append(ImageRegions(np.ones((size, 1), np.float32), np.ones((size, 5), np.float32), named))
    write_regions(corpus, folder, images, RowFormat(1, classes), {"source": source, "names": corpus.kind})


@pytest.mark.parametrize(("source", "nothing"), [("npz", None), ("detector", 3), ("faster-rcnn", 3), ("tsv", 0)])
def test_objects_are_confident_classes_and_nothing_is_none(corpora, tmp_path, source, nothing):
    rng = np.random.default_rng(0)
    tables: list[np.ndarray | None] = [rng.dirichlet(np.ones(4), 1 + i % 5).astype(np.float32) for i in range(IMAGES)]
    tables[3] = None
    write_classes(corpora[1], tmp_path, tables, source, 4)
    found = list(Detected(RegionStore.open(tmp_path, corpora[1]), 0.4))
    assert len(found) == IMAGES and sum(map(len, found)) > 20
    for table, labels in zip(tables, found):
        expected = []
        for row in [] if table is None else table.tolist():
            best, k = max((p, k) for k, p in enumerate(row) if k != nothing)
            expected += [k] * (best >= 0.4)
        assert labels.tolist() == expected


def looks(corpus: Corpus, i: int) -> np.ndarray:
    return colours_and_edges(resize(load_rgb(corpus.image_bytes(i)), 32)).astype(np.float64)


def by_definition(pairs: Corpus, images: Corpus) -> list[list[int]]:
    """Of every pair its related images, from what the world was drawn with."""
    theirs = [
        Counter(thing.kind for thing in scene(0, "train", IMAGES_FROM + int(key.split("-")[1])).things)
        for key in images.keys
    ]
    vectors, found = [looks(images, k) for k in range(IMAGES)], []
    for i in range(PAIRS):
        own, ours = looks(pairs, i), Counter((o["colour"], o["shape"]) for o in pairs.meta(i)["objects"])
        near = sorted((-np.float32(own @ vectors[k]), k) for k in range(IMAGES))[:POOL]
        pool = [k for cosine, k in near if cosine < 0]
        shared = {k: (ours & theirs[k]).total() / (ours | theirs[k]).total() for k in pool}
        best = sorted((k for k in pool if shared[k] > 0), key=lambda k: -shared[k])[:KEPT]  # stable: by looks
        found.append([k for k in pool if k in best])
    return found


def test_related_images_are_those_of_the_definition(world, corpora, regions, tmp_path):
    given = [f"--{name}={world / name}" for name in ("pairs", "images")]
    command = ["prepare", "neighbours", *given, f"--regions={regions}", f"--out={tmp_path}", *SET]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    near, expected = Neighbours.open(tmp_path, *corpora), by_definition(*corpora)
    assert [near.images(i).tolist() for i in range(PAIRS)] == expected
    assert sum(map(len, expected)) > PAIRS and any(len(some) < KEPT for some in expected)
    plain = tmp_path / "plain"
    neighbours(world / "pairs", world / "images", None, plain, settings=_settings(), say=quiet)
    without = Neighbours.open(plain, *corpora)
    assert any(set(without.images(i)) != set(near.images(i)) for i in range(PAIRS))
    headers = [read_part(folder / "00000.safetensors")[0] for folder in (tmp_path, plain)]
    assert headers[0]["labels"] and headers[1]["labels"] is None


def _settings() -> NeighbourSettings:
    return NeighbourSettings(pool=POOL, images=KEPT)


def test_objects_decide_what_is_kept_and_pairs_without_are_counted(world, regions, tmp_path):
    def run(confidence: float, bad_samples: BadSamples | None = None):
        options = {"regions": regions, "confidence": confidence, "settings": _settings(), "bad_samples": bad_samples}
        return neighbours(world / "pairs", world / "images", None, tmp_path, say=quiet, **options)

    assert run(0.2)["computed"] == 1
    assert run(0.5)["computed"] == 0  # the same objects: the truth is 90 % sure
    bad_samples = BadSamples()
    done = run(0.95, bad_samples)
    assert done["computed"] == 1 and done["image"] == 0
    assert bad_samples.summary()["notes"] == {"pairs without a detected object, so without related images": PAIRS}


def test_regions_that_do_not_fit_are_refused(world, corpora, regions, tmp_path):
    with pytest.raises(UsageError, match="no images to share"):
        neighbours(world / "pairs", None, world / "images", tmp_path, regions=regions)
    table = np.full((2, 4), 0.25, np.float32)
    write_classes(corpora[0], tmp_path / "pairs", [table] * PAIRS, "npz", 4)
    with pytest.raises(DataError, match="no regions fit"):
        detected(tmp_path / "pairs", *corpora, 0.2)
    for name, source, classes in (("other", "tsv", 4), ("none", "npz", 0), ("same", "npz", 4)):
        write_classes(corpora[1], tmp_path / name, [table] * IMAGES, source, classes)
    with pytest.raises(UsageError, match="two detectors"):
        detected([tmp_path / "pairs", tmp_path / "other"], *corpora, 0.2)
    with pytest.raises(UsageError, match="without classes"):
        detected([tmp_path / "pairs", tmp_path / "none"], *corpora, 0.2)
    ours, theirs = detected([tmp_path / "pairs", tmp_path / "same"], *corpora, 0.2)  # two files of one detector
    assert (len(ours), len(theirs)) == (PAIRS, IMAGES)
