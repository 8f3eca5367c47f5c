"""Evaluation as a whole: every task on a tiny world, the same scores at any batch, reasons for gaps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from planted import SETTINGS, random_pipeline

from unimo import checkpoint
from unimo.config import override, to_dict
from unimo.errors import DataError, UsageError, WeightsError
from unimo.evaluation import report
from unimo.evaluation.curves import curves, smooth
from unimo.evaluation.evaluate import evaluate
from unimo.evaluation.plan import EvaluationData, plan
from unimo.evaluation.zero_shot import TASKS
from unimo.metrics.intervals import Score
from unimo.synthetic.dataset import write_world


def write_run(folder: Path, **data: list[str]) -> Path:
    """A run's folder as training leaves it, with random weights."""
    state = {"settings": {"model": to_dict(SETTINGS), "data": data, "seed": 3}, "elapsed": 90.0, "ema": False}
    weights = dict(random_pipeline().model.named_parameters())
    checkpoint.save(folder / "checkpoints", 5, {"model": weights}, state)
    records = [{"step": i, "loss": 3.0, "mlm.pairs": 10 - i, "mlm.pairs.accuracy": i / 9, "lr": 1e-3} for i in range(9)]
    records[4]["mlm.pairs"] = "nan"
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "world"
    write_world(folder, pairs=12, images=2, texts=6, heldout=16, compositional=8, classes=64, size=32)
    return folder


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("evaluate") / "run", pairs=[str(world / "pairs")])


FAST = EvaluationData(shortlist=4, captioned=6, masked=8)


@pytest.fixture(scope="module")
def whole(run) -> dict:
    return evaluate(run, data=FAST, precision="fp32", say=lambda _: None)


def test_every_task_is_asked_in_its_own_world(run, whole):
    tasks = {row["task"] for row in whole["scores"]}
    assert {"Retrieval, held-out scenes", "Retrieval, unseen combinations", "Foils", "Masked words"} <= tasks
    assert {"Classification by class names", "Captions, held-out scenes", "Dictionary"} <= tasks
    assert {f"Captions against the scene, {what}" for what in ("held-out scenes", "unseen combinations")} <= tasks
    assert whole["notes"] == []
    # Weights are random: no score may lie clearly above chance.
    for row in whole["scores"]:
        score = row["score"]
        if isinstance(score, Score) and score.chance is not None and score.chance < 1:
            assert score.low <= score.chance + 0.02, row
    facts = whole["facts"]
    assert facts["seed of training"] == "3" and facts["minutes trained"] == "1.5"
    manifest = json.loads((run / "checkpoints" / "step-00000005" / "MANIFEST.json").read_text())
    assert facts["checkpoint hash"].startswith(manifest["files"]["model.safetensors"]["sha256"])
    assert sum(name.startswith("data, ") for name in facts) == 4  # held out, compositional, classes, training pairs


def test_both_files_hold_the_report(run, whole, tmp_path):
    saved = json.loads((run / "evaluation.json").read_text())
    for kept, row in zip(saved["scores"], whole["scores"], strict=True):
        score = row["score"]
        assert kept["score"] == (score.to_dict() if isinstance(score, Score) else score)
    report.render(saved, tmp_path / "again.html")  # refuses what is off the schema
    page = (run / "report.html").read_text()
    assert page.count("data:image/") > 10 and "Retrieval, held-out scenes" in page


def value_of(row: dict) -> float:
    return row["score"].value if isinstance(row["score"], Score) else row["score"]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_no_score_depends_on_the_batch(run, whole, batch_size, tmp_path):
    again = evaluate(run, data=FAST, batch_size=batch_size, precision="fp32", out=tmp_path, say=lambda _: None)
    for row, other in zip(again["scores"], whole["scores"], strict=True):
        if "perplexity" in row["metric"]:  # a mean of logarithms, each but for rounding
            row, other = ({**one, "score": value_of(one)} for one in (row, other))
            assert row["score"] == pytest.approx(other.pop("score"), rel=1e-5)
            del row["score"]
        assert row == other


def test_one_task_alone_scores_the_same(run, whole, tmp_path):
    only = override(FAST, ["tasks=foils"])
    alone = evaluate(run, data=only, precision="fp32", out=tmp_path, say=lambda _: None)
    assert alone["scores"] == [row for row in whole["scores"] if row["task"] == "Foils"]


