"""A fine-tuned model scored on whole splits: predictions, scores beside baselines, and how they came about.

pipeline + rows -> predictions-SPLIT.jsonl, one line a row -> scores with intervals -> evaluation.json, report.html
                -> examples.json, rows at random and the worst errors of the last split with labels
                -> evaluation.npz, what each row adds to each score (`unimo.evaluation.item_sums`)
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unimo.config import to_dict
from unimo.disk import write_atomic
from unimo.errors import DataError, UnimoError
from unimo.evaluation import report
from unimo.evaluation.curves import curves
from unimo.evaluation.item_sums import FILE as SUMS
from unimo.evaluation.item_sums import write_sums
from unimo.evaluation.zero_shot.context import digest
from unimo.finetune.attention_maps import attention_map
from unimo.finetune.baselines import baselines
from unimo.finetune.example import Example
from unimo.finetune.head_task import HeadTask
from unimo.finetune.job import Task
from unimo.finetune.overlap import split_overlap
from unimo.finetune.qualitative_examples import FILE, chosen_examples, report_examples
from unimo.finetune.retrieval import pairs_per_pass
from unimo.finetune.settings import Finetuning
from unimo.finetune.split import Examples
from unimo.finetune.task_type import ReportRow, rows_per_pass
from unimo.finetune.task_types import Retrieval, TaskType, selection_score
from unimo.formats.json_values import to_json
from unimo.inference.model import Pipeline
from unimo.json_files import write_json
from unimo.train.provenance import call_facts, model_facts
from unimo.train.run_folder import read_log

BEFORE = "before fine-tuning"  # the baseline that is the model itself, as it was


@dataclass(frozen=True)
class Scored:
    """report: as in evaluation.json. selection: split -> the number by which checkpoints of its task are chosen."""

    report: dict[str, Any]
    selection: dict[str, float]


def score_task(
    job: Task,
    pipeline: Pipeline,
    out: Path,
    *,
    before: Pipeline | None = None,
    say: Callable[[str], None] = print,
    batch_size: int | None = None,
) -> Scored:
    """Predicts and scores every split but training; writes predictions, evaluation.json and report.html into `out`.

    before: the model that training started from, a baseline of what can be answered without training: retrieval by a
    matching head. batch_size: rows of a pass, see `unimo.finetune.task_type`. A split without labels is only predicted.
    """
    started = time.monotonic()
    run, task = job.settings, job.task_type
    scores: list[ReportRow] = []
    notes: list[str] = []
    selection: dict[str, float] = {}
    items: dict[str, str] = {}
    shown: list[dict[str, Any]] = []
    for name, examples in job.splits.items():
        if name == "train":
            continue
        rows = job.rows(name)
        predictions = task.predict(pipeline, rows, batch_size)
        write_predictions(out / f"predictions-{name}.jsonl", task, predictions, examples)
        items[f"items, {name}"] = f"{len(predictions)} predictions for {len(examples)} rows of {examples.source}"
        if not examples.labelled:
            notes.append(f"{name} has no labels: predictions only")
            continue
        look = partial(attention_map, task, pipeline, rows) if isinstance(task, HeadTask) and task.sees else None
        shown.append(chosen_examples(task, predictions, examples, seed=run.seed, look=look))
        own = task.score(predictions, examples, run.seed)
        selection[name] = selection_score(task, own)
        same_items = {"items": digest([row.id for row in examples.rows])}
        scores += [{**row, **same_items} for row in _named(own, name)]
        others = baselines(task, job.splits["train"], examples)
        if isinstance(task, Retrieval) and before is not None:
            if before.model.matching is None:
                notes.append(f"{name} was not scored {BEFORE}: the model had no matching head")
            else:
                others[BEFORE] = task.predict(before, rows, batch_size)
        for baseline, guesses in others.items():
            try:
                scores += _named(task.score(guesses, examples, run.seed), name, baseline)
            except DataError as fault:  # two texts too long to compare, of which the model wrote neither
                notes.append(f"{name}: the baseline '{baseline}' has no score: {fault.one_line()}")
        for twins in split_overlap(job.splits["train"], examples):
            seen = f"{twins.exact} exactly and {twins.near} nearly, of {twins.tested}"
            items[f"{twins.what} of {name} that are also in training"] = seen
    facts, length = _facts(run, pipeline, batch_size), _length(run, pipeline, out)
    log = out / "log.jsonl"
    whole = {
        "title": f"{run.task}: {out.resolve().name}",
        "summary": summary(run, facts | length),
        "facts": {**facts, **length, **items, "minutes scored": f"{(time.monotonic() - started) / 60:.2f}"},
        "scores": scores,
        "curves": curves(log) if log.is_file() else [],
        "examples": [one for part in shown for one in report_examples(run.task, part)],
        "notes": notes,
    }
    if shown:
        write_json(out / FILE, shown[-1])
    report.write_json(whole, out / "evaluation.json")
    write_sums(scores, out / SUMS)
    report.render(whole, out / "report.html")
    for note in notes:
        say(note)
    say(report.scores_table(whole))
    say(f"{out / 'evaluation.json'}  {out / 'report.html'}")
    return Scored(whole, selection)


def write_predictions(path: Path, task: TaskType, predictions: Sequence[Any], examples: Examples) -> None:
    """One JSON line for each row, in its order, with its id, and in `meta` what was kept of its columns.

    A row left out or answered twice is a fault of ours.
    """
    if len(predictions) != len(examples):
        raise UnimoError(
            "not one prediction for each row",
            where=path,
            got=f"{len(predictions)} predictions",
            expected=f"{len(examples)} rows",
            do="report this as a fault of unimo",
        )
    lines = [
        json.dumps({"id": row.id, **task.written(prediction), **_meta(row)}, ensure_ascii=False)
        for row, prediction in zip(examples.rows, predictions)
    ]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _meta(row: Example) -> dict[str, Any]:
    return {"meta": to_json(row.extra["meta"])} if "meta" in row.extra else {}


def _named(rows: Sequence[ReportRow], split: str, baseline: str | None = None) -> list[ReportRow]:
    rows = [{**row, "task": f"{row['task']}, {split}"} for row in rows]
    return [{**row, "metric": f"{row['metric']}, {baseline}", "baseline": True} for row in rows] if baseline else rows


def summary(run: Finetuning, facts: Mapping[str, str]) -> str:
    """What was trained on what for how long."""
    model = f"{run.kind}, {facts['parameters']} parameters from {facts['started from']}"
    trained = f"fine-tuned for {facts['minutes trained']} minutes, {facts['steps']} steps"
    return f"{model}, {trained}, on {', '.join(run.data.train)}."


def _facts(run: Finetuning, pipeline: Pipeline, batch_size: int | None) -> dict[str, str]:
    started = pipeline.facts.get("started", {})
    fresh: Counter[str] = Counter(name.partition(".")[0] for name in started.get("fresh", ()))
    found = {
        **call_facts(),
        **model_facts(pipeline),
        "started from": str(started.get("from") or "random weights"),
        "fresh tensors": ", ".join(f"{part} {count}" for part, count in fresh.items()) or "none, or all",
        "kind": run.kind,
        "seed": str(run.seed),
        "rows in a pass": str(rows_per_pass(pipeline, batch_size)),
        "chosen by": f"{run.metrics[0]} on dev; of equals the lower loss, then the later",
    }
    if run.kind == "retrieval":
        found["pairs in a pass"] = str(pairs_per_pass(batch_size))
    if run.kind == "generation":
        keys = ("num_beams", "length_penalty", "min_length", "max_length", "no_repeat_ngram_size", "end")
        found["decoding"] = ", ".join(f"{key} {value}" for key, value in to_dict(run.write).items() if key in keys)
    return found


def _length(run: Finetuning, pipeline: Pipeline, out: Path) -> dict[str, str]:
    """How long the run was, and where in it the checkpoint that answers lies."""
    facts = pipeline.facts
    last = {"step": facts["step"] - 1, "seconds": facts.get("elapsed", 0.0)}  # of a saved folder nothing else is known
    if (out / "log.jsonl").is_file():
        *_, last = read_log(out / "log.jsonl")
    found = {"steps": str(last["step"] + 1), "minutes trained": f"{last['seconds'] / 60:.1f}"}
    if facts.get("scores"):  # dev scores so far
        score, loss = next((score, loss) for step, score, loss, _ in facts["scores"] if step == facts["step"])
        named = ", ".join(f"{name} {x:.4g}" for name, x in ((run.metrics[0], score), ("loss", loss)) if x is not None)
        minutes = facts.get("elapsed", 0.0) / 60
        found["best checkpoint"] = f"step {facts['step']}, after {minutes:.1f} minutes: {named} on dev"
    return found
