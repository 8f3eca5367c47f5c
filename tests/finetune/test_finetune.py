"""Fine-tuning: every kind learns what can be learnt, and a run resumes, stops early, keeps its best and says what it
cannot do.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import bits_of, log_of
from tiny_task import keys_of, quiet, tiny_run, write_csv, write_images, write_jsonl, write_start

import unimo
from unimo import checkpoint
from unimo.config import override
from unimo.errors import DataError, Restart, UsageError
from unimo.finetune.finetune import finetune
from unimo.finetune.job import Task
from unimo.finetune.settings import Finetuning, Ranking, TaskData
from unimo.finetune.task_type import mean_loss
from unimo.metrics.intervals import Score
from unimo.model.build import build
from unimo.objectives import objective
from unimo.recipes.finetuning import prepared
from unimo.train import loop as T
from unimo.train.early_stopping import EarlyStopping
from unimo.train.run_folder import read_log
from unimo.weights.init_from import start_from
from unimo.weights.loading import load_model


@pytest.fixture(scope="module")
def starts(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("starts")
    return {member: write_start(folder / member, member) for member in ("unimo-2", "unimo")}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[Path, list[str]]:
    """Sixteen images of four colours, in folders by colour, with regions beside them."""
    folder = tmp_path_factory.mktemp("images")
    return folder, write_images(folder, 16, regions=True)


def sentences(n: int, seed: int = 0, labels: str | None = None) -> list[dict]:
    """Sentences that are good or bad; labels: "random" to have nothing to learn."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        word = rng.choice(("good", "fine") if i % 2 else ("bad", "poor"))
        label = rng.choice(("no", "yes")) if labels == "random" else ("no", "yes")[i % 2]
        rows.append({"text": f"a {word} film, number {seed}{i}", "label": label})
    return rows


def score_of(scored, metric: str, split: str = "dev"):
    (row,) = [r for r in scored.report["scores"] if r["metric"] == metric and r["task"].endswith(f", {split}")]
    return row["score"]


# ------------------------------------------------------------------------------------------- the four kinds learn


def of_texts(start, tmp, shown):
    path = write_csv(tmp / "rows.csv", sentences(16))
    return tiny_run(start, "classification", TaskData(train=(path,), dev=(path,)), "steps=40"), "accuracy", 1.0


def of_images(start, tmp, shown):
    data = TaskData(reader="folder", train=(str(shown[0]),), dev=(str(shown[0]),))
    return tiny_run(start, "classification", data, "steps=40"), "accuracy", 1.0


def of_both(start, tmp, shown):
    folder, colours = shown
    rows = [
        {"image": key, "text": f"is it {colour} ?", "label": str(colour == own)}
        for key, own in zip(keys_of(folder), colours)
        for colour in ("red", "blue")
    ]
    path = write_csv(tmp / "rows.csv", rows)
    data = TaskData(train=(path,), dev=(path,), images=(str(folder),))
    return tiny_run(start, "classification", data, "steps=120", "read.fusion=sum"), "accuracy", 0.9


def of_soft_answers(start, tmp, shown):
    folder, colours = shown
    rows = [
        {"image": key, "question": "what colour ?", "answers": {colour: 1.0, "colour": 0.3}}
        for key, colour in zip(keys_of(folder), colours)
    ]
    path = write_jsonl(tmp / "rows.jsonl", rows)
    data = TaskData(train=(path,), dev=(path,), images=(str(folder),))
    return tiny_run(start, "classification", data, "steps=60"), "soft_accuracy", 1.0


def of_numbers(start, tmp, shown):
    rows = [{"text": "very " * (i % 4) + "good", "text2": f"film {i}", "score": 100.0 + i % 4} for i in range(16)]
    path = write_csv(tmp / "rows.csv", rows)
    data = TaskData(train=(path,), dev=(path,))
    return tiny_run(start, "regression", data, "read.standardise=true", "steps=60"), "pearson", 0.95


def of_written_texts(start, tmp, shown):
    words = ("cat", "dog", "owl", "fox")
    rows = [{"text": f"{words[i % 4]} number {i}", "target": f"the {words[i % 4]} runs"} for i in range(16)]
    path = write_jsonl(tmp / "rows.jsonl", rows)
    changes = ("steps=80", "write.restrict_vocabulary=true", "write.num_beams=2")
    return tiny_run(start, "generation", TaskData(train=(path,), dev=(path,)), *changes), "rouge_l", 1.0


