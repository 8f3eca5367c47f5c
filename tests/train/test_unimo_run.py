"""UNIMO from a generated world to an evaluation: prepared, trained, stopped and resumed, asked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_run import bits_of, log_of, quiet

from unimo import recipes
from unimo.config import override
from unimo.errors import DataError, UsageError
from unimo.evaluation.evaluate import evaluate
from unimo.evaluation.plan import EvaluationData
from unimo.recipes.unimo import unimo_scenes
from unimo.synthetic.dataset import write_world
from unimo.train import loop as T
from unimo.train.data import open_prepared
from unimo.train.pretraining import Pretraining
from unimo.train.settings import Data, Run

SMALL = ["model.width=16", "model.heads=2", "model.depth=1", "batch.pairs=6", "batch.images=2", "batch.text_tokens=64"]
SMALL += [
    "optimizer.matrix_optimizer=adamw",
    "steps=4",
    "minutes=none",
    "save_steps=2",
    "precision=fp32",
    "log=none",
]
SMALL += ["batch.caption_length=24", "batch.passage_length=32", "objectives.rewriting.pairs=3"]
# Everything at once from the first step: a few steps have no time for turns.
SMALL += ["objectives.mlm.alone_until=0", "objectives.rewriting.begins=0"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("data") / "world"
    write_world(folder, pairs=24, images=12, texts=20, heldout=6, compositional=4, classes=6, size=64)
    return folder, recipes.prepare_world(folder, quiet)


def small(world: tuple[Path, dict], *changes: str) -> Run:
    folder, prepared = world
    paths = {kind: (str(folder / kind),) for kind in ("texts", "images", "pairs")}
    return override(override(replace(unimo_scenes(), data=Data(**paths, **prepared)), SMALL), changes)


def test_all_ingredients_take_part_and_a_resumed_run_is_the_same(world, tmp_path):
    whole = T.train(small(world), tmp_path / "whole", say=quiet)
    said = log_of(tmp_path / "whole")[0]
    for part in ("mlm.pairs", "mlm.texts", "seq2seq.pairs", "mrm.features", "mrm.classes", "rewriting"):
        assert part in said, part
    bits, log = bits_of(whole), log_of(tmp_path / "whole")
    shutil.rmtree(whole)  # as if it had been killed after the checkpoint before
    again = T.train(small(world), tmp_path / "whole", resume=True, say=quiet)
    assert bits_of(again) == bits and log_of(tmp_path / "whole") == log
    ended = evaluate(again, out=tmp_path / "report", data=EvaluationData(world=str(world[0])), say=quiet)
    tasks = {score["task"] for score in ended["scores"]}
    assert {"Retrieval, held-out scenes", "Captions, held-out scenes"} <= tasks


def test_what_is_held_out_is_no_neighbour_either(world, tmp_path):
    job = Pretraining(small(world, "data.val_fraction=0.3"))
    job.open(tmp_path, quiet)
    assert len(job.held_out["pairs"]) == 7 and len(job.held_out["texts"]) == 6
    whole = open_prepared(job.settings, job.corpora, job.regions, {}).neighbours
    left = open_prepared(job.settings, job.corpora, job.regions, job.held_out).neighbours
    texts, images = set(job.held_out["texts"].tolist()), {0, 1}
    few = whole.without(np.array([0, 1]), job.held_out["texts"])
    seen = []
    for item in range(len(whole)):
        documents = [int(whole._spans[sentence, 0]) for sentence in whole.sentences(item)]
        seen += documents
        kept = [document for document in documents if document not in texts]
        assert [int(whole._spans[sentence, 0]) for sentence in left.sentences(item)] == kept
        assert set(few.images(item).tolist()) == set(whole.images(item).tolist()) - images
    assert texts & set(seen)


NO_TEXTS = ["data.texts=[]", "data.neighbours=none"]
NO_REWRITES = ["data.rewrites=none"]
NO_REWRITES += ["objectives.mlm.nodes=0", "objectives.mlm.relations=0", "objectives.rewriting.relations=0"]


def test_objectives_have_their_turns(world, tmp_path):
    turns = ["objectives.mlm.relations_from=0.25", "objectives.mlm.alone_until=0.5", "objectives.rewriting.begins=0.75"]
    T.train(small(world, *turns), tmp_path / "run", say=quiet)
    nodes, relations, after, contrasted = log_of(tmp_path / "run")
    others = {"mlm.texts", "seq2seq.pairs", "mrm.features", "rewriting"}
    for alone in (nodes, relations):
        assert "mlm.pairs" in alone and not others & set(alone)
    for said in (after, contrasted):
        assert {"mlm.pairs", "seq2seq.pairs", "mrm.features"} <= set(said)
    assert ["rewriting" in said for said in (after, contrasted)] == [False, True]
    with pytest.raises(UsageError, match="known length"):
        T.train(small(world, *turns, "steps=none", "minutes=0.1"), tmp_path / "minutes", say=quiet)


@pytest.mark.parametrize(
    "without", [[*NO_REWRITES], ["data.neighbours=none"], NO_TEXTS, ["model.fusion=joint"]], ids=str
)
def test_each_ingredient_can_be_left_away(world, tmp_path, without):
    T.train(small(world, *without, "steps=1"), tmp_path / "run", say=quiet)
    assert "rewriting" in log_of(tmp_path / "run")[0]


def test_what_cannot_be_is_refused(world, tmp_path):
    for needed in ("objectives.mlm.nodes", "objectives.mlm.relations", "objectives.rewriting.relations"):
        asked = [f"{needed}=0.5" if change.startswith(needed) else change for change in NO_REWRITES]
        with pytest.raises(UsageError, match="rewritten captions"):
            T.train(small(world, *asked), tmp_path / "b", say=quiet)
    with pytest.raises(UsageError, match="cmcl"):
        T.train(small(world, "objectives.cmcl.weight=1"), tmp_path / "a", say=quiet)
    with pytest.raises(UsageError, match="region_size"):
        T.train(small(world, "model.region_size=7"), tmp_path / "b", say=quiet)
    with pytest.raises(DataError, match="regions"):
        T.train(replace(small(world), data=replace(small(world).data, regions=())), tmp_path / "c", say=quiet)
