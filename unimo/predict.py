"""Predictions of a fine-tuned model for new rows, labelled or not: one JSON line a row, ids kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unimo import answer
from unimo.config import from_dict
from unimo.data.ledger import Ledger
from unimo.errors import UsageError, WeightsError
from unimo.finetune import task_rows
from unimo.marking import write_predictions
from unimo.tasks.kinds import Classify, as_asked, question
from unimo.tasks.opening import open_rows
from unimo.tasks.settings import Finetuning


def predict(
    model: str | Path,
    data: Sequence[str],
    out: str | Path,
    *,
    images: Sequence[str] = (),
    regions: Sequence[str] = (),
    columns: Sequence[str] = (),
    together: int = 1,
    precision: str = "fp32",
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Reads rows as the model's own training rows were read, and writes a prediction for each into file `out`.

    Labels may be there or not. Returns score rows where they are, with labels that training did not have counted as
    wrong. together: rows that share a forward pass. Raises UsageError for a file that exists, and what reading raises.
    """
    out = Path(out)
    if out.exists():
        raise UsageError("the file exists", where=out, expected="a new name", do="choose another name, or remove it")
    if not out.parent.is_dir():  # found out now, not when all rows are answered
        raise UsageError("no such folder", where=out, got=out.parent, do="make it, or choose another --out")
    answerer = answer.load(model, precision=precision)
    run = task_settings(answerer)
    seen, named = tuple(regions) or run.data.regions, tuple(columns) or run.data.columns
    run = replace(run, data=replace(run.data, regions=seen, columns=named))
    kind = question(run)
    if isinstance(kind, Classify):
        kind = replace(kind, unseen="wrong")
    ledger = Ledger(out.with_name(f"{out.name}.bad.jsonl"))
    read = open_rows(run, list(data), "test", images=list(images) or list(run.data.images), ledger=ledger, say=say)
    examples = as_asked(run, read)
    kind.check(examples)
    predictions = kind.predict(answerer, task_rows(run, kind, examples), together)
    write_predictions(out, kind, predictions, examples)
    said = f"{len(predictions)} predictions for {ledger.offered} rows: {out}"
    say(said + (f"; {ledger.quarantined} bad rows have none, see {ledger.path}" if ledger.quarantined else ""))
    return kind.score(predictions, examples, run.seed) if examples.labelled else []


def task_settings(answerer: answer.Answerer) -> Finetuning:
    """The settings a model was fine-tuned with. WeightsError for a model that was not."""
    facts = answerer.facts
    settings = facts.get("run") or facts.get("settings") or {}
    if not isinstance(settings, dict) or "kind" not in settings:
        raise WeightsError(
            "not a fine-tuned model",
            where=facts.get("path"),
            expected="a run of `unimo finetune`",
            do="unimo finetune TASK --from this model",
        )
    return from_dict(Finetuning, settings)
