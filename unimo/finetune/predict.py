"""Predictions of a fine-tuned model for new rows, labelled or not: one JSON line a row, ids kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unimo.config import from_dict
from unimo.corpus.bad_samples import BadSamples
from unimo.errors import DataError, UsageError, WeightsError
from unimo.finetune.batches import Place, TaskRows
from unimo.finetune.data import open_rows
from unimo.finetune.job import task_rows
from unimo.finetune.scoring import write_predictions
from unimo.finetune.settings import Finetuning
from unimo.finetune.split import SHOWN, Examples
from unimo.finetune.task_type import ReportRow
from unimo.finetune.task_types import Classification, task_type_of, with_targets
from unimo.inference.model import Pipeline, load


def predict(
    model: str | Path,
    data: Sequence[str],
    out: str | Path,
    *,
    images: Sequence[str] = (),
    regions: Sequence[str] = (),
    columns: Sequence[str] = (),
    batch_size: int | None = None,
    precision: str = "fp32",
    strict: bool = False,
    say: Callable[[str], None] = print,
) -> list[ReportRow]:
    """Reads rows as the model's own training rows were read, and writes a prediction for each into file `out`.

    Labels may be there or not. Returns score rows where they are, with labels that training did not have counted as
    wrong. Rows that cannot be predicted, such as empty ones or those whose image is broken, are left out and named,
    here and in OUT.bad.jsonl; strict: they are an error. batch_size: rows that share a forward pass. Raises UsageError
    for a file that exists, and what reading raises.
    """
    out = Path(out)
    if out.exists():
        raise UsageError("the file exists", where=out, expected="a new name", do="choose another name, or remove it")
    if not out.parent.is_dir():  # found out now, not when all rows are predicted
        raise UsageError("no such folder", where=out, got=out.parent, do="make it, or choose another --out")
    pipeline = load(model, precision=precision)
    run = task_settings(pipeline)
    sources: dict[str, Any] = {"images": tuple(images), "regions": tuple(regions), "columns": tuple(columns)}
    run = replace(run, data=replace(run.data, **{name: given for name, given in sources.items() if given}))
    task = task_type_of(run)
    if isinstance(task, Classification):
        task = replace(task, unseen="wrong")
    bad_samples = BadSamples(out.with_name(f"{out.name}.bad.jsonl"))
    folders = list(run.data.images)
    read = open_rows(run, list(data), "test", images=folders, bad_samples=bad_samples, say=say, tolerant=True)
    examples = with_targets(run, read)
    task.check(examples)
    bad = list(read.first_bad)
    try:
        predictions = task.predict(pipeline, task_rows(run, task, examples), batch_size)
    except DataError:
        examples, broken = _readable(examples, task_rows(run, task, examples))
        if not broken or not len(examples):
            raise
        for key, error in broken:
            bad_samples.add(error, key=key, shard=examples.source)
        bad += [error for _, error in broken]
        predictions = task.predict(pipeline, task_rows(run, task, examples), batch_size)
    count = read.bad + len(read) - len(examples)
    if count and strict:
        raise DataError(
            "rows that cannot be predicted",
            where=examples.source,
            got=f"{count} of {count + len(examples)}; the first: {bad[0].one_line()}",
            expected="none (strict)",
            do=f"repair or remove the rows named in {bad_samples.path}, or leave strict out",
        )
    write_predictions(out, task, predictions, examples)
    named = f"; {count} bad rows have none, all are named in {bad_samples.path}:" if count else ""
    say(f"{len(predictions)} predictions for {len(predictions) + count} rows: {out}{named}")
    for error in bad[:SHOWN]:
        say(f"    {error.one_line()}")
    classes = {row.target for row in examples.rows if isinstance(row.target, str)}
    if isinstance(task, Classification) and classes and not classes & set(pipeline.labels):
        say(f"not scored: none of these labels was there in training: {', '.join(sorted(classes)[:5])}")
        return []
    return task.score(predictions, examples, run.seed) if examples.labelled else []


def _readable(examples: Examples, rows: TaskRows) -> tuple[Examples, list[tuple[str, DataError]]]:
    """The rows that can be read with their images, and what is wrong with the others, by id: read one by one, and
    only where reading many at once has failed."""
    kept, broken = [], list[tuple[str, DataError]]()
    for i, row in enumerate(examples.rows):
        try:
            rows.builder([Place(i)])
            kept.append(row)
        except DataError as error:
            broken.append((row.id, error))
    return replace(examples, rows=kept), broken


def task_settings(pipeline: Pipeline) -> Finetuning:
    """The settings a model was fine-tuned with. WeightsError for a model that was not."""
    facts = pipeline.facts
    settings = facts.get("run") or facts.get("settings") or {}
    if not isinstance(settings, dict) or "kind" not in settings:
        raise WeightsError(
            "not a fine-tuned model",
            where=facts.get("path"),
            expected="a run of `unimo finetune`",
            do="unimo finetune TASK --init-from this model",
        )
    return from_dict(Finetuning, settings)
