"""A campaign: runs of one ingredient each, pre-trained, fine-tuned and compared; broken off, gone on with, refused."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from tiny_run import write_tiny_world
from tiny_task import SIZES, write_csv
from typer.testing import CliRunner

from unimo.benchmark import campaign_run as C
from unimo.benchmark.campaign import INGREDIENTS, check_campaign, read_campaign, tasks_with_data
from unimo.benchmark.comparisons import Scored, rows_with_and_without
from unimo.benchmark.forest_plot import COLORS, forest_plot
from unimo.benchmark.statement import in_lines
from unimo.cli import app
from unimo.config.values import keys_of
from unimo.errors import DataError, UsageError
from unimo.evaluation.item_sums import ItemSums
from unimo.metrics.intervals import mean_of_sums
from unimo.train.settings import Run

EXAMPLE = Path(__file__).parents[2] / "examples/campaign.json"
SMALL = [f"model.{name}={value}" for name, value in SIZES.items() if not name.startswith(("region_", "depth"))]


def files(folder: Path, **changes) -> Path:
    """A campaign of two steps: pairs, and texts beside them, and random weights; one task of three without data."""
    world = write_tiny_world(folder / "world")
    rows = [{"text": f"a {('good', 'bad')[i % 2]} film {i}", "label": ("yes", "no")[i % 2]} for i in range(8)]
    table = write_csv(folder / "t.csv", rows)
    task = {"task": "classification", "train": [table], "dev": [table]}
    tasks = [{**task, "name": "films"}, {**task, "name": "books"}, {**task, "name": "gone", "dev": ["gone.csv"]}]
    abilities = {"pairs": [str(world / "pairs")], "tasks": ["retrieval"], "shortlist": 0}
    (folder / "plan.json").write_text(json.dumps({"tasks": tasks, "abilities": abilities}))
    campaign = {
        "recipe": "scenes", "steps": 2, "seeds": [1], "plan": str(folder / "plan.json"),
        "finetune": ["steps=2", "batch_size=4", "precision=fp32", "log=none"],
        "set": [*SMALL, f"data.pairs={world / 'pairs'}", "batch.pairs=4", "batch.text_tokens=64",
                "batch.passage_length=32", "precision=fp32", "log=none", "objectives.image_contrastive.weight=0"],
        "runs": [
            {"name": "pairs"},
            {"name": "texts", "against": "pairs", "adds": "texts", "set": [f"data.texts={world / 'texts'}"]},
            {"name": "random", "against": "texts", "removes": "pre-training"},
        ],
    }  # fmt: skip
    path = folder / "campaign.json"
    path.write_text(json.dumps({**campaign, **changes}))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """Broken off in the second run's fine-tuning, and started again from the command line."""
    folder = tmp_path_factory.mktemp("campaign")
    path, out = files(folder), folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        whole, left = C.Suite._run, [3]

        def runs_out(self, job, minutes):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            whole(self, job, minutes)

        patch.setattr(C.Suite, "_run", runs_out)
        with pytest.raises(KeyboardInterrupt):
            C.run_campaign(path, out, say=lambda _: None)
        patch.setattr(C.Suite, "_run", whole)
        assert json.loads((out / "campaign.json").read_text())["seeds"] == {"pairs": [1], "texts": [], "random": []}
        before = {one: one.stat().st_mtime_ns for one in out.rglob("checkpoints/*")}
        done = CliRunner().invoke(app, ["benchmark", "--campaign", str(path), "--out", str(out)])
        assert done.exit_code == 0, done.output or done.exception
        assert all(one.stat().st_mtime_ns == when for one, when in before.items())  # nothing was made again
    return path, out


def test_every_run_and_seed_is_compared_with_its_partner(made):
    whole = json.loads((made[1] / "campaign.json").read_text())
    assert whole["seeds"] == {name: [1] for name in ("pairs", "texts", "random")} and not whole["missing"]
    assert list(whole["without data"]) == ["gone"]
    rows = whole["comparisons"]
    ends = {(row["ingredient"], row["with"], row["without"]) for row in rows}
    assert ends == {("texts", "texts", "pairs"), ("pre-training", "texts", "random")}
    tuned = [row for row in rows if row["group"] != "zero-shot"]
    assert [row["task"] for row in tuned] == ["films", "books"] * 2
    assert all(row["p"] <= row["p_holm"] <= 1 and len(row["by_seed"]) == 1 for row in rows)
    assert any(row["task"].startswith("Retrieval") for row in rows if row["ingredient"] == "texts")
    assert not any(row["group"] == "zero-shot" for row in rows if row["ingredient"] == "pre-training")
    for row in tuned:
        own, other = (accuracy(made[1] / row[side] / "seed-1", row["task"]) for side in ("with", "without"))
        assert row["difference"]["value"] == pytest.approx(own - other, abs=1e-9)
        assert row["by_seed"] == pytest.approx([own - other], abs=1e-9)