def of_captions(start, tmp, shown):
    folder, colours = shown
    rows = [{"image": k, "captions": [f"a {c} wall", f"this is {c}"]} for k, c in zip(keys_of(folder), colours)]
    path = write_jsonl(tmp / "rows.jsonl", rows)
    data = TaskData(train=(path,), dev=(path,), images=(str(folder),))
    changes = ("steps=100", "write.restrict_vocabulary=true", "write.end=sep", "metrics=rouge_l")
    return tiny_run(start, "generation", data, *changes), "rouge_l", 1.0


def of_dialogue(start, tmp, shown):
    colours = [("red", "blue"), ("green", "red"), ("blue", "green"), ("red", "green")]
    stories = [
        {
            "id": f"story {i}",
            "source": "made",
            "story": f"the {a} cat sat on the {b} mat",
            "questions": [{"turn_id": 1, "input_text": "which cat?"}, {"turn_id": 2, "input_text": "which mat?"}],
            "answers": [
                {"turn_id": 1, "input_text": a, "span_text": a},
                {"turn_id": 2, "input_text": b, "span_text": b},
            ],
        }
        for i, (a, b) in enumerate(colours)
    ]
    path = tmp / "coqa.json"
    path.write_text(json.dumps({"data": stories}))
    data = TaskData(reader="coqa", train=(str(path),), dev=(str(path),))
    changes = ("write.dialogue=true", "write.restrict_vocabulary=true", "steps=200", "metrics=coqa_f1")
    return tiny_run(start, "generation", data, *changes), "coqa_f1", 0.75


def of_retrieval(loss):
    def made(start, tmp, shown):
        folder, colours = shown
        rows = [{"image": k, "captions": [f"a {c} wall", f"{c} paint"]} for k, c in zip(keys_of(folder)[:4], colours)]
        path = write_jsonl(tmp / "rows.jsonl", rows)
        data = TaskData(reader="captions", train=(path,), dev=(path,), images=(str(folder),))
        rank = Ranking(loss=loss, negatives=3, max_length=20, matched=8, fresh=loss == "circle")
        return tiny_run(start, "retrieval", data, "steps=100", "batch_size=4", rank=rank), "image to text R@1", 1.0

    made.__name__ = f"of_retrieval_{loss}"
    return made


