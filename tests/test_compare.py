"""Runs side by side: every score with its interval, and only the settings that differ."""

from __future__ import annotations

import json

import pytest

from unimo.compare import compare
from unimo.errors import DataError, UsageError


def run(folder, name, rate, value, extra=()):
    place = folder / name
    place.mkdir()
    scores = [{"task": "Retrieval", "metric": "R@1", "unit": "%", "score": {"value": value, "low": 0.1, "high": 0.9}}]
    scores += [{"task": task, "metric": "loss", "score": {"value": 1.25}} for task in extra]
    (place / "evaluation.json").write_text(json.dumps({"scores": scores}))
    settings = {"seed": len(name), "optimiser": {"rate": rate, "decay": "cosine"}}
    (place / "settings.json").write_text(json.dumps(settings))
    return place


def test_scores_and_differences(tmp_path):
    a, b = run(tmp_path, "with", 0.1, 0.5, ["Masked words"]), run(tmp_path, "without", 0.2, 0.25)
    page = compare([a, b])
    assert "| optimiser.rate | 0.1 | 0.2 |" in page and not any("decay" in line or "seed" in line for line in page)
    assert "| Retrieval: R@1 | 50.0 % [10.0, 90.0] | 25.0 % [10.0, 90.0] |" in page
    assert "| Masked words: loss | 1.250 | – |" in page
    assert not any("Masked" in line for line in compare([a, b], tasks=["retrieval"]))
    (b / "settings.json").unlink()
    assert not any("optimiser" in line for line in compare([a, b]))


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    a, b = run(tmp_path / "one", "scenes", 0.1, 0.5), run(tmp_path / "two", "scenes", 0.2, 0.25)
    assert compare([a, b])[0] == f"| setting | {a} | {b} |"


def test_what_is_no_run_is_refused(tmp_path):
    a = run(tmp_path, "a", 0.1, 0.5)
    with pytest.raises(UsageError, match="two or more"):
        compare([a])
    with pytest.raises(UsageError, match=r"evaluation\.json"):
        compare([a, tmp_path])
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(DataError, match="report"):
        compare([a, tmp_path])
