"""Pre-trained weights beat random ones on a task that only pre-training can teach.

Nouns are alive or are things. Unlabelled sentences show what the living do and where things lie; labels are given for
half of the nouns, and asked of the other half. Random weights know nothing of those: they can only guess.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import tiny
from tiny_task import quiet, tiny_run, write_csv

from unimo.finetune.finetune import finetune
from unimo.finetune.settings import TaskData
from unimo.recipes.finetuning import prepared
from unimo.train import loop as T

ALIVE = ["dog", "cat", "horse", "sheep", "bird", "fish", "bear", "lion", "wolf", "duck", "mouse", "rabbit"]
THINGS = ["hammer", "bottle", "table", "chair", "lamp", "knife", "box", "cup", "key", "book", "phone", "clock"]
DOING = ("sleeps near the river", "runs over the hill", "eats in the wood", "drinks from the river")
LYING = ("lies on the shelf", "was bought in a shop", "broke in the kitchen", "stands on the shelf")


@pytest.fixture
def texts(tmp_path) -> Path:
    """Every noun with everything its kind does, in an order that tells nothing."""
    folder = tmp_path / "texts"
    folder.mkdir()
    said = [f"the {noun} {end}" for nouns, ends in ((ALIVE, DOING), (THINGS, LYING)) for noun in nouns for end in ends]
    said = [said[i * 37 % len(said)] for i in range(len(said))]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in said))
    return folder


def rows(folder: Path, name: str, nouns: slice) -> str:
    named = [(noun, label) for label, kind in (("alive", ALIVE), ("thing", THINGS)) for noun in kind[nouns]]
    return write_csv(folder / name, [{"text": f"the {noun}", "label": label} for noun, label in named])


def test_labels_of_nouns_never_labelled_are_known_from_unlabelled_texts(texts, tmp_path):
    pretraining = tiny(
        tmp_path, f"data.texts={texts}", "data.pairs=", "data.images=", "steps=250", "save_steps=250", "ema_decay=0",
        "batch.text_tokens=192", "batch.passage_length=16", "restrict_vocabulary=true", "optimizer.lr=0.01",
        "model.width=32", "model.initial_std=0.1", "model.dictionary=0", "model.dropout=0", "model.attention_dropout=0",
        "objectives.seq2seq.weight=0", "objectives.cmcl.weight=0", "objectives.itm.weight=0",
        "objectives.image_contrastive.weight=0", "objectives.dictionary.weight=0",
    )  # fmt: skip
    T.train(pretraining, tmp_path / "pretrained", say=quiet)
    data = TaskData(train=(rows(tmp_path, "train.csv", slice(6)),), test=(rows(tmp_path, "test.csv", slice(6, 12)),))
    run = tiny_run(str(tmp_path / "pretrained"), "classification", data, "steps=30", "optimizer.lr=0.003")
    right = {}
    for seed in range(3):
        for name, start in (("pretrained", run.init_from), ("random", None)):
            one = prepared(replace(run, seed=seed), start, like=run.init_from)
            scored = finetune(one, tmp_path / f"{name}-{seed}", say=quiet, batch_size=16)
            right.setdefault(name, []).append(scored.selection["test"])
    assert min(right["pretrained"]) > max(right["random"])
