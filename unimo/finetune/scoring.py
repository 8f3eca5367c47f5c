"""A fine-tuned model asked about whole splits: predictions, scores beside baselines, and how they came about.

pipeline + rows -> predictions-SPLIT.jsonl, one line a row -> scores with intervals -> evaluation.json, report.html
                -> examples.json, rows at random and the worst errors of the last split with labels
"""

from __future__ import annotations

import json
import shlex
import sys
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
from unimo.evaluation.evaluate import curves
from unimo.finetune.attention_maps import looked_at
from unimo.finetune.batches import TaskRows
from unimo.finetune.overlap import split_overlap
from unimo.finetune.qualitative_examples import FILE, chosen_examples, report_examples
from unimo.finetune.retrieval import pairs_of_a_pass
from unimo.finetune.settings import Finetuning
from unimo.finetune.split import Examples
from unimo.finetune.task_type import company
from unimo.finetune.task_types import Classification, Generation, Regression, Retrieval, TaskType, selection_score
from unimo.inference import Pipeline
from unimo.json_files import write_json
from unimo.machine import describe_machine
from unimo.train.provenance import commit, weights_hash
from unimo.train.run_folder import read_log

BEFORE = "before fine-tuning"  # the baseline that is the model itself, as it was


@dataclass(frozen=True)
class Split:
    examples: Examples
    rows: TaskRows


@dataclass(frozen=True)
class Scored:
    """report: as in evaluation.json. marks: split -> the number by which checkpoints of its task are chosen."""

    report: dict[str, Any]
    marks: dict[str, float]


def score_task(
    run: Finetuning,
    kind: TaskType,
    pipeline: Pipeline,
    splits: Mapping[str, Split],
    out: Path,
    *,
    train: Examples | None = None,
    before: Pipeline | None = None,
    say: Callable[[str], None] = print,
    batch_size: int | None = None,
) -> Scored:
    """Asks and scores every split; writes predictions, evaluation.json and report.html into `out`.

    train: the rows that baselines learn from, or None for no baselines. before: the model that training started from,
    a baseline of what can be answered without training: retrieval by a matching head. batch_size: rows of a pass, see
    `unimo.finetune.task_type`. A split without labels is only predicted.
    """
    started = time.monotonic()
    scores: list[dict[str, Any]] = []
    notes: list[str] = []
    marks: dict[str, float] = {}
    items: dict[str, str] = {}
    shown: list[dict[str, Any]] = []
    for name, split in splits.items():
        examples = split.examples
        predictions = kind.predict(pipeline, split.rows, batch_size)
        write_predictions(out / f"predictions-{name}.jsonl", kind, predictions, examples)
        items[f"items, {name}"] = f"{len(predictions)} predictions for {len(examples)} rows of {examples.source}"
        if not examples.labelled:
            notes.append(f"{name} has no labels: predictions only")
            say(notes[-1])
            continue
        headed = kind if isinstance(kind, (Classification, Regression)) and kind.sees else None
        look = None if headed is None else partial(looked_at, headed, pipeline, split.rows)
        shown.append(chosen_examples(kind, predictions, examples, seed=run.seed, look=look))
        own = kind.score(predictions, examples, run.seed)
        marks[name] = selection_score(kind, own)
        scores += _named(own, name)
        for told, guesses in (kind.baseline(train, examples) if train is not None else {}).items():
            try:
                scores += _named(kind.score(guesses, examples, run.seed), name, told)
            except DataError as fault:  # two texts too long to compare, of which the model wrote neither
                notes.append(f"{name}: the baseline '{told}' has no score: {fault.one_line()}")
                say(notes[-1])
        if isinstance(kind, Retrieval) and before is not None and before.model.matching is not None:
            untrained = kind.predict(before, split.rows, batch_size)
            scores += _named(kind.score(untrained, examples, run.seed), name, BEFORE)
        elif isinstance(kind, Retrieval) and before is not None:
            notes.append(f"{name} was not scored {BEFORE}: the model had no matching head")
        if train is not None:
            for twins in split_overlap(train, examples):
                seen = f"{twins.exact} exactly and {twins.near} nearly, of {twins.tested}"
                items[f"{twins.what} of {name} that are also in training"] = seen
    facts, length = _facts(run, kind, pipeline, batch_size), _length(run, pipeline, out)
    whole = {
        "title": f"{run.task}: {out.resolve().name}",
        "summary": _summary(run, length, facts),
        "facts": {
            **facts,
            **length,
            **items,
            "minutes marked": _minutes(started),
        },
        "scores": scores,
        "curves": curves(out / "log.jsonl") if (out / "log.jsonl").is_file() else [],
        "examples": [one for told in shown for one in report_examples(run.task, told)],
        "notes": notes,
    }
    if shown:
        write_json(out / FILE, shown[-1])
    report.write_json(whole, out / "evaluation.json")
    report.render(whole, out / "report.html")
    say(report.scores_table(whole))
    say(f"{out / 'evaluation.json'}  {out / 'report.html'}")
    return Scored(whole, marks)


