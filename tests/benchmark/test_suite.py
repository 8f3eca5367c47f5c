"""The benchmark suite: every task of a plan, its table, what was forgotten; stopped, gone on with, misspelt."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import pytest
import torch
from tiny_task import SIZES, quiet, write_csv
from typer.testing import CliRunner

from unimo import checkpoint
from unimo.benchmark import suite as Q
from unimo.benchmark.plan import Entry, Plan, check_plan, read_plan
from unimo.benchmark.scenes_plan import scenes_plan
from unimo.benchmark.table import PRETRAINED
from unimo.cli import app
from unimo.config import to_dict
from unimo.errors import DataError, UnimoError, UsageError
from unimo.evaluation.item_sums import read_sums
from unimo.finetune.benchmarks.published_scores import PUBLISHED
from unimo.model.build import ModelSettings, build
from unimo.recipes.finetuning import TUNINGS
from unimo.synthetic.dataset import write_world
from unimo.train.run_folder import read_log

FAST = ("steps=2", "log=none", "batch_size=4", "precision=fp32")
GROUPS = {
    f"{kind}, {modality}" for kind in ("understanding", "generation") for modality in ("single-modal", "cross-modal")
}


def write_run(folder: Path, data: dict) -> str:
    """A pre-training run of random weights that says which data it was trained on."""
    settings = ModelSettings("tiny", **SIZES)
    torch.manual_seed(0)
    model = build(settings)
    state = {"settings": {"model": to_dict(settings), "data": data}, "elapsed": 1.0, "ema": False}
    checkpoint.save(folder / "checkpoints", 5, {"model": dict(model.named_parameters())}, state)
    return str(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "world"
    counts = {"pairs": 16, "images": 0, "texts": 0, "heldout": 5, "compositional": 0, "classes": 0}
    write_world(folder, **counts, size=16)
    return folder


@pytest.fixture(scope="module")
def start(world, tmp_path_factory) -> str:
    return write_run(tmp_path_factory.mktemp("start") / "run", {"pairs": [str(world / "pairs")]})


@pytest.fixture(scope="module")
def made(start, tmp_path_factory) -> tuple[Path, dict]:
    """All of the generated world's plan, with every task from random weights too."""
    out = tmp_path_factory.mktemp("made") / "out"
    return out, Q.run_suite(start, "scenes", out, random=True, assignments=FAST, say=quiet)


def test_every_task_of_all_four_groups_is_trained_and_marked(made):
    out, whole = made
    assert {row["group"] for row in whole["tasks"]} == GROUPS and not whole["missing"]
    tuned = [row for row in whole["tasks"] if row["folder"] != PRETRAINED]
    assert {row["task"] for row in tuned} == {
        "text entailment", "question generation", "vqa", "entailment", "retrieval", "captions",
    }  # fmt: skip
    for row in tuned:
        assert row["split"] == "test" and row["score"]["low"] <= row["score"]["value"] <= row["score"]["high"]
        baseline = "before fine-tuning" if row["task"] == "retrieval" else "nearest training row"
        assert baseline in row["baselines"] and row["from_random"]["n"] == row["score"]["n"]
    assert any(row["task"].startswith("Retrieval") for row in whole["tasks"])  # zero-shot
    assert json.loads((out / "benchmark.json").read_text()) == whole
    for row in tuned:  # paired over the same rows, but for a mean of correlations
        expected = row["score"]["value"] - row["from_random"]["value"]
        assert row["difference"]["value"] == pytest.approx(expected)
    alone = next(
        row["score"] for row in report_of(out / "vqa") if row["task"].endswith(", test") and row["metric"] == "accuracy"
    )
    assert next(row["score"] for row in tuned if row["task"] == "vqa") == alone


def test_retrieval_stands_beside_chance_and_the_model_as_it_was(made):
    out, whole = made
    rows = [row for row in whole["tasks"] if row["folder"] == "retrieval"]
    assert {row["metric"] for row in rows} == {
        f"{way} R@{k}" for way in ("image to text", "text to image") for k in (1, 5, 10)
    }
    assert {row["group"] for row in rows} == {"understanding, cross-modal"}
    zero_shot = {
        row["metric"]: row["score"] for row in report_of(out / "pretrained") if row["task"].startswith("Retriev")
    }
    for row in rows:
        k = int(row["metric"].partition("@")[2])
        assert row["score"]["n"] == 5 and row["score"]["chance"] == pytest.approx(min(1.0, k / 5))  # held-out scenes
        # The same model, images and captions were scored zero-shot: more than five are in no shortlist's way.
        assert row["baselines"]["before fine-tuning"]["value"] == zero_shot[f"{row['metric']}, re-ranked"]["value"]
    assert all("before fine-tuning" not in row["metric"] for row in report_of(out / "retrieval-random"))