CASES = [
    (of_texts, "unimo-2"), (of_texts, "unimo"), (of_images, "unimo-2"), (of_images, "unimo"),
    (of_both, "unimo"), (of_soft_answers, "unimo-2"), (of_numbers, "unimo-2"), (of_written_texts, "unimo-2"),
    (of_captions, "unimo-2"), (of_captions, "unimo"), (of_dialogue, "unimo"),
    (of_retrieval("hard"), "unimo-2"), (of_retrieval("circle"), "unimo-2"), (of_retrieval("circle"), "unimo"),
    (of_retrieval("hard"), "unimo"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "member"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_every_kind_learns_a_few_rows_by_heart(starts, images, tmp_path, case, member):
    run, metric, at_least = case(starts[member], tmp_path, images)
    scored = finetune(override(run, ["dev_steps=1000"]), tmp_path / "run", say=quiet)
    score = score_of(scored, metric)
    assert isinstance(score, Score) and score.value >= at_least
    answers = [json.loads(line) for line in (tmp_path / "run/predictions-dev.jsonl").read_text().splitlines()]
    assert len(answers) == len({answer["id"] for answer in answers}) and all("prediction" in one for one in answers)
    saved = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert saved["facts"]["checkpoint hash"] and saved["facts"]["seed"] == "0" and saved["facts"]["commit"]


def test_random_labels_teach_nothing_about_held_out_rows(starts, tmp_path):
    train = write_csv(tmp_path / "train.csv", sentences(48, labels="random"))
    dev = write_csv(tmp_path / "dev.csv", sentences(200, seed=7, labels="random"))
    run = tiny_run(starts["unimo-2"], "classification", TaskData(train=(train,), dev=(dev,)), "dev_steps=1000")
    score = score_of(finetune(run, tmp_path / "run", say=quiet), "accuracy")
    assert abs(score.value - 0.5) < 4 * math.sqrt(0.25 / 200)  # four standard deviations


def test_baselines_stand_beside_and_a_split_without_labels_is_only_predicted(starts, tmp_path):
    train = write_csv(tmp_path / "train.csv", sentences(16))
    test = write_csv(tmp_path / "test.csv", [{"text": row["text"]} for row in sentences(6, seed=1)])
    data = TaskData(train=(train,), dev=(train,), test=(test,))
    scored = finetune(tiny_run(starts["unimo-2"], "classification", data, "steps=2"), tmp_path / "run", say=quiet)
    assert score_of(scored, "accuracy, most frequent").value == 0.5
    assert score_of(scored, "accuracy, nearest training row").value == 1.0  # the rows are the training rows
    assert scored.report["notes"] == ["test has no labels: predictions only"] and scored.selection.keys() == {"dev"}
    answers = [json.loads(line) for line in (tmp_path / "run/predictions-test.jsonl").read_text().splitlines()]
    assert len(answers) == 6 and {answer["prediction"] for answer in answers} <= {"no", "yes"}
    assert scored.report["facts"]["texts of dev that are also in training"].startswith("16 exactly")


def test_only_so_many_rows_are_scored_and_the_same_ones_with_any_seed(starts, tmp_path):
    train = write_csv(tmp_path / "train.csv", sentences(16))
    test = write_csv(tmp_path / "test.csv", [{"id": f"row{i}", **row} for i, row in enumerate(sentences(30, seed=1))])
    data = TaskData(train=(train,), dev=(test,), test=(test,), score_limit=7)
    ids = []
    for seed in (0, 1):
        run = tiny_run(starts["unimo-2"], "classification", data, "steps=2", f"seed={seed}")
        scored = finetune(run, tmp_path / str(seed), say=quiet)
        assert score_of(scored, "accuracy").n == 7
        lines = (tmp_path / str(seed) / "predictions-test.jsonl").read_text().splitlines()
        ids.append([json.loads(line)["id"] for line in lines])
    assert ids[0] == ids[1] and len(set(ids[0])) == 7 and ids[0] != [f"row{i}" for i in range(7)]


# ------------------------------------------------------------------------------------------- resume, best, patience


@pytest.fixture(scope="module")
def learning(tmp_path_factory) -> Finetuning:
    """Twelve steps with dropout, images of no use, and a question to the dev split every three."""
    folder = tmp_path_factory.mktemp("learning")
    path = write_csv(folder / "rows.csv", sentences(16))
    start = write_start(folder / "lively", dropout=0.1, attention_dropout=0.1)
    data = TaskData(train=(path,), dev=(path,))
    return tiny_run(start, "classification", data, "steps=12", "dev_steps=3", "save_steps=2", "ema_decay=0.9")


@pytest.fixture(scope="module")
def calm(learning, tmp_path_factory) -> tuple[Path, Path]:
    """The run nobody disturbs, which the others are compared with: its folder, its last checkpoint."""
    out = tmp_path_factory.mktemp("calm") / "run"
    return out, T.train(Task(learning), out, say=quiet)


def stop_in(monkeypatch, *steps):
    waiting, real = list(steps), objective.step

    def stopped(model, batch, active):
        if waiting and batch.step == waiting[0]:
            waiting.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(model, batch, active)

    monkeypatch.setattr(objective, "step", stopped)


@pytest.mark.parametrize("stops", [(1,), (5,), (2, 3, 8)])
def test_a_run_stopped_anywhere_goes_on_as_if_nothing_had_happened(learning, calm, tmp_path, monkeypatch, stops):
    calm, last = calm
    stop_in(monkeypatch, *stops)
    resume = False
    while True:
        try:
            path = T.train(Task(learning), tmp_path / "run", resume=resume, say=quiet)
            break
        except Restart:
            resume = True
    assert resume and log_of(tmp_path / "run") == log_of(calm) and bits_of(path) == bits_of(last)
    assert any("dev" in record for record in log_of(tmp_path / "run"))
    best = [bits_of(out / "best") for out in (tmp_path / "run", calm)]
    assert best[0] == best[1]
    states = [checkpoint.load(out / "best").state for out in (tmp_path / "run", calm)]
    kept = [(state["step"], state["scores"], state["started"]["loaded"]) for state in states]
    assert kept[0] == kept[1]


def test_a_run_killed_before_its_first_checkpoint_begins_from_the_same_weights(learning, calm, tmp_path, monkeypatch):
    calm, last = calm
    stop_in(monkeypatch, 0)
    with pytest.raises(Restart):
        T.train(Task(learning), tmp_path / "run", say=quiet)
    shutil.rmtree(tmp_path / "run/checkpoints")
    path = T.train(Task(learning), tmp_path / "run", resume=True, say=quiet)
    assert bits_of(path) == bits_of(last) and log_of(tmp_path / "run") == log_of(calm)


def test_best_weights_of_steps_that_are_made_again_are_forgotten(learning, tmp_path, monkeypatch):
    """Later checkpoints were lost with their disk: what was best after them is no more, and can be bettered."""
    run, scores = override(learning, ["keep=20"]), iter([0.1, 0.9, 0.2, 0.3, 0.05, 0.4, 0.3])
    monkeypatch.setattr(Task, "_evaluate", lambda self, model: (next(scores), 1.0))
    T.train(Task(run), tmp_path / "run", say=quiet)
    assert checkpoint.load(tmp_path / "run/best").step == 6
    for path in (tmp_path / "run/checkpoints").iterdir():
        if int(path.name[5:]) > 4:
            shutil.rmtree(path)
    T.train(Task(run), tmp_path / "run", resume=True, say=quiet)
    assert checkpoint.load(tmp_path / "run/best").state["scores"] == [
        [3, 0.1, 1.0, 0.25], [6, 0.05, 1.0, 0.5], [9, 0.4, 1.0, 0.75],
    ]  # fmt: skip


def dev_of(run: Path) -> list[tuple[int, float]]:
    return [(record["step"] + 1, record["dev"]) for record in read_log(run / "log.jsonl") if "dev" in record]


def test_a_run_stops_when_patience_is_over_and_answers_with_its_best(learning, tmp_path, monkeypatch):
    scores = iter([0.5, 0.8, 0.8, 0.1, 0.2, 0.3, 0.9])
    monkeypatch.setattr(Task, "_evaluate", lambda self, model: (next(scores), 1.0))
    run = override(learning, ["steps=100", "dev_steps=2", "patience=3", "patience_from=0"])
    T.train(Task(run), tmp_path / "run", say=quiet)
    # Of equals the later is the best.
    assert dev_of(tmp_path / "run") == [(2, 0.5), (4, 0.8), (6, 0.8), (8, 0.1), (10, 0.2), (12, 0.3)]
    assert unimo.load(tmp_path / "run").facts["step"] == 6
    assert checkpoint.load(tmp_path / "run/checkpoints").step == 12
    T.train(Task(run), tmp_path / "run", resume=True, say=quiet)  # over is over
    assert checkpoint.load(tmp_path / "run/checkpoints").step == 12


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        (["patience_from=0"], 6),  # two questions after the first
        (["patience_from=0", "min_steps=9"], 10),
        (["patience_from=0.5"], 12),  # steps 10 and 12 are in the second half of 20
        (["patience_from=0.99"], 20),
    ],
)
def test_patience_counts_in_the_last_part_of_the_schedule_and_after_the_least_steps(
    learning, tmp_path, monkeypatch, changes, ends
):
    scores = iter([0.9, *[0.1] * 20])
    monkeypatch.setattr(Task, "_evaluate", lambda self, model: (next(scores), 1.0))
    run = override(learning, ["steps=20", "dev_steps=2", "patience=2", *changes])
    T.train(Task(run), tmp_path / "run", say=quiet)
    assert dev_of(tmp_path / "run")[-1][0] == ends