def write_predictions(path: Path, kind: TaskType, predictions: Sequence[Any], examples: Examples) -> None:
    """One JSON line for each row, in its order, with its id. A row left out or answered twice is a fault of ours."""
    if len(predictions) != len(examples):
        raise UnimoError(
            "not one prediction for each row",
            where=path,
            got=f"{len(predictions)} predictions",
            expected=f"{len(examples)} rows",
            do="report this as a fault of unimo",
        )
    lines = [
        json.dumps({"id": row.id, **kind.written(prediction)}, ensure_ascii=False)
        for row, prediction in zip(examples.rows, predictions)
    ]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _named(rows: list[dict[str, Any]], split: str, baseline: str | None = None) -> list[dict[str, Any]]:
    suffix = f", {baseline}" if baseline else ""
    of_baseline = {"baseline": True} if baseline else {}
    return [
        {**row, "task": f"{row['task']}, {split}", "metric": f"{row['metric']}{suffix}", **of_baseline} for row in rows
    ]


def _summary(run: Finetuning, length: Mapping[str, str], facts: Mapping[str, str]) -> str:
    """What was trained on what for how long."""
    model = f"{run.kind}, {facts['parameters']} parameters from {facts['started from']}"
    trained = f"fine-tuned for {length['minutes trained']} minutes, {length['steps']} steps"
    return f"{model}, {trained}, on {', '.join(run.data.train)}."


def _facts(run: Finetuning, kind: TaskType, pipeline: Pipeline, batch_size: int | None) -> dict[str, str]:
    facts = pipeline.facts
    weights = "ema.safetensors" if facts.get("ema") else "model.safetensors"
    machine = describe_machine()
    started = facts.get("started", {})
    fresh: Counter[str] = Counter(name.partition(".")[0] for name in started.get("fresh", ()))
    found = {
        "command": shlex.join(sys.argv),
        "commit": commit() or "unknown (not a git checkout)",
        "checkpoint": f"{facts['path']}, step {facts['step']}",
        "checkpoint hash": f"{weights_hash(Path(facts['path']), weights)} ({weights})",
        "started from": str(started.get("from") or "random weights"),
        "fresh tensors": ", ".join(f"{part} {count}" for part, count in fresh.items()) or "none, or all",
        "kind": run.kind,
        "seed": str(run.seed),
        "read as": _layout(run, kind),
        "answered": _company(kind, pipeline, batch_size),
        "precision": str(pipeline.dtype).removeprefix("torch."),
        "chosen by": f"{run.metrics[0]} on dev; of equals the lower loss, then the later",
        "parameters": f"{sum(p.numel() for p in pipeline.model.parameters()):,}",
        "machine": ", ".join(f"{name} {value}" for name, value in machine.items()),
    }
    if isinstance(kind, Generation):
        wanted = ("num_beams", "length_penalty", "min_length", "max_length", "no_repeat_ngram_size", "end")
        decoding = {name: value for name, value in to_dict(run.write).items() if name in wanted}
        found["decoding"] = ", ".join(f"{name} {value}" for name, value in decoding.items())
    return found


def _length(run: Finetuning, pipeline: Pipeline, out: Path) -> dict[str, str]:
    """How long the run was, and where in it the checkpoint that answers lies."""
    facts = pipeline.facts
    made = {"step": facts["step"] - 1, "seconds": facts.get("elapsed", 0.0)}  # of a saved folder nothing else is known
    if (out / "log.jsonl").is_file():
        *_, made = read_log(out / "log.jsonl")
    marks = facts.get("marks", [])
    found = {"steps": str(made["step"] + 1), "minutes trained": f"{made['seconds'] / 60:.1f}"}
    if marks:
        _, score, loss, _ = next(one for one in marks if one[0] == facts["step"])
        told = ", ".join(f"{name} {x:.4g}" for name, x in ((run.metrics[0], score), ("loss", loss)) if x is not None)
        minutes = facts.get("elapsed", 0.0) / 60
        found["best checkpoint"] = f"step {facts['step']}, after {minutes:.1f} minutes: {told} on dev"
    return found


def _company(kind: TaskType, pipeline: Pipeline, batch_size: int | None) -> str:
    """How many rows share a pass: only alone are answers free of each other to the last bit."""
    what, n = (
        ("row", company(pipeline, batch_size))
        if not isinstance(kind, Retrieval)
        else ("pair", pairs_of_a_pass(batch_size))
    )
    return f"each {what} alone" if n == 1 else f"{n} {what}s in a pass"


def _layout(run: Finetuning, kind: TaskType) -> str:
    """What the model reads of a row, in the order in which it reads it."""
    seen = "image, then " if kind.sees else ""
    if run.kind == "generation":
        if not run.write.reads:
            return f"{seen}[CLS] target".strip()
        layout = "[CLS] passage [SEP] turn [SEP] ..." if run.write.dialogue else "[CLS] source [SEP] ..."
        return f"{seen}{layout}, up to {run.write.max_source_length} tokens each"
    if run.kind == "retrieval":
        return f"image, then [CLS] caption [SEP], up to {run.rank.max_length} tokens"
    assert run.model.head is not None
    if run.model.head.reads == "image":
        return "image alone"
    return f"{seen}[CLS] text [SEP] (second text [SEP]), up to {run.model.head.max_length} tokens"


def _minutes(started: float) -> str:
    return f"{(time.monotonic() - started) / 60:.2f}"