def report_of(folder: Path) -> list[dict]:
    return json.loads((folder / "evaluation.json").read_text())["scores"]


def test_what_every_row_adds_to_a_score_is_kept(made):
    out, _ = made
    found = 0
    for task in ("vqa", "captions", "retrieval", "text entailment", "vqa-random"):
        sums = read_sums(out / task / "evaluation.npz")
        for row in report_of(out / task):
            if (kept := sums.get((row["task"], row["metric"]))) is not None:
                assert kept.combine(kept.sums.sum(0, keepdims=True))[0] == pytest.approx(row["score"]["value"])
                found += 1
    assert found > 20 and {"BLEU-4", "cider_d"} <= {metric for _, metric in read_sums(out / "captions/evaluation.npz")}


def test_what_was_forgotten_is_the_paired_difference_of_two_reports(made):
    out, whole = made
    before, after = report_of(out / "pretrained"), report_of(out / "captions/abilities")
    rows = [row for row in whole["forgetting"] if row["task"] == "captions"]
    assert [row["ability"] for row in rows] == [f"{row['task']}: {row['metric']}" for row in before]
    for row, was, now in zip(rows, before, after):
        assert (row["before"], row["after"]) == (was["score"], now["score"])
        found = row["difference"]
        assert found["value"] == was["score"]["value"] - now["score"]["value"]
        assert found["low"] - 1e-9 <= found["value"] <= found["high"] + 1e-9
    assert {row["task"] for row in whole["forgetting"]} == {row["task"] for row in whole["tasks"]} - {
        row["task"] for row in before
    }


def test_the_page_holds_the_table_and_asks_for_nothing_outside(made):
    page = (made[0] / "benchmark.html").read_text()
    assert "Benchmark suite" in page and "Forgetting" in page and "question generation" in page
    assert "6 tasks fine-tuned from" in page and "beside random weights: " in page  # the lead
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page
    for task in ("vqa", "captions", "text entailment"):
        shown = json.loads((made[0] / task / "examples.json").read_text())
        assert f"{task}, test: rows at random" in page and len(shown["items"]) >= 5
        lines = (made[0] / task / "predictions-test.jsonl").read_text().splitlines()
        predicted = {row["id"]: row["prediction"] for row in map(json.loads, lines)}
        for item in shown["items"]:
            assert escape(item["answer"]) in page and escape(item["right"]) in page
            assert item["answer"].startswith(predicted[item["id"]][:100])
        assert all(("image" in item) == (task != "text entailment") for item in shown["items"])
        assert all(("attention" in item) == (task == "vqa") for item in shown["items"])  # captions: word by word


