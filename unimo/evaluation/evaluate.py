"""One checkpoint, all tasks its data allow: scores with intervals, as JSON, as a page and in the terminal.

    checkpoint -> tasks (predict, score, show) -> report -> evaluation.json, evaluation.npz, report.html

Which tasks and which data: `unimo.evaluation.plan`. What cannot be scored is named among the notes with its reason,
never dropped silently.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unimo import inference
from unimo.config import check_settings, to_dict
from unimo.corpus.finding import Kind, find
from unimo.errors import UsageError, WeightsError
from unimo.evaluation import report
from unimo.evaluation.curves import curves
from unimo.evaluation.first_screen import image_examples
from unimo.evaluation.item_sums import FILE as SUMS
from unimo.evaluation.item_sums import write_sums
from unimo.evaluation.plan import EvaluationData, Planned, plan
from unimo.evaluation.untrained import baseline_rows, untrained
from unimo.evaluation.zero_shot.context import EvalContext, Row
from unimo.formats.columns import Fields
from unimo.machine import keep_freed_memory
from unimo.paths import missing_hint
from unimo.train.provenance import call_facts, model_facts
from unimo.train.run_folder import read_log

Say = Callable[[str], None]


def evaluate(
    path: str | Path,
    *,
    out: str | Path | None = None,
    data: EvaluationData | None = None,
    batch_size: int = 64,
    precision: str = "auto",
    device: str | None = None,
    minutes: float | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Scores the model of a run's folder (its best, else its newest good checkpoint) or of one checkpoint; returns the
    report.

    Writes evaluation.json, evaluation.npz and report.html into `out` (a run's own folder unless given). batch_size:
    images at a time; no score depends on it in fp32, while in bf16 two candidates that all but tie may
    change places. minutes: no task is begun after so long. Raises WeightsError, DataError and UsageError for
    what cannot be read or scored.
    """
    started = time.monotonic()
    data = data or EvaluationData()
    _check(path, data, minutes, batch_size)
    folder = _run_folder(Path(path))
    if out is None and folder is None:
        got, do = "a checkpoint outside a run", "name it with --out"
        raise UsageError("where should the report go?", where=path, got=got, do=do)
    out = Path(out or folder or "")
    keep_freed_memory()
    pipeline = inference.load(path, device=device, precision=precision)
    trained = _data_settings(pipeline)
    regions = data.regions or tuple(trained.get("regions", ()))
    context = EvalContext(pipeline, data.index_dir, regions=regions, batch_size=batch_size)
    context.fields = Fields.of(data.columns or trained.get("columns", ()))
    deadline = math.inf if minutes is None else started + 60 * minutes
    chosen = _chosen(pipeline)
    for note in chosen:
        say(note)
    found = _Found(untrained=_untrained(context, precision) if data.random_weights else None)
    options: dict[str, Any] = {
        "held_out": pipeline.facts.get("held_out"),
        "has_dictionary": pipeline.model.dictionary is not None,
    }
    tasks = plan(data, trained, **options)
    if "kind" in pipeline.facts.get("settings", {}) and not any(planned.task for planned in tasks):
        do = "give --pairs, --images or --texts; new rows of its task are scored by unimo predict"
        raise UsageError("a fine-tuned model, and nothing to score it on", where=path, got="no data", do=do)
    for number, planned in enumerate(tasks, 1):
        if planned.task:
            say(f"evaluating {number} of {len(tasks)}: {planned.task.title}")
        found.run(planned, context, deadline, say)
    log = folder / "log.jsonl" if folder is not None and (folder / "log.jsonl").is_file() else None
    whole = {
        "title": f"{(folder or Path(path)).resolve().name}: evaluation",
        "summary": _summary(pipeline, log),
        "facts": {
            **call_facts(),
            **model_facts(pipeline),
            **_evaluation_facts(pipeline, data, time.monotonic() - started, found.seconds),
            **{f"data, {name}": fingerprint for name, fingerprint in context.fingerprints.items()},
        },
        "scores": found.scores,
        "curves": curves(log) if log is not None else [],
        "examples": image_examples(found.predictions) + found.examples,
        "notes": [*found.notes, *_left_out(context), *chosen],
    }
    report.write_json(whole, out / "evaluation.json")
    write_sums(found.scores, out / SUMS)
    report.render(whole, out / "report.html")
    say(report.scores_table(whole))
    say(f"{out / 'evaluation.json'}  {out / 'report.html'}")
    return whole