def test_a_run_of_minutes_makes_its_least_steps_and_its_rate_falls_over_all_of_them(learning, tmp_path):
    run = override(learning, ["steps=none", "minutes=0.0001", "min_steps=12"])
    T.train(Task(run), tmp_path / "run", say=quiet)
    by_steps = override(learning, ["steps=12"])
    T.train(Task(by_steps), tmp_path / "steps", say=quiet)
    rates = [[record["lr"] for record in read_log(tmp_path / name / "log.jsonl")] for name in ("run", "steps")]
    assert rates[0] == rates[1] and len(rates[0]) == 12


def test_marks_know_when_to_ask_and_when_to_give_up():
    stopping = EarlyStopping(lambda model: (0.0, 0.0), every=5, patience=2)
    assert [step for step in range(1, 13) if stopping.is_due(step, step == 12)] == [5, 10, 12]
    assert stopping.add(5, float("nan"), float("nan"), 0.1) and not stopping.is_due(5, True)
    assert stopping.add(10, 0.1, 2.0, 0.2) and not stopping.add(15, 0.1, 2.5, 0.3) and not stopping.patience_is_over
    stopping.add(20, 0.05, 1.0, 0.4)
    assert stopping.best is not None and stopping.best.step == 10 and stopping.patience_is_over
    again = EarlyStopping(lambda model: (0.0, 0.0), every=5, patience=2)
    again.from_state(json.loads(json.dumps(stopping.to_state())))
    assert again.given == stopping.given