def test_paths_go_before_the_world_and_the_rest_is_said(run, world, tmp_path):
    data = EvaluationData(pairs=(str(world / "compositional"),), shortlist=2, captioned=2, baseline=0, masked=4)
    said: list[str] = []
    result = evaluate(run / "checkpoints" / "step-00000005", out=tmp_path, data=data, precision="fp32", say=said.append)
    assert {row["task"] for row in result["scores"]} == {
        "Retrieval",
        "Captions, greedy",
        "Dictionary",
        "Masked words",
    }
    assert not any("copied" in row["metric"] for row in result["scores"])
    assert [note.partition(":")[0] for note in result["notes"]] == [
        "foils skipped",
        "classification skipped",
    ]
    assert set(result["notes"]) <= set(said)


def test_nothing_to_ask_about_is_a_list_of_reasons(tmp_path):
    run = write_run(tmp_path / "run")
    result = evaluate(run, precision="fp32", say=lambda _: None)
    assert result["scores"] == [] and len(result["notes"]) == len(TASKS) - 1  # of scenes nothing is said


def test_no_time_left(run, tmp_path):
    result = evaluate(run, data=FAST, minutes=0, out=tmp_path, precision="fp32", say=lambda _: None)
    assert result["scores"] == [] and all("minutes were over" in note for note in result["notes"])


def test_every_planned_question_has_a_task_or_a_reason(world):
    for data in (EvaluationData(), EvaluationData(pairs=("a",), foils="b", images=("c",), texts=("d",))):
        for trained in ({}, {"pairs": [str(world / "pairs")]}):
            questions = plan(data, trained)
            outside = set() if trained and not data.pairs else {"scene_truth"}  # said nowhere else than in the world
            assert {question.name for question in questions} == set(TASKS) - outside
            assert all((question.task is None) == bool(question.reason) for question in questions)
            (without,) = [q for q in plan(data, trained, has_dictionary=False) if q.name == "dictionary"]
            assert without.task is None and without.reason == "the model has no dictionary"


def test_bad_input_is_located(run, world, tmp_path):
    quiet = {"precision": "fp32", "say": lambda _: None}
    with pytest.raises(DataError, match="does not exist"):
        evaluate(run, out=tmp_path, data=EvaluationData(pairs=(str(tmp_path / "nowhere"),)), **quiet)
    with pytest.raises(DataError, match="no images found"):
        (tmp_path / "empty").mkdir()
        evaluate(
            run,
            out=tmp_path,
            data=EvaluationData(images=(str(tmp_path / "empty"),), tasks=("classification",)),
            **quiet,
        )
    with pytest.raises(UsageError, match="did you mean retrieval"):
        evaluate(run, out=tmp_path, data=EvaluationData(tasks=("retreival",)), **quiet)
    with pytest.raises(WeightsError, match="no such checkpoint"):
        evaluate(tmp_path / "no-run", out=tmp_path, **quiet)
    loose = tmp_path / "step-00000005"
    (run / "checkpoints" / "step-00000005").rename(loose)
    try:
        with pytest.raises(UsageError, match="where should the report go"):
            evaluate(loose, **quiet)
    finally:
        loose.rename(run / "checkpoints" / "step-00000005")


def test_curves_of_a_log(run):
    charts = {chart["title"]: chart["series"] for chart in curves(run / "log.jsonl")}
    assert list(charts) == ["mlm loss", "accuracy while training", "learning rate"]
    losses = charts["mlm loss"]["mlm.pairs"]
    assert losses[0] == (0, 10) and math.isnan(losses[4][1]) and len(losses) == 9
    assert list(charts["accuracy while training"]) == ["mlm.pairs"]


def test_smoothing_keeps_a_constant_and_follows_a_step():
    assert all(y == pytest.approx(2.0) for _, y in smooth([(i, 2.0) for i in range(500)]))
    line = smooth([(i, float(i >= 250)) for i in range(500)], windows=50)
    assert line[249][1] == 0 and 0.05 < line[250][1] < 0.2 and line[-1][1] > 0.99
    assert smooth([]) == []


def test_training_data_that_is_elsewhere_costs_only_the_baseline(world, tmp_path):
    run = write_run(tmp_path / "run", pairs=[str(tmp_path / "gone")])
    data = override(FAST, [f"world={world}", "tasks=captioning"])
    result = evaluate(run, data=data, precision="fp32", say=lambda _: None)
    assert {row["metric"] for row in result["scores"] if not row.get("baseline")} == {"CIDEr-D", "BLEU-4", "ROUGE-L"}
    (note,) = result["notes"]
    assert "baseline" in note and "gone" in note
