"""Foils: planted margins give known accuracies; broken files are located."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from unimo.errors import DataError
from unimo.evaluation.zero_shot import EvalContext, Foils


@pytest.fixture
def foils(tmp_path, tools):
    """Two images. By cosine one foil of "order" is right, one is wrong, and "tie" ties; fused all are."""
    paths = tools.write_pairs(tmp_path / "pairs", [["x"], ["y"]])
    lines = [
        {"image": "000.png", "positive": "yes 0", "negative": "no 0", "kind": "order"},
        {"image": "001.png", "positive": "yes 1", "negative": "no 1", "kind": "order"},
        {"image": "001.png", "positive": "yes 2", "negative": "no 2", "kind": "tie"},
    ]
    file = tmp_path / "foils.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    near = {"yes 0": 1, "no 0": 0, "yes 1": 0, "no 1": 1, "yes 2": 1, "no 2": 1}
    true = {(0, "yes 0"), (1, "yes 1"), (1, "yes 2")}
    return (
        tools.Planted({0: [1.0], 1: [1.0]}, {text: [float(v)] for text, v in near.items()}, true),
        paths,
        file,
    )


def test_planted_margins(foils):
    model, paths, file = foils
    task = Foils(paths, str(file))
    rows = {row["metric"]: row["score"] for row in task.score(task.predict(EvalContext(model)))}
    assert rows["all, by cosine"].value == pytest.approx(0.5)  # 1 + 0 + 1/2 of 3
    assert rows["order, by cosine"].value == 0.5 and rows["tie, by cosine"].value == 0.5
    assert rows["all, fused"].value == 1.0 and rows["all, fused"].chance == 0.5
    assert rows["order, by likelihood"].value == 0.0
    assert rows["tie, by likelihood"].value == 0.5  # words that the model never writes: both impossible


def test_case_a_key_of_two_shards_is_ambiguous(foils, tools, tmp_path):
    model, paths, file = foils
    other = tools.write_pairs(tmp_path / "more", [["x"], ["y"], ["z"]])  # 000 and 001 are the same images
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "more" / "001.png")
    with pytest.raises(DataError, match="several images have this name") as caught:
        Foils((*paths, *other), str(file)).predict(EvalContext(model))
    assert "001.png" in caught.value.got and "foils.jsonl, line 2" in str(caught.value.where)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"image": "999.png", "positive": "a", "negative": "b"}', "no such image"),
        ('{"image": "000.png", "positive": "a"}', "lacks a field"),
        ("not json", "foils.jsonl, line 2"),
    ],
)
def test_broken_lines_are_located(foils, line, said):
    model, paths, file = foils
    first = file.read_text().splitlines()[0]
    file.write_text(f"{first}\n{line}\n")
    with pytest.raises(DataError, match=said):
        Foils(paths, str(file)).predict(EvalContext(model))


def test_missing_and_empty_files(foils, tmp_path):
    model, paths, file = foils
    with pytest.raises(DataError, match="no such file"):
        Foils(paths, str(tmp_path / "none.jsonl")).predict(EvalContext(model))
    file.write_text("")
    with pytest.raises(DataError, match="without foils"):
        Foils(paths, str(file)).predict(EvalContext(model))
