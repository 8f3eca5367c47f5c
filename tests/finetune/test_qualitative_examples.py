"""Examples of a task to look at: which rows are shown, what stands beside them, and what a page makes of them."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unimo.corpus.corpus import open_corpus
from unimo.evaluation import report
from unimo.finetune.classification import Classified
from unimo.finetune.qualitative_examples import (
    MAX_LENGTH,
    RANDOM,
    SHOWN,
    SIDE,
    WORST,
    chosen_examples,
    judged,
    report_examples,
)
from unimo.finetune.retrieval import RankedRow
from unimo.finetune.settings import Ranking, Writing
from unimo.finetune.split import Example, Examples
from unimo.finetune.task_types import Classification, Generation, Regression, Retrieval
from unimo.model.task_heads import HeadSettings

CLASSES = Classification(HeadSettings(labels=("no", "yes")), sees=False)
ANSWERS = Classification(HeadSettings(kind="answers", labels=("no", "yes")), sees=False)
NASTY = '<script>alert("x")</script> & <b>'


def classified(answer: str, sure: float) -> Classified:
    return Classified(answer, {answer: sure, "yes" if answer == "no" else "no": 1 - sure})


def rows_of(targets, name: str = "test") -> Examples:
    return Examples(name, [Example(f"r{i}", (f"text {i}",), target=target) for i, target in enumerate(targets)])


def worst(chosen: dict) -> list[str]:
    return [item["id"] for item in chosen["items"] if item["what"] == WORST]


def test_the_surest_wrong_class_is_the_worst_and_right_ones_are_none():
    examples = rows_of(["yes", "yes", "no", "no"])
    predictions = [classified("no", 0.6), classified("no", 0.9), classified("no", 0.99), classified("yes", 0.7)]
    chosen = chosen_examples(CLASSES, predictions, examples)
    assert worst(chosen) == ["r1", "r3", "r0"]
    first = next(item for item in chosen["items"] if item["what"] == WORST)
    assert (first["answer"], first["right"], first["score"], first["read"]) == ("no (90%)", "yes", 0.0, ["text 1"])
    assert {item["id"] for item in chosen["items"] if item["what"] == RANDOM} == {"r0", "r1", "r2", "r3"}


def test_every_kind_says_how_wrong_a_row_is():
    soft = judged(ANSWERS, [classified("no", 0.9)] * 3, rows_of([{"no": 1.0}, {"yes": 1.0, "no": 0.3}, {"yes": 1.0}]))
    assert [one.score for one in soft] == [1.0, 0.3, 0.0] and soft[0].error == 0 < soft[1].error < soft[2].error
    numbers = judged(Regression(HeadSettings(kind="number"), sees=False), [1.5, 2.0], rows_of([1.0, 4.0]))
    assert [one.score for one in numbers] == [0.5, 2.0] and numbers[0].error < numbers[1].error
    task = Generation("write", Writing(), sees=False, reads=True)
    texts = judged(task, ["a red dog", "a red dog", ""], rows_of([("a blue dog", "a red dog"), "a cat", "a cat"]))
    assert texts[0].score == pytest.approx(1) and 0 < texts[1].score < 1 and texts[2].score == 0
    assert texts[0].right == "a blue dog / a red dog"


def test_an_image_is_as_wrong_as_the_place_of_its_best_caption():
    examples = rows_of([("a", "b"), ("c",), ("d",)])
    scores = np.array([[0.1, 0.9, 0.5, 0.2], [0.4, 0.3, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5]], np.float32)
    predictions = [RankedRow(row, list("abcd")) for row in scores]
    found = judged(Retrieval("retrieval", Ranking(), "unimo-2"), predictions, examples)
    assert [one.score for one in found] == [1, 3, 2.5]  # all four level: in their middle
    assert found[1].answer == "a" and found[1].right == "c"
    chosen = chosen_examples(Retrieval("retrieval", Ranking(), "unimo-2"), predictions, examples)
    assert worst(chosen) == ["r1", "r2"] and all(item["read"] == [] for item in chosen["items"])


def test_rows_at_random_are_those_of_the_seed_and_a_page_holds_only_some():
    examples = rows_of(["yes"] * 50)
    predictions = [classified("no", 0.5 + i / 100) for i in range(50)]
    chosen = chosen_examples(CLASSES, predictions, examples, seed=3)
    some = [item["id"] for item in chosen["items"] if item["what"] == RANDOM]
    assert len(some) == len(set(some)) == SHOWN and some == sorted(some, key=lambda name: int(name[1:]))
    assert worst(chosen) == [f"r{i}" for i in range(49, 49 - SHOWN, -1)]
    assert chosen_examples(CLASSES, predictions, examples, seed=3) == chosen
    other = [item["id"] for item in chosen_examples(CLASSES, predictions, examples, seed=4)["items"]]
    assert other[:SHOWN] != some and other[SHOWN:] == worst(chosen)


def test_rows_without_labels_are_shown_with_their_answers_alone():
    chosen = chosen_examples(CLASSES, [classified("no", 0.9)] * 2, rows_of([None, None]))
    assert [item["answer"] for item in chosen["items"]] == ["no", "no"] and not worst(chosen)
    assert all("right" not in item and "score" not in item for item in chosen["items"])


@pytest.fixture
def images(tmp_path) -> Examples:
    for name, size in (("small", (16, 16)), ("large", (600, 300))):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", size, (200, 30, 40)).save(tmp_path / "images" / f"{name}.png")
    corpus = open_corpus("images", [str(tmp_path / "images")])
    keys = sorted(corpus.keys)
    rows = [Example(key, (NASTY,), image=key, target=NASTY) for key in keys]
    return Examples("test", rows, corpus)


def test_images_are_small_and_whatever_is_said_is_escaped(images, tmp_path: Path):
    head = HeadSettings(labels=(NASTY, "x"), reads="both")
    predictions = [Classified("x", {"x": 0.8, "y": 0.2})] * 2
    chosen = chosen_examples(Classification(head, sees=True), predictions, images)
    chosen = json.loads(json.dumps(chosen, allow_nan=False))  # nothing is lost in a file
    sizes = []
    for item in chosen["items"]:
        kind, _, data = item["thumbnail"].partition(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert kind == f"data:image/{image.format.lower()}"
        sizes.append(max(image.size))
        assert np.allclose(np.asarray(image.convert("RGB")), (200, 30, 40), atol=6)
    assert sorted(set(sizes)) == [16, SIDE]
    shown = report_examples(NASTY, chosen)
    assert [one["title"].rpartition(": ")[2] for one in shown] == [RANDOM, WORST]
    report.render({"title": "t", "examples": shown}, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('src="data:image/') == 4 and page.count("&lt;script&gt;") >= 8
    assert "<script" not in page and "<b>" not in page


def test_an_image_that_is_not_looked_at_or_cannot_be_read_is_no_image(images):
    predictions = [Classified("x", {"x": 0.8, "y": 0.2})] * 2
    blind = chosen_examples(Classification(HeadSettings(labels=(NASTY, "x")), sees=False), predictions, images)
    assert not any("image" in item for item in blind["items"])
    gone = replace(images, rows=[replace(row, image="gone") for row in images.rows])
    chosen = chosen_examples(
        Classification(HeadSettings(labels=(NASTY, "x"), reads="both"), sees=True), predictions, gone
    )
    assert all(item["image"] == "gone" and item["thumbnail"] is None for item in chosen["items"])
    assert all(
        "its image cannot be read" in one["lines"] for part in report_examples("t", chosen) for one in part["items"]
    )


def test_long_texts_are_cut():
    examples = Examples("test", [Example("r", ("word " * 1000,), target="yes")])
    chosen = chosen_examples(CLASSES, [classified("no", 0.9)], examples)
    assert all(len(text) <= MAX_LENGTH + 2 for item in chosen["items"] for text in item["read"])
