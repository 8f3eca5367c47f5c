"""What stands beside a fine-tuned task's score: the model as it was, and examples of its answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_task import keys_of, quiet, tiny_run, write_images, write_jsonl, write_start

from unimo import inference
from unimo.corpus.bad_samples import BadSamples
from unimo.finetune.data import open_split
from unimo.finetune.finetune import finetune
from unimo.finetune.job import task_rows
from unimo.finetune.settings import TaskData
from unimo.finetune.task_types import task_type_of


def scored(tmp_path: Path, member: str, **changes):
    colours = write_images(tmp_path / "images", 6, regions=member == "unimo")
    keys = keys_of(tmp_path / "images")
    rows = [
        {"key": key, "image": key, "captions": [f"{c} number {i}"]} for i, (key, c) in enumerate(zip(keys, colours))
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    start = write_start(tmp_path / "start", member, **changes)
    data = TaskData(reader="captions", train=(path,), dev=(path,), images=(str(tmp_path / "images"),))
    run = tiny_run(start, "retrieval", data, "steps=3", "batch_size=4")
    return start, run, finetune(run, tmp_path / "out", say=quiet, zero_shot=True)


def test_retrieval_before_fine_tuning_is_the_start_models_own_answer(tmp_path):
    start, run, found = scored(tmp_path, "unimo-2")
    rows = {row["metric"]: row["score"] for row in found.report["scores"]}
    assert len(rows) == 12 and not found.report["notes"]
    pipeline = inference.load(start, precision="fp32")
    resolved = inference.load(tmp_path / "out", precision="fp32").facts["settings"]
    assert resolved["init_from"] == start
    examples = open_split(run, "dev", bad_samples=BadSamples(None), say=quiet)
    task = task_type_of(run)
    for row in task.score(task.predict(pipeline, task_rows(run, task, examples)), examples, run.seed):
        assert rows[f"{row['metric']}, before fine-tuning"] == row["score"]
    for name, score in rows.items():
        assert score.chance == pytest.approx(min(1.0, int(name.partition("@")[2].partition(",")[0]) / 6))
    shown = json.loads((tmp_path / "out/examples.json").read_text())
    lines = (tmp_path / "out/predictions-dev.jsonl").read_text().splitlines()
    first = {row["id"]: row["prediction"][0] for row in map(json.loads, lines)}
    assert shown["items"] and all(item["answer"] == first[item["id"]] for item in shown["items"])


def test_a_model_that_cannot_rank_untrained_is_named_not_dropped(tmp_path):
    _, _, found = scored(tmp_path, "unimo", matching=0)
    assert not any("before fine-tuning" in row["metric"] for row in found.report["scores"])
    assert "dev was not scored before fine-tuning: the model had no matching head" in found.report["notes"]