def _check(path: str | Path, data: EvaluationData, minutes: float | None, batch_size: int) -> None:
    """Refuses now what would fail minutes later."""
    check_settings(data, cls=EvaluationData)
    if not Path(path).exists():
        expected, do = "a run's folder or one of its checkpoints", missing_hint(Path(path))
        raise WeightsError("no such checkpoint", where=path, expected=expected, do=do)
    if minutes is not None and not minutes >= 0:  # nan is neither
        raise UsageError("how many minutes?", where="minutes", got=minutes, expected="0 or more")
    if batch_size < 1:
        raise UsageError("a batch holds at least one image", where="batch_size", got=batch_size)
    kinds: tuple[Kind, ...] = ("pairs", "images", "texts")
    for kind in kinds:
        if getattr(data, kind):
            find(kind, getattr(data, kind))
    plan(data, {})


@dataclass
class _Found:
    """What the tasks of an evaluation gave, in their order. untrained: for the baseline of random weights."""

    scores: list[Row] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    untrained: EvalContext | None = None
    compared: set[type] = field(default_factory=set)

    def run(self, planned: Planned, context: EvalContext, deadline: float, say: Say) -> None:
        """One task, or a note why it is skipped: no data, or the time is over."""
        began = time.monotonic()
        reason = planned.reason or ("the minutes were over" if began > deadline else "")
        if reason:
            self.notes.append(f"{planned.name} skipped: {reason}")
            say(self.notes[-1])
            return
        self.predictions.append(planned.task.predict(context))
        self.scores += planned.task.score(self.predictions[-1])
        if self.untrained is not None and type(planned.task) not in self.compared:  # of each kind the first
            self.compared.add(type(planned.task))
            self.untrained.share(context)
            self.scores += baseline_rows(planned.task, self.untrained)
        self.examples += planned.task.show(self.predictions[-1])
        self.seconds[planned.task.title] = round(time.monotonic() - began, 1)
        say(f"{planned.task.title}: {self.seconds[planned.task.title]} s")


def _untrained(context: EvalContext, precision: str) -> EvalContext | None:
    """The same corpora, seen by the model as it was before training."""
    pipeline = untrained(context.pipeline, precision)
    return None if pipeline is None else replace(context, pipeline=pipeline, fingerprints={}, _kept={})


def _left_out(context: EvalContext) -> list[str]:
    bad = context.bad_samples
    reasons = bad.summary()["reasons"] if bad.quarantined else ""
    return [f"{bad.quarantined} of {bad.offered} samples are bad and were left out: {reasons}"] if reasons else []


def _run_folder(path: Path) -> Path | None:
    """The run a path belongs to: the folder itself, or the one whose checkpoint it is."""
    if (path / "checkpoints").is_dir():
        return path
    return path.parent.parent if path.parent.name in ("checkpoints", "best") else None


def _data_settings(pipeline: inference.Pipeline) -> Mapping[str, Any]:
    return pipeline.facts.get("settings", {}).get("data", {})


# ---- how the numbers came about


def _summary(pipeline: inference.Pipeline, log: Path | None) -> str:
    """What was trained on what for how long."""
    facts, data = pipeline.facts, _data_settings(pipeline)
    steps, seconds = facts["step"], facts.get("elapsed", math.nan)
    if log is not None:
        *_, last = [{}, *read_log(log)]
        steps, seconds = last.get("step", steps - 1) + 1, last.get("seconds", seconds)
    counts = {kind: f"{count:,} " for kind, count in facts.get("samples", {}).items()}
    kinds = [kind for kind in ("pairs", "images", "texts") if data.get(kind)]
    sources = [f"{counts.get(kind, '')}{kind} of {', '.join(data[kind])}" for kind in kinds]
    trained = f"trained for {seconds / 60:.1f} minutes, {steps:,} steps"
    parameters = sum(p.numel() for p in pipeline.model.parameters())
    return f"{parameters:,} parameters, {trained}, on {'; '.join(sources) or 'data it does not name'}."


def _chosen(pipeline: inference.Pipeline) -> list[str]:
    """A note on the checkpoint, where validation chose it."""
    scored = [score[0] for score in pipeline.facts.get("scores", ())]
    if "kind" in pipeline.facts.get("settings", {}) or pipeline.facts["step"] not in scored:
        return []
    step = f"step {pipeline.facts['step']:,} did best in validation and is scored here"
    return [f"{step}; on the data that chose it, its scores are a little too good"]


def _evaluation_facts(
    pipeline: inference.Pipeline, data: EvaluationData, elapsed: float, seconds: Mapping[str, float]
) -> dict[str, str]:
    given = {key: value for key, value in to_dict(data).items() if value != to_dict(EvaluationData())[key]}
    return {
        "seed of training": str(pipeline.facts.get("settings", {}).get("seed", "unknown")),
        "seed of evaluation": str(data.seed),
        "settings of evaluation": ", ".join(f"{key}={value}" for key, value in given.items()) or "as shipped",
        "minutes trained": f"{pipeline.facts.get('elapsed', math.nan) / 60:.1f}",
        "minutes evaluated": f"{elapsed / 60:.2f}",
        "seconds by task": ", ".join(f"{title} {spent}" for title, spent in seconds.items()),
    }