def accuracy(folder: Path, task: str) -> float:
    """From the predictions themselves."""
    (path,) = folder.glob(f"{task}*/predictions-dev.jsonl")
    predicted = [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
    return float(np.mean([one == ("yes", "no")[i % 2] for i, one in enumerate(predicted)]))


def test_runs_that_are_compared_have_equal_settings_but_for_the_ingredient(made):
    out = made[1]
    pairs, texts = (json.loads((out / name / "seed-1/run/settings.json").read_text()) for name in ("pairs", "texts"))
    assert pairs["data"].pop("texts") != texts["data"].pop("texts") and pairs == texts
    tuned = [json.loads((out / name / "seed-1" / task / "settings.json").read_text()) for name, task in
             (("pairs", "films"), ("texts", "films"), ("random", "films-random"))]  # fmt: skip
    for one in tuned:
        assert one.pop("init_from") == (
            None if one is tuned[2] else f"{out}/{('pairs', 'texts')[one is tuned[1]]}/seed-1/run"
        )
    assert tuned[0]["seed"] == 1 and tuned[0]["steps"] == 2 and tuned[1] == tuned[0]


def test_the_statement_says_what_the_numbers_say(made):
    page, whole = (made[1] / "campaign.md").read_text(), json.loads((made[1] / "campaign.json").read_text())
    assert "## texts: texts beside pairs" in page and "## pre-training: texts beside random" in page
    assert "Tasks without data: gone (gone.csv)." in page and "Not finished" not in page
    assert "UNIMO base without texts" in page
    sections = {part.partition("\n")[0]: part.splitlines() for part in page.split("## ")}
    for row in whole["comparisons"]:
        lines = sections[f"{row['ingredient']}: {row['with']} beside {row['without']}"]
        (line,) = [one for one in lines if one.startswith(f"| {row['group']} | {row['task']} | {row['metric']} |")]
        assert line.endswith(f"| {row['p_holm']:.3f} | {row['verdict']} |")


def comparison(**values):
    row = {"group": "g", "metric": "accuracy", "unit": "%", "seeds": [0, 1], "ingredient": "texts", "with": "both",
           "without": "pairs", "p_holm": 0.5, "score_with": None, "score_without": None}  # fmt: skip
    return {**row, **values, "difference": {"value": values.pop("by"), "low": -0.1, "high": 0.2}}


MADE_UP = {
    "title": "made up",
    "comparisons": [
        comparison(task="films", by=0.1, verdict="better"),
        comparison(task="birds", by=-0.05, verdict="worse"),
        comparison(task="trees", by=0.01, verdict="no difference"),
        comparison(task="words", by=-0.02, verdict="better", metric="perplexity"),
        comparison(task="stars", by=0.0, verdict="no difference", ingredient="images"),
    ],
}


def test_an_ingredient_in_a_line_names_what_it_made_better_and_worse():
    texts, images = in_lines(MADE_UP)
    assert re.search(r"texts.*2 seeds.*better on films \+10.*, words .*worse on birds -5.*no difference on 1$", texts)
    assert images.endswith("better on none; worse on none; no difference on 1") and "images" in images


def test_the_plot_has_a_point_of_its_color_for_every_difference():
    pytest.importorskip("matplotlib")
    plot = forest_plot(MADE_UP).decode()
    points = re.findall(r'<use [^>]*style="fill: (#\w+); stroke: \1"', plot)
    wanted = [COLORS[row["verdict"]] for row in MADE_UP["comparisons"]]
    assert sorted(points) == sorted(wanted)
    assert all(row["task"] in plot for row in MADE_UP["comparisons"])
    assert forest_plot({"comparisons": [{**MADE_UP["comparisons"][0], "difference": None}]}) is None


def test_finished_runs_of_other_settings_are_refused(made):
    path, out = made
    values = json.loads(path.read_text())
    other = path.with_name("other.json")
    other.write_text(json.dumps({**values, "steps": 3}))
    with pytest.raises(UsageError, match="other settings"):
        C.run_campaign(other, out, say=lambda _: None)


# ---- what is compared


def result(seed: int, values: list[float], group: str = "g", task: str = "t", items: str = "same") -> Scored:
    sums = np.stack([np.array(values, float), np.ones(len(values))], axis=1)
    score = {"value": float(np.mean(values)), "low": 0.0, "high": 1.0, "n": len(values)}
    key = (group, task)
    return Scored(seed, {key: {"metric": "accuracy", "unit": "%", "score": score}},
                  {key: ItemSums(items, sums, mean_of_sums)})  # fmt: skip


def test_better_only_where_every_seed_says_so():
    right, wrong = [1.0] * 90 + [0.0] * 10, [1.0] * 50 + [0.0] * 50
    (row,) = rows_with_and_without(
        [result(0, right), result(1, right)], [result(0, wrong), result(1, wrong), result(2, right)]
    )
    assert row["verdict"] == "better" and row["seeds"] == [0, 1]
    assert row["difference"]["value"] == pytest.approx(0.4) and row["by_seed"] == pytest.approx([0.4, 0.4])
    (row,) = rows_with_and_without([result(0, wrong)], [result(0, right)])
    assert row["verdict"] == "worse"
    mixed = [1.0] * 49 + [0.0] * 51
    (row,) = rows_with_and_without([result(0, right), result(1, mixed)], [result(0, wrong), result(1, wrong)])
    assert row["p_holm"] < 0.05 and row["verdict"] == "no difference"
    (row,) = rows_with_and_without([result(0, right)], [result(0, wrong, items="others")])
    assert row["verdict"] == "unknown" and row["p"] is None and row["score_with"]["value"] == 0.9
    assert rows_with_and_without([result(0, right)], [result(1, wrong)]) == []  # no seed in common


def test_seeds_that_scored_other_items_are_pooled_each_beside_its_own_partner():
    right, wrong = [1.0] * 9 + [0.0], [1.0] * 30 + [0.0] * 30
    (row,) = rows_with_and_without(
        [result(0, right, items="a"), result(1, [1.0] * 60, items="b")],
        [result(0, [0.0] * 10, items="a"), result(1, wrong, items="b")],
    )
    assert row["difference"]["value"] == pytest.approx((9 + 30) / 70) and row["difference"]["n"] == 70
    assert row["by_seed"] == pytest.approx([0.9, 0.5]) and row["verdict"] == "better"


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"set": ["data.texts={texts}", "objectives.mlm.weight=0.25"]}, "more than texts.*mlm.weight: 0.5 and 0.25"),
        ({"adds": "images"}, "more than images.*data.texts"),
        ({"adds": "text"}, "no such ingredient"),
        ({"adds": ""}, "which ingredient"),
        ({"removes": "images"}, "which ingredient"),
        ({"set": []}, "no comparison.*the same settings"),
        ({"against": "pears"}, "stands before it.*pears"),
        ({"name": "pairs"}, "two runs of one name"),
        ({"name": "a/b"}, "not a name of a folder"),
        ({"set": ["data.text={texts}"]}, "data.text"),
        ({"set": ["data.texts=gone.jsonl"]}, "no such file.*gone.jsonl"),
        ({"stes": []}, "stes"),
    ],
)
def test_a_wrong_run_is_refused_before_anything_is_trained(change, message, tmp_path):
    path = files(tmp_path)
    values = json.loads(path.read_text())
    texts = str(tmp_path / "world/texts")
    values["runs"][1] |= {k: [s.format(texts=texts) for s in v] if k == "set" else v for k, v in change.items()}
    path.write_text(json.dumps(values))
    with pytest.raises((UsageError, DataError)) as caught:
        check_campaign(*read_campaign(path), where=str(path))
    assert re.search(message, " ".join(str(caught.value).split())), str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": []}, "not a campaign"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"seeds": []}, "seeds must differ"),
        ({"steps": 0}, "steps"),
        ({"recipe": "scene"}, "no such recipe"),
        ({"finetune": []}, "equal steps"),
        ({"plam": "x"}, "plam"),
    ],
)
def test_a_wrong_campaign_is_refused(change, message, tmp_path):
    path = files(tmp_path, **change)
    with pytest.raises(UsageError, match=message):
        campaign, runs = read_campaign(path)
        check_campaign(campaign, runs, where=str(path))
        tasks_with_data(campaign)


def test_the_example_is_a_campaign_of_every_ingredient(monkeypatch):
    monkeypatch.setattr("unimo.benchmark.campaign.matches", lambda path: [path])
    campaign, runs = read_campaign(EXAMPLE)
    check_campaign(campaign, runs, where=str(EXAMPLE))
    assert {part for run in runs for part in run.ingredient.split(" and ") if part} == set(INGREDIENTS)


def test_model_or_campaign(tmp_path):
    for arguments in ([], ["model", "--campaign", "c.json"], ["--campaign", "c.json", "--random"]):
        done = CliRunner().invoke(app, ["benchmark", "--out", str(tmp_path / "out"), *arguments])
        assert done.exit_code != 0 and isinstance(done.exception, (UsageError, SystemExit))


def test_ingredients_name_settings_that_there_are():
    for patterns in INGREDIENTS.values():
        for pattern in patterns:
            assert any(fnmatchcase(key, pattern) for key in keys_of(Run)), pattern
