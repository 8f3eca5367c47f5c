"""Captioning: perfect sentences get perfect marks, the baseline copies the nearest, truth is checked."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest

from unimo.errors import DataError
from unimo.evaluation.zero_shot import Captioning, EvalContext, SceneTruth
from unimo.evaluation.zero_shot.scenes import find_world, open_world, scene_from_meta
from unimo.synthetic.language import caption_is_true
from unimo.synthetic.world import scene


def test_perfect_captions_and_a_copying_baseline(tmp_path, tools):
    said = [f"a picture of {i}" for i in range(4)]
    test = tools.write_pairs(
        tmp_path / "test", [[text, f"the number {i} is painted here"] for i, text in enumerate(said)]
    )
    train = tools.write_pairs(tmp_path / "train", [[f"training image {i} with words"] for i in range(6)])
    model = tools.Planted({i: np.eye(6)[i].tolist() for i in range(6)}, {}, set())
    task = Captioning(test, train)
    answers = task.predict(EvalContext(model))
    assert answers.sentences == said
    assert answers.nearest == [f"training image {i} with words" for i in range(4)]
    rows = {row["metric"]: row["score"].value for row in task.score(answers)}
    assert rows["BLEU-4"] == pytest.approx(1.0) and rows["ROUGE-L"] == pytest.approx(1.0)
    assert rows["BLEU-4, copied from the nearest training image"] == 0.0
    assert rows["CIDEr-D"] > rows["CIDEr-D, copied from the nearest training image"]


def test_truth_against_scenes(tools, world, context):
    """References are true of their own scene; the random model's babble is about nothing."""
    task = SceneTruth((str(world / "heldout"),))
    checked = task.predict(context)
    attributes, true = (row["score"] for row in task.score(checked))
    assert attributes.value < 0.2 and true.value < 0.2
    corpus = context.corpus("pairs", task.pairs)
    own = type(checked)([corpus.text(i) for i in range(len(corpus))], checked.scenes)
    attributes, true = (row["score"] for row in task.score(own))
    assert attributes.value == true.value == 1.0
    assert attributes.chance < 0.5 and true.chance < 0.3


def test_a_scene_comes_back_from_its_json(world):
    with tarfile.open(world / "heldout" / "heldout-00000.tar") as tar:
        metas = [json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")]
    for i, meta in enumerate(metas):
        assert scene_from_meta(meta).things == scene(0, "heldout", i).things
        assert all(caption_is_true(text, scene_from_meta(meta)) for text in meta["captions"])
    with pytest.raises(DataError, match="describes no scene"):
        scene_from_meta({"objects": [{"colour": "red"}]}, where="somewhere")
    with pytest.raises(DataError, match="describes no scene"):
        scene_from_meta({})


def test_the_world_is_found_from_its_parts(world, tmp_path):
    assert find_world([str(world / "pairs")]) == world
    assert find_world([str(world / "pairs" / "train-00000.tar")]) == world
    assert find_world([str(tmp_path / "elsewhere")]) is None
    opened = open_world(world)
    assert opened.heldout and opened.compositional and opened.classes and len(opened.unseen_classes) == 6
    written = [json.loads(line)["text"] for line in (world / "texts" / "train.jsonl").read_text().splitlines()]
    assert not set(opened.new_texts(20)) & set(written)


def test_a_foreign_manifest_is_refused(tmp_path):
    (tmp_path / "world.json").write_text("{}")
    with pytest.raises(DataError, match="not the manifest"):
        open_world(tmp_path)
