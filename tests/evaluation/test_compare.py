"""Runs side by side: every score with its interval, and only the settings that differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unimo.errors import DataError, UsageError
from unimo.evaluation.compare import compare, compare_tables

RESULTS = Path(__file__).parents[2] / "results"


def evaluated(folder: Path, name: str, settings: dict | None = None, **scores) -> Path:
    """A run whose report has these scores: metric -> (value, low, high), or a plain number."""
    (folder / name).mkdir(parents=True)
    rows = [
        {"task": "T", "metric": metric, "unit": "%", "score": score if not isinstance(score, tuple) else
         dict(zip(("value", "low", "high"), score))}
        for metric, score in scores.items()
    ]  # fmt: skip
    (folder / name / "evaluation.json").write_text(json.dumps({"title": name, "scores": rows}))
    if settings is not None:
        (folder / name / "settings.json").write_text(json.dumps(settings))
    return folder / name


def test_scores_and_differences(tmp_path):
    settings = [{"seed": seed, "optimizer": {"lr": lr, "decay": "cosine"}} for seed, lr in enumerate((0.1, 0.2))]
    a = evaluated(tmp_path, "with", settings[0], recall=(0.5, 0.1, 0.9), loss=1.25)
    b = evaluated(tmp_path, "without", settings[1], recall=(0.25, 0.1, 0.9))
    page = compare([a, b])
    assert "| optimizer.lr | 0.1 | 0.2 |" in page and not any("decay" in line or "seed" in line for line in page)
    assert "| T: recall | 50.0 % [10.0, 90.0] | 25.0 % [10.0, 90.0] | no difference |" in page
    assert "| T: loss | 125.0 % | – | – |" in page
    assert not any("T:" in line for line in compare([a, b], tasks=["retrieval"]))
    (b / "settings.json").unlink()
    assert not any("optimizer" in line for line in compare([a, b]))


def test_baselines_are_shown_on_wish(tmp_path):
    runs = [evaluated(tmp_path, name, recall=(0.5, 0.1, 0.9)) for name in "ab"]
    for run in runs:
        report = json.loads((run / "evaluation.json").read_text())
        report["scores"].append({**report["scores"][0], "metric": "recall, random weights", "baseline": True})
        (run / "evaluation.json").write_text(json.dumps(report))
    assert not any("random weights" in line for line in compare(runs))
    assert compare_tables(runs, baselines=True).scores[-1][0] == "T: recall, random weights"


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    a, b = (evaluated(tmp_path / folder, "scenes", acc=0.5) for folder in ("one", "two"))
    assert compare([a, b])[0] == f"| setting | {a} | {b} |"


def test_what_is_no_run_is_refused(tmp_path):
    a = evaluated(tmp_path, "a", acc=0.5)
    with pytest.raises(UsageError, match="two or more"):
        compare([a])
    with pytest.raises(UsageError, match=r"evaluation\.json"):
        compare([a, tmp_path])
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(DataError, match="report"):
        compare([a, tmp_path])


def said(page, metric):
    (line,) = [line for line in page if line.startswith(f"| T: {metric} |")]
    return line.split(" | ")[-1].removesuffix(" |")


def test_better_worse_and_no_difference_are_told(tmp_path):
    a = evaluated(tmp_path, "a", up=(0.2, 0.1, 0.3), down=(0.8, 0.7, 0.9), alike=(0.5, 0.4, 0.6), loss=(0.2, 0.1, 0.3))
    b = evaluated(tmp_path, "b", up=(0.8, 0.7, 0.9), down=(0.2, 0.1, 0.3), alike=(0.6, 0.5, 0.7), loss=(0.8, 0.7, 0.9))
    page = compare([a, b])
    told = {metric: said(page, metric) for metric in ("up", "down", "alike", "loss")}
    assert told == {"up": "better", "down": "worse", "alike": "no difference", "loss": "worse"}
    assert "| score | a | b | b is, beside a |" in page
    three = compare([a, b, a.with_name("a")])  # each is seen from the first
    assert any(line.startswith("| T: up |") and line.endswith("| better | no difference |") for line in three)


def test_case_compare_scenes_with_plain_numbers_of_the_dictionary(tmp_path):
    """`unimo compare scenes scenes`: dictionary scores are plain numbers, and there is a table all the same."""
    a = evaluated(tmp_path, "scenes", acc=(0.5, 0.4, 0.6), perplexity=13.25, gone=None)
    page = compare([a, a])
    assert any(line.startswith("| T: perplexity | 1325.0 % | 1325.0 % | – |") for line in page)
    assert any(line.startswith("| T: gone | undefined | undefined | – |") for line in page)
    assert said(page, "acc") == "no difference"


@pytest.mark.parametrize("name", sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.json")))
def test_every_report_that_is_kept_can_be_compared(name, tmp_path):
    report = json.loads((RESULTS / name).read_text())
    if not ({"scores", "tasks"} & set(report)):
        with pytest.raises(DataError, match="report"):
            compare([RESULTS / name, RESULTS / name])
        return
    (tmp_path / "run").mkdir()
    kept = "evaluation.json" if "scores" in report else "benchmark.json"
    (tmp_path / "run" / kept).write_text((RESULTS / name).read_text())
    page = compare([RESULTS / name, tmp_path / "run"])
    rows = page[next(i for i, line in enumerate(page) if line.startswith("| score |")) + 2 :]
    assert rows and all(row.endswith(("| no difference |", "| – |")) for row in rows)


def test_a_missing_report_is_named_with_the_command_that_makes_it(tmp_path):
    a = evaluated(tmp_path, "a", acc=0.5)
    for name, settings, command in (
        ("pretrained", {"objectives": {}}, "unimo evaluate"),
        ("tuned", {"task": "rte", "kind": "classification"}, "unimo finetune rte"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text(json.dumps(settings))
        with pytest.raises(UsageError, match=r"evaluation\.json") as fault:
            compare([a, tmp_path / name])
        assert command in str(fault.value)
    with pytest.raises(UsageError, match=r"did you mean .*tuned"):
        compare([a, tmp_path / "tunde"])
    (tmp_path / "pretrained" / "summary.json").write_text("{}")
    with pytest.raises(UsageError, match="a sweep"):
        compare([a, tmp_path / "pretrained"])


@pytest.mark.parametrize(
    "rows",
    [
        [None], [{"metric": "m", "score": 1}], [{"task": "t", "metric": 3, "score": 1}], [{"task": "t", "metric": "m"}],
        [{"task": "t", "metric": "m", "score": "high"}], [{"task": "t", "metric": "m", "score": {"value": [1]}}],
        [{"task": "t", "metric": "m", "score": True}], [{"task": "t", "metric": "m", "score": 1, "unit": 3}],
    ],
)  # fmt: skip
def test_a_foreign_report_is_refused_by_its_place(rows, tmp_path):
    a = evaluated(tmp_path, "a", acc=0.5)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/evaluation.json").write_text(json.dumps({"scores": rows}))
    with pytest.raises(DataError, match=r"scores\[0\]"):
        compare([a, tmp_path / "b"])