def test_what_is_finished_is_not_made_again_and_other_settings_are_refused(made, start, monkeypatch):
    out, whole = made
    monkeypatch.setattr(Q, "finetune", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(Q, "evaluate", lambda *_, **__: pytest.fail("scored again"))
    again = Q.run_suite(start, "scenes", out, random=True, assignments=FAST, say=quiet)
    assert again["tasks"] == whole["tasks"] and again["forgetting"] == whole["forgetting"]
    with pytest.raises(UsageError, match="other settings"):
        Q.run_suite(start, "scenes", out, assignments=[*FAST, "seed=7"], say=quiet)


def opened(path: Path) -> Plan:
    plan = read_plan(path)
    check_plan(plan, TUNINGS, where=str(path))
    return plan


def texts(folder: Path, **changes) -> Entry:
    rows = [{"text": f"a {('good', 'bad')[i % 2]} film {i}", "label": ("yes", "no")[i % 2]} for i in range(8)]
    return Entry("classification", train=(write_csv(folder / "t.csv", rows),), dev=(str(folder / "t.csv"),), **changes)


def test_time_ends_and_what_was_not_begun_is_named(start, tmp_path, monkeypatch):
    plan = Plan((texts(tmp_path, name="one"), texts(tmp_path, name="two", time_weight=3.0)))
    now, begun = [0.0], {}
    monkeypatch.setattr(Q.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Q, "steps_within", lambda run, minutes: int(60 * minutes / 2))  # two seconds a step

    def takes_its_time(run, folder, **_):
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text('{"scores": []}')
        begun[folder.name] = run.steps
        assert run.minutes is None and run.epochs is None and run.patience == 0
        (folder / "log.jsonl").write_text(json.dumps({"step": run.steps - 1, "seconds": 2.0 * run.steps}) + "\n")
        now[0] += 2.0 * run.steps + 100  # scoring takes 100 seconds

    monkeypatch.setattr(Q, "finetune", takes_its_time)
    whole = Q.run_suite(start, plan, tmp_path / "out", minutes=4.0, say=quiet)
    assert begun == {"one": int((4 * 60 - 2 * Q.SCORING) / 4 / 2)}  # a quarter of what scoring leaves
    assert whole["missing"] == ["two"] and "not begun, the time was over: two" in whole["notes"]
    assert (tmp_path / "out/one" / Q.DONE).is_file()

    whole = Q.run_suite(start, plan, tmp_path / "out", minutes=4.0, say=quiet)  # started again, it goes on
    assert begun["two"] == int((4 * 60 - Q.SCORING) / 2) and not whole["missing"]

    whole = Q.run_suite(start, plan, tmp_path / "out", minutes=4.0, random=True, say=quiet)
    assert begun["one-random"] == begun["one"]  # as many steps as its partner
    # What "two" took is more than is left.
    assert whole["missing"] == ["two-random"] and "two-random" in whole["notes"][-1]
    with pytest.raises(UsageError, match="no time"):
        Q.run_suite(start, plan, tmp_path / "out", minutes=0, say=quiet)


def test_both_partners_have_the_same_steps_and_the_same_whole_schedule(start, tmp_path, monkeypatch):
    """Whatever the time allows and whatever the dev scores are: every rate of one is a rate of the other."""
    monkeypatch.setattr(Q, "steps_within", lambda run, minutes: 7)
    plan = Plan((texts(tmp_path, name="one", set=("batch_size=4", "precision=fp32", "log=none")),))
    Q.run_suite(start, plan, tmp_path / "out", minutes=1e6, random=True, say=quiet)
    rates = {}
    for name in ("one", "one-random"):
        records = list(read_log(tmp_path / "out" / name / "log.jsonl"))
        rates[name] = [record["lr"] for record in records]
        assert json.loads((tmp_path / "out" / name / "settings.json").read_text())["patience"] == 0
        facts = json.loads((tmp_path / "out" / name / "evaluation.json").read_text())["facts"]
        assert facts["steps"] == str(len(records)) and facts["best checkpoint"].startswith("step ")
    assert rates["one"] == rates["one-random"] and len(rates["one"]) == 7


def test_steps_that_fit_follow_from_what_a_step_takes(start, tmp_path, monkeypatch):
    run = Q.Job(texts(tmp_path)).settings(start, ["batch_size=4"])
    monkeypatch.setattr(Q, "train", lambda job, out, **_: out.mkdir())
    seconds = [9.0, 9.5, 10.0, 30.0, 30.5, 31.0]  # half a second each, but for two that wait for something
    monkeypatch.setattr(Q, "read_log", lambda path: [{"step": i, "seconds": s} for i, s in enumerate(seconds)])
    assert Q.steps_within(run, 1.0) == int(0.9 * 60 / 0.5)


def test_a_task_that_is_not_better_is_made_with_further_seeds(start, tmp_path, monkeypatch):
    plan = Plan(tuple(texts(tmp_path, name=name, set=("steps=5",)) for name in ("clear", "close")))
    made, values = [], {"clear": 0.9, "clear-random": 0.5, "close": 0.6, "close-random": 0.55}
    values |= {f"close-seed-{n}": 0.6 for n in (2, 3)} | {f"close-random-seed-{n}": 0.4 for n in (2, 3)}

    def scored(run, folder, **_):
        made.append((folder.name, run.seed, run.steps))
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text('{"step": 4, "seconds": 1.0}\n')
        value = values[folder.name]
        score = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 100}
        row = {"task": "classification, dev", "metric": "accuracy", "score": score, "unit": "%"}
        (folder / "evaluation.json").write_text(json.dumps({"scores": [row], "facts": {"steps": "5"}}))

    monkeypatch.setattr(Q, "finetune", scored)
    whole = Q.run_suite(start, plan, tmp_path / "out", random=True, seeds=3, say=quiet)
    assert made == [
        ("clear", 0, 5), ("close", 0, 5), ("clear-random", 0, 5), ("close-random", 0, 5),
        ("close-seed-2", 1, 5), ("close-random-seed-2", 1, 5), ("close-seed-3", 2, 5), ("close-random-seed-3", 2, 5),
    ]  # fmt: skip
    clear, close = whole["tasks"]
    assert clear["verdict"] == "better" and close["score"]["seeds"] == [0.6] * 3
    assert close["from_random"]["value"] == pytest.approx(0.45) and close["verdict"] == "no difference"
    with pytest.raises(UsageError, match="seeds are for tasks beside their partners"):
        Q.run_suite(start, plan, tmp_path / "other", seeds=3, say=quiet)
    with pytest.raises(UsageError, match="a comparison needs a number of steps"):
        Q.run_suite(start, plan, tmp_path / "other", assignments=["minutes=3"], say=quiet)


