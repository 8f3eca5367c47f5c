"""Answers for new rows: all that can be answered, the others by name; and rows that were seen in training."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_task import SIZES, quiet, write_csv, write_jsonl

from unimo import checkpoint
from unimo.config import to_dict
from unimo.errors import DataError, UsageError
from unimo.evaluation.evaluate import evaluate
from unimo.finetune.data import say_shared
from unimo.finetune.predict import predict
from unimo.finetune.settings import Finetuning, Reading
from unimo.finetune.split import Example, Examples, open_examples
from unimo.model.build import ModelSettings, build
from unimo.model.task_heads import HeadSettings


@pytest.fixture
def tuned(tmp_path):
    """A fine-tuned run of random weights: texts, or texts beside images, in two classes."""

    def make(reads: str = "text", columns: tuple[str, ...] = ()) -> str:
        head = HeadSettings(task="mood", labels=("bad", "good"), reads=reads, max_length=40)
        model = ModelSettings("tiny", member="unimo-2", head=head, **SIZES)
        run = Finetuning(task="mood", kind="classification", model=model, metrics=("accuracy",))
        run = replace(
            run,
            data=replace(run.data, columns=columns),
            read=Reading(max_length=40, sees=reads != "text", soft=False, unseen="error"),
        )
        torch.manual_seed(0)
        state = {"settings": to_dict(run), "elapsed": 1.0, "ema": False}
        checkpoint.save(tmp_path / "run/checkpoints", 5, {"model": dict(build(model).named_parameters())}, state)
        return str(tmp_path / "run")

    return make


def answers(path):
    return {row["id"]: row["prediction"] for row in map(json.loads, path.read_text().splitlines())}


def test_case_three_of_a_hundred_comments_are_empty(tuned, tmp_path):
    rows = [{"id": i, "text": "" if i in (3, 50, 99) else f"comment {i}"} for i in range(100)]
    data, out, printed = write_csv(tmp_path / "new.csv", rows), tmp_path / "out.jsonl", []
    predict(tuned(), [data], out, say=printed.append)
    assert set(answers(out)) == {str(i) for i in range(100)} - {"3", "50", "99"}
    named = [json.loads(line) for line in (tmp_path / "out.jsonl.bad.jsonl").read_text().splitlines()]
    assert len(named) == 3 and {one["what"] for one in named} == {"text is empty"}
    text = "\n".join(printed)
    assert "97 predictions" in text and "3 bad rows" in text
    assert all(f"new.csv, line {line}" in text for line in (5, 52, 101))


@pytest.mark.parametrize("write, name", [(write_csv, "new.csv"), (write_jsonl, "new.jsonl")])
def test_columns_that_play_no_part_come_with_the_answers(write, name, tuned, tmp_path):
    rows = [{"id": i, "text": f"comment {i}", "url": f"u{i}", "stars": "3" if i else ""} for i in range(2)]
    predict(tuned(), [write(tmp_path / name, rows)], out := tmp_path / "out.jsonl", say=quiet)
    found = [json.loads(line)["meta"] for line in out.read_text().splitlines()]
    assert found == [{"url": "u0"}, {"url": "u1", "stars": "3"}]


def test_strict_is_an_error_and_writes_nothing(tuned, tmp_path):
    rows = [{"id": i, "text": "" if i == 1 else f"comment {i}"} for i in range(4)]
    data, out = write_csv(tmp_path / "new.csv", rows), tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"1 of 4.*new\.csv, line 3"):
        predict(tuned(), [data], out, strict=True, say=quiet)
    assert not out.exists()
    data = write_csv(tmp_path / "good.csv", rows[2:])
    predict(tuned(), [data], out, strict=True, say=quiet)
    assert set(answers(out)) == {"2", "3"}


def test_labels_that_are_missing_in_some_rows_cost_no_answer(tuned, tmp_path):
    rows = [{"id": i, "text": f"comment {i}", "label": "" if i % 3 == 0 else "good"} for i in range(12)]
    out, printed = tmp_path / "out.jsonl", []
    (row,) = predict(tuned(), [write_csv(tmp_path / "new.csv", rows)], out, say=printed.append)
    assert len(answers(out)) == 12 and row["score"].n == 8
    assert any("without a target" in line for line in printed)


def test_new_rows_need_no_column_of_the_target_that_training_named(tuned, tmp_path):
    """--column text=review --column label=mood of training; a new file has only reviews."""
    reviews = [{"id": i, "review": f"comment {i}"} for i in range(4)]
    known = [{**row, "mood": "good"} for row in reviews]
    model = tuned(columns=("text=review", "label=mood"))
    assert predict(model, [write_csv(tmp_path / "new.csv", reviews)], tmp_path / "new.jsonl", say=quiet) == []
    (row,) = predict(model, [write_csv(tmp_path / "known.csv", known)], tmp_path / "known.jsonl", say=quiet)
    assert row["score"].n == 4 and answers(tmp_path / "new.jsonl") == answers(tmp_path / "known.jsonl")
    with pytest.raises(DataError, match="column is missing"):
        predict(model, [write_csv(tmp_path / "other.csv", [{"id": 1, "comment": "x"}])], tmp_path / "other.jsonl")


def test_labels_of_which_training_had_none_are_not_scored(tuned, tmp_path):
    """As photographs in folders by year would be: 0 % would say nothing."""
    rows, printed = [{"id": i, "text": f"comment {i}", "label": 2019 + i} for i in range(3)], list[str]()
    data, out = write_csv(tmp_path / "new.csv", rows), tmp_path / "out.jsonl"
    assert predict(tuned(), [data], out, say=printed.append) == []
    assert len(answers(out)) == 3 and "not scored" in printed[-1] and "2019" in printed[-1]


def test_an_evaluation_of_nothing_does_not_take_the_place_of_its_report(tuned, tmp_path):
    run = tuned()
    (tmp_path / "run/evaluation.json").write_text("scores of its task")
    with pytest.raises(UsageError, match=r"nothing to score it on.*unimo predict"):
        evaluate(run, say=quiet)
    assert (tmp_path / "run/evaluation.json").read_text() == "scores of its task"


def test_images_that_cannot_be_decoded_are_named_by_their_rows(tuned, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(20):
        Image.new("RGB", (16, 16), (10 * i, 0, 0)).save(tmp_path / f"images/{i}.png")
    for i in (4, 7):
        (tmp_path / f"images/{i}.png").write_bytes(b"no image")
    rows = [{"id": i, "text": "what?", "image": f"{i}.png"} for i in range(21)]  # and one that is not there
    out, printed = tmp_path / "out.jsonl", []
    data = write_jsonl(tmp_path / "new.jsonl", rows)
    predict(tuned("both"), [data], out, images=[str(tmp_path / "images")], say=printed.append)
    assert set(answers(out)) == {str(i) for i in range(20) if i not in (4, 7)}
    bad = {line for line in printed if line.startswith("    ")}
    assert len(bad) == 3 and sum("cannot decode" in line for line in bad) == 2
    assert sum("image is missing" in line and "20.png" in line for line in bad) == 1
    with pytest.raises(DataError, match="3 of 21"):
        again = tmp_path / "again.jsonl"
        predict(tuned("both"), [data], again, images=[str(tmp_path / "images")], strict=True, say=quiet)


def test_an_image_that_breaks_after_it_was_indexed_costs_its_row_alone(tuned, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for i in range(6):
        Image.new("RGB", (16, 16), (10 * i, 0, 0)).save(tmp_path / f"images/{i}.png")
    data = write_jsonl(tmp_path / "new.jsonl", [{"id": i, "text": "?", "image": f"{i}.png"} for i in range(6)])
    model, out, printed = tuned("both"), tmp_path / "out.jsonl", []
    opened = open_examples("table", data, images=str(tmp_path / "images"))
    (tmp_path / "images/2.png").write_bytes(b"torn")
    monkeypatch.setattr("unimo.finetune.predict.open_rows", lambda *_, **__: opened)
    predict(model, [data], out, say=printed.append)
    assert set(answers(out)) == {"0", "1", "3", "4", "5"}
    assert any("2.png" in line and "changed" in line for line in printed)


# ---- rows of both


def split(name, *texts):
    return Examples(name, [Example(f"{name}{i}", (text,), None, "a") for i, text in enumerate(texts)])


def test_case_the_same_file_as_train_and_dev_is_warned_of_once():
    train, printed = split("train", "one", "two", "three"), []
    say_shared(
        {"train": train, "dev": split("dev", "three", "two", "one"), "test": split("test", "two", "new")},
        printed.append,
    )
    assert [line.partition(" rows of ")[0] for line in printed] == ["warning: all 3", "warning: 1 of 2"]
    printed.clear()
    say_shared({"train": train, "dev": split("dev", "four")}, printed.append)
    assert printed == []


def test_one_image_asked_other_things_is_another_row():
    train = Examples("train", [Example("0", ("what?",), "1.png", "a")])
    printed: list[str] = []
    say_shared({"train": train, "dev": Examples("dev", [Example("0", ("where?",), "1.png", "a")])}, printed.append)
    assert not printed
    captions = Examples("dev", [Example("0", (), "1.png", ("x",))])
    say_shared({"train": Examples("train", [Example("9", (), "1.png", ("y",))]), "dev": captions}, printed.append)
    assert len(printed) == 1
