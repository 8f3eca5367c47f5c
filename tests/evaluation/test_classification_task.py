"""Classification by names: planted cosines, unseen classes apart, images without classes refused."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from PIL import Image

from unimo.errors import DataError
from unimo.evaluation.zero_shot import Classification, EvalContext


def write_classes(path, labels: list[str]) -> tuple[str]:
    with tarfile.open(path, "w") as tar:
        for red, label in enumerate(labels):
            png = io.BytesIO()
            Image.new("RGB", (16, 16), (red, 0, 0)).save(png, "PNG")
            for name, data in (
                (f"{red}.png", png.getvalue()),
                (f"{red}.json", json.dumps({"label_name": label}).encode()),
            ):
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return (str(path),)


def test_planted_cosines(tmp_path, tools):
    paths = write_classes(tmp_path / "classes.tar", ["cat", "cat", "dog", "emu"])
    names = {"cat": [1.0, 0.0, 0.0], "dog": [0.0, 1.0, 0.0], "emu": [0.0, 0.0, 1.0]}
    images = {0: names["cat"], 1: names["dog"], 2: names["dog"], 3: names["emu"]}
    task = Classification(paths, unseen=("emu",))
    answers = task.predict(EvalContext(tools.Planted(images, names, set())))
    rows = {row["metric"]: row["score"] for row in task.score(answers)}
    assert rows["top-1"].value == 0.75 and rows["top-1"].chance == pytest.approx(1 / 3)
    assert rows["top-5"].value == 1.0 and rows["top-5"].chance == 1.0  # three classes fill five places
    assert rows["top-1, classes not seen in training"].value == 1.0
    (shown,) = task.show(answers)
    assert [(item["title"], item["lines"]) for item in shown["items"]] == [("dog", ["is: cat"])]


def test_folders_name_the_classes(tmp_path, tools):
    """As a field of the JSON does: images of torchvision's ImageFolder have none."""
    for red, name in enumerate(("big_cat/0.png", "big_cat/old/1.png", "dog/2.png")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (red, 0, 0)).save(path)
    names = {"big cat": [1.0, 0.0], "dog": [0.0, 1.0]}
    images = {0: names["big cat"], 1: names["dog"], 2: names["dog"]}
    task = Classification((str(tmp_path),))
    answers = task.predict(EvalContext(tools.Planted(images, names, set())))
    assert answers.names == ["big cat", "dog"] and list(answers.labels) == [0, 0, 1]
    assert task.score(answers)[0]["score"].value == pytest.approx(2 / 3)


def test_images_without_classes(context, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    with pytest.raises(DataError, match="name no classes"):
        Classification((str(tmp_path / "images"),)).predict(context)
