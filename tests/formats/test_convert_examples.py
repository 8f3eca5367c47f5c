"""One collection in every format (`scripts/convert_examples.py`): each is read as the same images and captions."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from corpora import image, opened, tar_of

from unimo.data.held_out import HeldOut
from unimo.train.data import held_out
from unimo.train.settings import Data, Run

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "convert_examples.py"
SOURCE = {f"{i:02d}_ab": (image(i, "JPEG"), [f"a dog, {i}", f'it "runs" {i} times']) for i in range(30)}
TEXTS = ["It rained, again.", 'He said "no".', "The end"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("convert_examples", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def converted(script, tmp_path_factory) -> dict[str, Path]:
    """Name of the format -> what is to be named."""
    folder = tmp_path_factory.mktemp("formats")
    members = {f"{key}.jpg": data for key, (data, _) in SOURCE.items()}
    members |= {f"{key}.json": json.dumps({"captions": said}).encode() for key, (_, said) in SOURCE.items()}
    pairs = script.read_pairs([str(tar_of(folder / "source.tar", members))])
    (folder / "source.txt").write_text("\n\n".join(TEXTS) + "\n")
    texts = script.read_texts([str(folder / "source.txt")])
    here = [name for name in script.PAIRS if name != "save_to_disk" or importlib.util.find_spec("datasets")]
    return script.convert(folder, pairs, texts, [*here, *(f"texts/{name}" for name in script.TEXTS)])


def test_every_format_is_read_as_the_same_images_captions_and_order(converted):
    for name, path in converted.items():
        if name.startswith("texts/") or name == "karpathy_splits":
            continue
        corpus, bad = opened("pairs", path)
        assert [corpus.image_bytes(i) for i in range(len(corpus))] == [data for data, _ in SOURCE.values()], name
        most = 1 if name.startswith("img2dataset") else 2
        assert [corpus.captions(i) for i in range(len(corpus))] == [said[:most] for _, said in SOURCE.values()], name
        assert bad.quarantined == 0


def test_every_format_of_texts_holds_the_same_texts(converted):
    for name, path in converted.items():
        if name.startswith("texts/"):
            corpus, bad = opened("texts", path)
            assert [corpus.text(i) for i in range(len(corpus))] == TEXTS and bad.quarantined == 0, name


def test_the_same_images_are_held_out_of_every_format_that_names_them(converted):
    split, seen = HeldOut(0.2, 4), {}
    for name, path in converted.items():
        numbered = name.startswith(("texts/", "img2dataset")) or name in ("parquet_with_images", "save_to_disk")
        if not numbered and name != "karpathy_splits":
            seen[name] = split.items(opened("pairs", path)[0]).tolist()
    assert len(seen) > 12 and len(next(iter(seen.values()))) == 4
    assert {tuple(items) for items in seen.values()} == {tuple(next(iter(seen.values())))}


def test_the_split_val_of_karpathys_file_is_validated_on_and_test_is_not_read(converted):
    corpus, bad = opened("pairs", converted["karpathy_splits"])
    names = {corpus.keys[i].rpartition("/")[2][:2] for i in np.flatnonzero(corpus.validation)}
    assert names == {"08", "18", "28"} and len(corpus) == 27
    assert not {"09", "19", "29"} & {key.rpartition("/")[2][:2] for key in corpus.keys}
    assert any("another split (test" in note for note in bad.notes)
    for fraction, limit, scored in ((0.5, 1000, 3), (0.0, 1000, 3), (0.1, 2, 2), (0.1, 0, 0)):
        run = Run(data=Data(pairs=(str(converted["karpathy_splits"]),), val_fraction=fraction, val_limit=limit))
        assert set(HeldOut(fraction, limit).items(corpus)) <= set(np.flatnonzero(corpus.validation))
        assert len(HeldOut(fraction, limit).items(corpus)) == scored
        assert held_out(run, {"pairs": corpus})["pairs"].tolist() == np.flatnonzero(corpus.validation).tolist()