def test_of_equal_scores_the_lower_dev_loss_is_kept_and_of_equal_losses_the_later():
    """Matthews is 0 while all answers are one class: there the loss tells whether anything is learnt."""
    stopping = EarlyStopping(lambda model: (0.0, 0.0), every=1, patience=2)
    assert [stopping.add(step, 0.0, loss, 0.1 * step) for step, loss in enumerate((0.69, 0.65, 0.66, 0.65), 1)] == [
        True, True, False, True,
    ]  # fmt: skip
    assert not stopping.patience_is_over  # a falling loss is hope
    assert stopping.add(5, 0.1, 9.0, 0.5)  # the score goes first


def test_the_dev_loss_is_the_training_loss_without_dropout(starts, tmp_path):
    rows = sentences(16)
    path = write_csv(tmp_path / "rows.csv", rows)
    run = tiny_run(starts["unimo-2"], "classification", TaskData(train=(path,), dev=(path,)), "steps=1")
    job = Task(run)
    T.train(job, tmp_path / "run", say=quiet)
    pipeline = unimo.load(tmp_path / "run", precision="fp32")
    predicted = job.task_type.predict(pipeline, job.rows("dev"))
    plain = [-math.log(one.likely[row["label"]]) for one, row in zip(predicted, rows)]
    for batch_size in (1, 5, 16):
        loss = mean_loss(job.task_type, pipeline, job.rows("dev"), batch_size)
        assert loss == pytest.approx(sum(plain) / len(plain), rel=1e-5)


def test_fresh_poolers_stay_random_and_all_else_is_loaded(starts, tmp_path):
    path = write_csv(tmp_path / "rows.csv", sentences(16))
    run = tiny_run(starts["unimo-2"], "classification", TaskData(train=(path,), dev=(path,)), "steps=1")
    fresh = {}
    for name, changes in (("kept", []), ("fresh", ["read.fresh_pooler=true"])):
        T.train(Task(override(run, changes)), tmp_path / name, say=quiet)
        fresh[name] = checkpoint.load(tmp_path / name / "checkpoints").state["started"]["fresh"]
    pooler = ["text_pooler.linear.weight", "text_pooler.linear.bias"]
    assert fresh["fresh"] == [*pooler, *fresh["kept"]] and not set(pooler) & set(fresh["kept"])


# ------------------------------------------------------------------------------------------- where it starts from


def test_what_is_loaded_and_what_is_fresh_is_told(starts, tmp_path):
    path = write_csv(tmp_path / "rows.csv", sentences(16))
    run = tiny_run(starts["unimo-2"], "classification", TaskData(train=(path,), dev=(path,)), "steps=2")
    printed: list[str] = []
    scored = finetune(run, tmp_path / "first", say=printed.append)
    assert any("fresh: head.output.weight, head.output.bias" in line for line in printed)
    assert scored.report["facts"]["started from"] == starts["unimo-2"]
    # The same labels: the head comes along. Another task: it does not.
    settings = load_model(tmp_path / "first")[1].state["settings"]
    same = build(Task(run).settings.model)
    assert same.head is None
    again = prepared(run, str(tmp_path / "first"))
    assert again.model.head is None
    model = build(replace(again.model, head=load_model(tmp_path / "first")[0].head.settings))
    assert not start_from(model, tmp_path / "first").missing
    other = build(replace(again.model, head=replace(model.head.settings, labels=("a", "b"))))
    assert start_from(other, tmp_path / "first").missing == ["head.output.weight", "head.output.bias"]
    assert settings["kind"] == "classification"


def test_known_words_of_the_start_grow_by_those_to_be_written(tmp_path):
    start = write_start(tmp_path / "start")
    saved = checkpoint.load(start + "/checkpoints")
    known = sorted({0, 2, 50264, *range(10, 60)})
    checkpoint.save(tmp_path / "narrow/checkpoints", 5, saved.tensors, {**saved.state, "known_words": known})
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": f"{i}", "target": "zebras graze"} for i in range(8)])
    run = tiny_run(str(tmp_path / "narrow"), "generation", TaskData(train=(path,), dev=(path,)), "steps=2")
    finetune(run, tmp_path / "run", say=quiet)
    words = set(load_model(tmp_path / "run")[0].vocabulary_subset.tolist())
    assert words == {*known, *unimo.tokenizer.Tokenizer.default().encode("zebras graze")}


