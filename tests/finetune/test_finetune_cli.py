"""A user's own files, one command each; predictions for new rows; seeds and grids."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_task import keys_of, quiet, tiny_run, write_csv, write_images, write_jsonl, write_start
from typer.testing import CliRunner

import unimo
from unimo.cli import app
from unimo.errors import UnimoError, UsageError
from unimo.finetune import sweep as S
from unimo.finetune.finetune import finetune
from unimo.finetune.predict import predict
from unimo.finetune.scoring import Scored, write_predictions
from unimo.finetune.settings import TaskData
from unimo.recipes.finetuning import TUNINGS, find_tuning, ours, story


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> str:
    return write_start(tmp_path_factory.mktemp("start") / "run")


FAST = ("--steps", "6", "--set", "precision=fp32", "--set", "batch_size=8", "--set", "log=none")


def command(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def sentences(n: int) -> list[dict]:
    return [{"text": f"a {('good', 'bad')[i % 2]} film {i}", "label": ("yes", "no")[i % 2]} for i in range(n)]


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_csv_of_texts_and_labels(start, tmp_path):
    train, dev = write_csv(tmp_path / "my.csv", sentences(12)), write_csv(tmp_path / "dev.csv", sentences(6))
    out = tmp_path / "run"
    printed = command(
        "finetune", "classification", "--init-from", start, "--train", train, "--dev", dev, "--out", out, *FAST
    )
    assert "accuracy, nearest training row" in printed and (out / "report.html").is_file()
    assert unimo.load(out).labels == ("no", "yes")

    new = write_csv(tmp_path / "new.csv", [{"id": f"n{i}", "text": f"film {i}"} for i in range(5)])
    printed = command("predict", out, "--data", new, "--out", tmp_path / "new.jsonl")
    assert "5 predictions for 5 rows" in printed
    assert [row["id"] for row in rows_of(tmp_path / "new.jsonl")] == [f"n{i}" for i in range(5)]
    with pytest.raises(UsageError, match="the file exists"):
        command("predict", out, "--data", new, "--out", tmp_path / "new.jsonl")


def test_a_folder_of_classes(start, tmp_path):
    write_images(tmp_path / "train", 12)
    write_images(tmp_path / "dev", 4)
    train = ("--train", tmp_path / "train", "--dev", tmp_path / "dev")
    command("finetune", "imagenet", "--init-from", start, *train, "--out", tmp_path / "run", *FAST)
    assert unimo.load(tmp_path / "run").labels == ("blue", "green", "red", "yellow")
    assert len(rows_of(tmp_path / "run/predictions-dev.jsonl")) == 4


def test_jsonl_of_images_questions_and_answers(start, tmp_path):
    colours = write_images(tmp_path / "images", 8)
    rows = [
        {"image": key, "question": "what colour ?", "answer": colour}
        for key, colour in zip(keys_of(tmp_path / "images"), colours)
    ]
    train = write_jsonl(tmp_path / "my.jsonl", rows)
    dev = write_jsonl(tmp_path / "dev.jsonl", [*rows[:3], {**rows[3], "answer": "mauve"}])
    paths = ("--train", train, "--dev", dev, "--images", tmp_path / "images")
    command("finetune", "classification", "--init-from", start, *paths, "--out", tmp_path / "run", *FAST)
    answers = rows_of(tmp_path / "run/predictions-dev.jsonl")
    assert len(answers) == 4  # an answer that training did not have is wrong, not left out
    model = unimo.load(tmp_path / "run")
    image = tmp_path / "images" / rows[0]["image"]
    assert model.answer(["what colour ?"], [str(image)])[0] in colours


def test_columns_are_named_where_they_cannot_be_guessed(start, tmp_path):
    rows = [{"said": row["text"], "mood": row["label"]} for row in sentences(12)]
    train = write_csv(tmp_path / "my.csv", rows)
    columns = ("--column", "text=said", "--column", "label=mood")
    out = tmp_path / "run"
    command("finetune", "classification", "--init-from", start, "--train", train, *columns, "--out", out, *FAST)
    assert unimo.load(out).labels == ("no", "yes")
    with pytest.raises(UsageError, match="part=column"):
        command(
            "finetune",
            "classification",
            "--init-from",
            start,
            "--train",
            train,
            "--column",
            "said",
            "--out",
            tmp_path / "no",
        )


def test_random_weights_and_misspelt_tasks(start, tmp_path):
    train = write_csv(tmp_path / "my.csv", sentences(12))
    random = ("--init-from", "random", "--like", start)
    printed = command("finetune", "classification", *random, "--train", train, "--out", tmp_path / "run", *FAST)
    assert "all weights are random" in printed
    with pytest.raises(UsageError, match="did you mean sst2"):
        command("finetune", "sst", "--init-from", start, "--train", train)
    with pytest.raises(UsageError, match="which model"):
        command("finetune", "sst2", "--init-from", "random", "--train", train)


def test_predictions_need_a_fine_tuned_model_and_count_bad_rows(start, tmp_path):
    train = write_csv(tmp_path / "my.csv", sentences(12))
    with pytest.raises(UnimoError, match="not a fine-tuned model"):
        predict(start, [train], tmp_path / "a.jsonl", say=quiet)
    run = tiny_run(start, "classification", TaskData(train=(train,)), "steps=2")
    finetune(run, tmp_path / "run", say=quiet)
    lines = [json.dumps({"text": f"film {i}", "label": "yes"}) for i in range(199)]
    (tmp_path / "new.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    printed: list[str] = []
    scores = predict(tmp_path / "run", [str(tmp_path / "new.jsonl")], tmp_path / "b.jsonl", say=printed.append)
    assert any("199 predictions for 200 rows" in line and "1 bad rows" in line for line in printed)
    assert scores[0]["metric"] == "accuracy" and scores[0]["score"].n == 199
    assert len(rows_of(tmp_path / "b.jsonl")) == 199


def test_a_saved_folder_predicts_like_its_run(start, tmp_path):
    train = write_csv(tmp_path / "my.csv", sentences(12))
    finetune(tiny_run(start, "classification", TaskData(train=(train,)), "steps=4"), tmp_path / "run", say=quiet)
    unimo.load(tmp_path / "run").save_pretrained(tmp_path / "saved")
    for name in ("run", "saved"):
        predict(tmp_path / name, [train], tmp_path / f"{name}.jsonl", say=quiet)
    assert (tmp_path / "run.jsonl").read_bytes() == (tmp_path / "saved.jsonl").read_bytes()


def test_a_prediction_too_few_is_noticed(tmp_path, start):
    train = write_csv(tmp_path / "my.csv", sentences(12))
    from unimo.finetune.job import Task

    job = Task(tiny_run(start, "classification", TaskData(train=(train,))))
    job.open(tmp_path, quiet)
    with pytest.raises(UnimoError, match="not one prediction for each row"):
        write_predictions(tmp_path / "x.jsonl", job.task_type, [], job.splits["train"])


# ------------------------------------------------------------------------------------------- seeds and grids


def test_every_combination_and_seed_runs_once_and_the_best_on_dev_is_chosen(start, tmp_path, monkeypatch):
    rows = write_csv(tmp_path / "my.csv", sentences(12))
    run = tiny_run(start, "classification", TaskData(train=(rows,), dev=(rows,)), "steps=2")
    made = []

    def made_up(given, folder, *, resume, say, batch_size):
        made.append((folder.name, batch_size))
        folder.mkdir(parents=True)
        value, loss = given.optimizer.lr * 1000 + given.seed, given.batch_size + given.seed
        log = [{"dev": value, "dev_loss": loss}, {"dev": value, "dev_loss": loss + 1.0}, {"dev": 0.0, "dev_loss": 0.0}]
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"loss": 1.0}, *log]))
        return Scored({}, {"dev": value, "test": -value})

    monkeypatch.setattr(S, "finetune", made_up)
    grid = ["optimizer.lr=1e-3,2e-3", "batch_size=8,4"]
    summary = S.sweep(run, tmp_path / "out", seeds=3, grid=grid, say=quiet, batch_size=7)
    assert len(made) == len(set(made)) == 12 and made[0] == ("optimizer.lr=1e-3,batch_size=8,seed=1", 7)
    best = summary["best on dev"]
    assert best["settings"] == ["optimizer.lr=2e-3", "batch_size=4"]  # of equals the lower loss
    assert best["dev"]["mean"] == pytest.approx(4.0) and best["dev"]["spread"] == pytest.approx(1.0)
    assert best["test"]["mean"] == pytest.approx(-4.0) and best["dev"]["each"] == pytest.approx([3.0, 4.0, 5.0])
    assert best["dev loss"]["each"] == [5.0, 6.0, 7.0]  # of the checkpoint that was kept
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    lines = (tmp_path / "out/summary.md").read_text().splitlines()
    assert [line for line in lines if "chosen" in line][1:] == [
        "| 2e-3 | 4 | 4.0000 ± 1.0000 | -4.0000 ± 1.0000 | 6.0000 ± 1.0000 | **chosen** |"
    ]
    again = S.sweep(run, tmp_path / "out", seeds=3, grid=grid, say=quiet)
    assert again == summary and len(made) == 12  # finished runs are not made again
    with pytest.raises(UsageError, match="other settings"):  # nor passed off as runs of other settings
        S.sweep(replace(run, steps=3), tmp_path / "out", seeds=3, grid=grid, say=quiet)
    for wrong, what in (("optimizer.lr", "grid"), ("optimizer.lr=-1", "out of range")):
        with pytest.raises(UsageError, match=what):
            S.sweep(run, tmp_path / "other", grid=["batch_size=8,4", wrong], say=quiet)
    with pytest.raises(UsageError, match="nothing to choose by"):
        S.sweep(replace(run, data=TaskData(train=(rows,))), tmp_path / "other", grid=grid, say=quiet)
    assert not (tmp_path / "other").exists()


def test_the_grid_of_a_sweep_holds_what_a_run_heeds(start):
    run = ours(tiny_run(start, "classification", TaskData(train=("x",))))
    combinations = [parsed for text in S.default_grid(run) for parsed in [S.parse(text)]]
    assert math.prod(map(len, combinations)) == 48
    assert [choice[0].partition("=")[0] for choice in combinations] == [
        "optimizer.lr", "optimizer.layer_decay", "read.fresh_pooler", "optimizer.split_qkv", "ema_decay",
    ]  # fmt: skip
    released = tiny_run(start, "generation", TaskData(train=("x",)))  # no pooler is read, no matrix moves by Muon
    assert math.prod(len(S.parse(text)) for text in S.default_grid(released)) == 12


def test_a_sweep_of_two_settings_and_two_seeds_with_one_command(start, tmp_path):
    rows, out = write_csv(tmp_path / "my.csv", sentences(12)), tmp_path / "out"
    paths = ("--train", rows, "--dev", rows, "--out", out)
    grid = ("--grid", "read.fresh_pooler=false,true", "--seeds", 2)
    printed = command("sweep", "classification", "--init-from", start, *paths, *grid, *FAST)
    assert "summary.md" in printed and printed.count("**chosen**") == 1
    runs = json.loads((out / "summary.json").read_text())["runs"]
    assert [len(row["dev"]["each"]) for row in runs] == [2, 2]
    for row in runs:
        for seed in (1, 2):
            settings = json.loads((out / f"{row['settings'][0]},seed={seed}/settings.json").read_text())
            assert settings["seed"] == seed and settings["read"]["fresh_pooler"] == ("true" in row["settings"][0])


def test_predictions_into_a_folder_that_is_not_there_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        predict("no model", ["no rows"], tmp_path / "nowhere" / "p.jsonl")


# ------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", sorted(TUNINGS))
def test_every_recipe_can_be_found_and_tells_its_story(name):
    run = find_tuning(name)
    assert run.task == name or name in ("classification", "regression", "generation", "retrieval")
    text = story(name)
    assert all(word in text for word in ("source", "command", "hardware", "expect"))
    assert re.search(f"unimo (finetune|sweep) {name} ", text)


@pytest.mark.parametrize("task, width, rate", [("squad_qg", 192, 6e-3), ("coco_captions", 192, 1.5e-3),
                                               ("squad_qg", 384, 1.5e-4), ("sst2", 128, 1.5e-3)])  # fmt: skip
def test_our_rate_is_higher_only_where_small_models_write_after_texts(task, width, rate):
    run = find_tuning(task)
    assert ours(replace(run, model=replace(run.model, width=width))).optimizer.lr == pytest.approx(rate)


def test_ours_keeps_the_task_and_changes_how_weights_move(start):
    released = find_tuning("flickr30k_retrieval")
    small = ours(released)
    assert small.rank.loss == "hard" and small.data == released.data and small.optimizer.lr < 1e-4
    assert small.optimizer.matrix_optimizer == released.optimizer.matrix_optimizer
    run = tiny_run(start, "classification", TaskData(train=("x",)), "read.hidden=7", "adversarial.steps=2")
    tiny = ours(run)
    assert tiny.optimizer.lr == 1.5e-3 and tiny.optimizer.matrix_optimizer == "muon"
    assert tiny.patience == 3 and tiny.adversarial is None
    assert (
        tiny.read == replace(run.read, prior=True, fresh_pooler=True)
        and tiny.data == run.data
        and tiny.model == run.model
    )
