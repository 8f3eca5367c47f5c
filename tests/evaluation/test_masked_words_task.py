"""Masked words: the same questions for every model, full marks for one that knows, chance for another."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unimo.errors import DataError
from unimo.evaluation.zero_shot import EvalContext, MaskedWords
from unimo.inference.mask_filling import MaskFiller


def test_a_model_that_always_knows_gets_everything_right(tools, world, monkeypatch):
    pipeline = tools.random_pipeline()
    seen: dict[str, list] = {"rows": [], "places": []}

    def peek(filler, rows, places, labels, images, batch_size):
        seen["rows"].append(rows)
        seen["places"].append(places)
        return np.concatenate([answers.pop(0)[p] for p in places]), np.full(len(labels), np.log(0.25))

    monkeypatch.setattr(MaskFiller, "best", peek)
    passages = ["a red circle is left of a blue square", "there are three things"]
    answers = [pipeline.encoder.frame(text) for text in passages]
    task = MaskedWords(passages=passages)
    filled = task.predict(EvalContext(pipeline))
    hits, perplexity = task.score(filled)
    assert hits["score"].value == 1.0 and perplexity["score"].value == pytest.approx(4)
    # What was hidden is no longer readable, and specials never are hidden.
    for text, hidden_row, places in zip(passages, seen["rows"][0], seen["places"][0]):
        whole = pipeline.encoder.frame(text)
        assert len(places) == int(np.ceil(0.15 * len(whole))) and 0 < places.min() <= places.max() < len(whole) - 1
        kept = np.setdiff1d(np.arange(len(whole)), places)
        assert (hidden_row[kept] == whole[kept]).all()


def test_captions_are_asked_the_same_with_and_without_image(context, world):
    filled = MaskedWords((str(world / "heldout"),)).predict(context)
    with_image, alone = filled["captions beside their images"], filled["captions alone"]
    assert (with_image.labels == alone.labels).all() and (with_image.group == alone.group).all()
    rows = MaskedWords((str(world / "heldout"),)).score(filled)
    assert [row["metric"] for row in rows][-1] == "gain from the image"
    assert rows[0]["score"].value < 0.1 and 0 < rows[0]["score"].chance < 0.5


def test_the_image_is_read(tools, world):
    """Other images beside the same captions give other answers."""
    pipeline = tools.random_pipeline()
    rows = [pipeline.encoder.frame("a red circle left of a blue square")] * 2
    places = [np.array([2, 5])] * 2
    grey, black = (pipeline.encode_images([np.full((32, 32, 3), v, np.uint8)] * 2) for v in (200, 0))
    logits = [pipeline.mask_filler.probabilities(rows[0], places[0], images) for images in (grey, black)]
    assert not np.allclose(logits[0], logits[1])


def test_texts_from_files_are_cut_and_counted(context, tmp_path):
    lines = [{"text": "one two three four five six seven " * 40}, {"text": "short"}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    filled = MaskedWords(texts=(str(tmp_path),), max_length=24).predict(context)["texts"]
    assert len(filled.labels) == int(np.ceil(0.15 * 24)) + 1
    assert len(filled.predicted) == len(filled.labels) == len(filled.group)


def test_nothing_to_hide(context):
    with pytest.raises(DataError, match="no word to mask"):
        MaskedWords(passages=[""]).predict(context)