# ------------------------------------------------------------------------------------------- bad input


def refused(run: Finetuning, out: Path, kind, match: str):
    with pytest.raises(kind, match=match) as caught:
        finetune(run, out, say=quiet)
    assert "where" in caught.value.parts() and caught.value.parts().keys() & {"expected", "do"}
    assert not (out / "settings.json").exists()
    return caught.value


ODD = {"text": "odd", "label": "maybe"}
PREMISE = [{"text": "a wall", "text2": "it is red", "label": str(i % 2)} for i in range(16)]
ONE_CLASS = [{"text": f"film {i}", "label": "yes"} for i in range(8)]
NO_NUMBERS = [{"text": f"film {i}", "score": "fine"} for i in range(8)]
NO_TEXTS = [{"text": f"film {i}", "target": ""} for i in range(8)]


@pytest.mark.parametrize(
    ("kind", "train", "dev", "changes", "match", "part", "text"),
    [
        ("classification", sentences(16), [*sentences(4), ODD], [], "training did not have", "got", "maybe (1 rows)"),
        ("classification", ONE_CLASS, [], [], "nothing to choose", "expected", "at least two"),
        ("classification", PREMISE, [], ["read.texts=1"], "another number of texts", "do", "premise"),
        ("classification", sentences(16), sentences(2), ["read.reads=both"], "rows without an image", "got", "2 of 2"),
        ("regression", NO_NUMBERS, [], [], "no usable row", "where", "train"),
        ("generation", NO_TEXTS, [], [], "no usable row", "where", "train"),
    ],
)
def test_rows_that_do_not_fit_the_task_are_named(
    starts, images, tmp_path, kind, train, dev, changes, match, part, text
):
    folder, _ = images
    if changes:  # training rows with images; those of dev have none
        train = [{**row, "image": key} for row, key in zip(train, keys_of(folder))]
    data = TaskData(train=(write_jsonl(tmp_path / "train.jsonl", train),), images=(str(folder),) if changes else ())
    if dev:
        data = replace(data, dev=(write_jsonl(tmp_path / "dev.jsonl", dev),))
    fault = refused(tiny_run(starts["unimo-2"], kind, data, *changes), tmp_path / "run", DataError, match)
    assert text in str(getattr(fault, part))


def test_unimo_without_regions_cannot_see(starts, tmp_path):
    write_images(tmp_path / "images", 8)
    data = TaskData(reader="folder", train=(str(tmp_path / "images"),))
    run = tiny_run(starts["unimo"], "classification", data)
    assert "prepare regions" in refused(run, tmp_path / "run", DataError, "no regions fit").do


@pytest.mark.parametrize("member", ["unimo", "unimo-2"])
def test_the_dev_split_is_asked_in_the_precision_of_training(starts, images, tmp_path, member):
    folder, _ = images
    data = TaskData(reader="folder", train=(str(folder),), dev=(str(folder),))
    run = override(tiny_run(starts[member], "classification", data), ["precision=bf16", "steps=2", "dev_steps=1"])
    scored = finetune(run, tmp_path / "run", say=lambda _: None)
    assert 0 <= score_of(scored, "accuracy").value <= 1


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["kind=generation", "write.dialogue=true"], "tables of speakers"),
        (["adversarial.sides=image"], "only regions can be perturbed"),
        (["steps=none"], "how long"),
        (["data.train="], "nothing to learn from"),
        (["metrics=acuracy"], "no such metric"),
        (["metrics=rouge_l"], "no such metric of classification"),
        (["metrics=f1", "read.positive=purple"], "no such class to look for"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(starts, tmp_path, changes, match):
    path = write_csv(tmp_path / "rows.csv", sentences(8))
    run = override(tiny_run(starts["unimo-2"], "classification", TaskData(train=(path,))), changes)
    refused(run, tmp_path / "run", UsageError, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["micro_batches=0"], "out of range"),
        (["optimizer.layer_decay=2"], "out of range"),
        (["micro_batches=3"], "equal micro-batches"),
        (["kind=regression", "adversarial.steps=2", "adversarial.sides=text"], "adversarial training is for"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(starts, changes, match):
    with pytest.raises(UsageError, match=match):
        tiny_run(starts["unimo-2"], "classification", TaskData(), *changes)