def test_a_plan_from_a_file_by_the_command_line(start, tmp_path):
    entry = texts(tmp_path)
    plan = {"tasks": [{"task": "sst2", "reader": "table", "train": list(entry.train), "dev": list(entry.dev)}]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    arguments = [start, "--plan", str(tmp_path / "plan.json"), "--out", str(tmp_path / "out")]
    arguments += [part for one in FAST for part in ("--set", one)]
    done = CliRunner().invoke(app, ["benchmark", *arguments])
    assert done.exit_code == 0, done.output or done.exception
    assert "sst2" in done.output and "UNIMO-2 accuracy 94.7 (dev)" in done.output
    whole = json.loads((tmp_path / "out/benchmark.json").read_text())
    assert [row["split"] for row in whole["tasks"]] == ["dev"] and not whole["forgetting"]
    assert any("forget" in note for note in whole["notes"])


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"task": "sst"}, "tasks[1].task"),
        ({"group": "both"}, "tasks[1].group"),
        ({"trian": []}, "tasks[1].trian"),
        ({"train": ["gone.csv"]}, "tasks[1].train"),
        ({"name": "first"}, "tasks[1].name"),
        ({"name": "a/b"}, "tasks[1].name"),
        ({"name": "pretrained"}, "tasks[1].name"),
        ({"time_weight": 0.0}, "tasks[1].time_weight"),
        ({"dev": []}, "tasks[1]"),
    ],
)
def test_a_wrong_plan_is_refused_where_it_is_wrong(change, where, tmp_path):
    good = {key: list(getattr(texts(tmp_path), key)) for key in ("train", "dev")}
    tasks = [{"task": "sst2", "name": "first", **good}, {"task": "sst2", **good, **change}]
    (tmp_path / "plan.json").write_text(json.dumps({"tasks": tasks}))
    with pytest.raises((UsageError, DataError)) as caught:
        opened(tmp_path / "plan.json")
    assert str(caught.value.where) == f"{tmp_path / 'plan.json'}, {where}"


def test_other_wrong_calls(start, world, tmp_path):
    for content in ("[]", '{"tasks": []}', '{"tasks": [], "task": 1}'):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(UsageError, match="not a plan"):
            opened(tmp_path / "plan.json")
    stranger = write_run(tmp_path / "stranger", {})
    with pytest.raises(UsageError, match="not trained on the generated world"):
        Q.run_suite(stranger, "scenes", tmp_path / "out", say=quiet)
    with pytest.raises(UnimoError):  # before anything is trained
        Q.run_suite(start, Plan((texts(tmp_path),)), tmp_path / "out", assignments=["sead=1"], say=quiet)
    empty = tmp_path / "empty"
    write_world(empty, pairs=4, images=0, texts=0, heldout=0, compositional=0, classes=0, size=16)
    with pytest.raises(DataError, match="no heldout"):
        scenes_plan(empty, tmp_path)


def test_the_rows_of_the_plan_of_scenes(world, tmp_path):
    plan = scenes_plan(world, tmp_path)
    rows = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.iterdir()}
    images = {split: {row["image"] for row in rows[f"vqa-{split}"]} for split in ("train", "dev", "test")}
    assert len(images["train"]) == 15 and len(images["dev"]) == 1 and not images["train"] & images["dev"]
    assert {key.partition("-")[0] for key in images["test"]} == {"heldout"} and len(images["test"]) == 5
    assert len(rows["question_generation-test"]) == 5 and all(
        row["target"] for row in rows["question_generation-train"]
    )
    for row in rows["texts-train"]:  # no image can be seen, by name or otherwise
        assert set(row) == {"id", "text", "text2", "label", "group"}
    assert not any(entry.images for entry in plan.entries if entry.group.endswith("single-modal"))
    row = json.loads((world / "qa/heldout.jsonl").read_text().splitlines()[0])
    assert row in rows["vqa-test"]


def test_published_numbers_belong_to_tasks_and_name_their_split():
    assert set(PUBLISHED) <= set(TUNINGS)
    for numbers in PUBLISHED.values():
        for one in numbers:
            assert one.split and one.source and len(one.value.split("/")) >= len(one.split.split("/"))
            assert all(0 < float(value) < 200 for value in one.value.split("/"))
