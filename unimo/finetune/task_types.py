"""The four task types, and how settings and a training split become one of them."""

from __future__ import annotations

from dataclasses import replace
from types import NoneType

import numpy as np

from unimo.errors import DataError, UsageError, did_you_mean
from unimo.finetune.classification import Classification, best_answer
from unimo.finetune.generation import Generation
from unimo.finetune.labels import answer_vocabulary, labels_of
from unimo.finetune.regression import Regression, numbers_of
from unimo.finetune.retrieval import Retrieval
from unimo.finetune.settings import Finetuning, fit_lengths
from unimo.finetune.split import Examples
from unimo.finetune.task_type import ReportRow, TaskType, check_rows
from unimo.metrics.rouge import scorer_class
from unimo.model.build import ModelSettings
from unimo.model.task_heads import HeadSettings, Reads

METRICS_OF = {
    "classification": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "retrieval": ("retrieval",),
    "generation": ("rouge_l", "bleu"),
}
ERRORS = ("squared_error",)  # metrics of which the smaller is the better
ALLOWED_METRICS = {  # the metrics that can score predictions of a type
    "classification": ("accuracy", "soft_accuracy", "f1", "matthews", "vqa_accuracy", "daquar_accuracy"),
    "regression": ("pearson", "spearman", "pearson_spearman", "squared_error"),
    "retrieval": ("retrieval",),
    "generation": (
        "bleu", "bleu_as_released", "captions", "rouge", "rouge_l", "cider_d",
        "squad_em", "squad_f1", "coqa_em", "coqa_f1",
    ),
}  # fmt: skip


def resolved(run: Finetuning, train: Examples) -> Finetuning:
    """The run with everything decided that depends on the training split: modalities, labels, head, lengths."""
    images, texts = any(row.image is not None for row in train.rows), any(row.texts for row in train.rows)
    _check_modalities(run, train, images=images, texts=texts)
    run = fit_lengths(run)
    answers = [row.target for row in train.rows if isinstance(row.target, dict)]
    soft = any(list(answer.values()) != [1.0] for answer in answers) if run.read.soft is None else run.read.soft
    read = replace(
        run.read,
        sees=images if run.read.sees is None else run.read.sees,
        soft=soft,
        unseen=run.read.unseen or ("wrong" if answers else "error"),
    )
    write = replace(
        run.write,
        sees=images if run.write.sees is None else run.write.sees,
        reads=texts if run.write.reads is None else run.write.reads,
    )
    if run.kind == "generation" and not (write.sees or write.reads):
        got = f"images: {'' if images else 'not '}in the rows, texts: {'' if texts else 'not '}in the rows"
        raise UsageError("nothing to write from", where="write.sees, write.reads", got=got, expected="one of them read")
    classifies = run.kind == "classification"
    if classifies and soft and not all(isinstance(row.target, (dict, NoneType)) for row in train.rows):
        what, do = "the rows have labels, not answers with scores", "--set read.soft=false, or none: as the rows are"
        raise UsageError(what, where="read.soft", got="true", do=do)
    metrics = run.metrics or (("soft_accuracy",) if classifies and soft else METRICS_OF[run.kind])
    run = replace(run, metrics=metrics, read=read, write=write)
    _check_metrics(run)
    return replace(run, model=_model_for(run, with_targets(run, train), texts))


def with_targets(run: Finetuning, examples: Examples) -> Examples:
    """The rows with the targets a resolved run learns: of several answers the best, where one class is predicted."""
    if run.kind != "classification" or run.read.soft:
        return examples
    rows = [replace(r, target=best_answer(r)) if isinstance(r.target, (dict, tuple)) else r for r in examples.rows]
    return replace(examples, rows=rows)


def task_type_of(run: Finetuning) -> TaskType:
    """The task type of a resolved run."""
    if run.kind == "retrieval":
        matches = run.model.member == "unimo-2" or bool(run.model.matching)
        return Retrieval(run.task, run.rank, run.model.member, matches, run.metrics)
    if run.kind == "generation":
        return Generation(run.task, run.write, bool(run.write.sees), bool(run.write.reads), run.metrics)
    head = run.model.head
    assert head is not None, "settings of a model without its task's head"
    sees = bool(run.read.sees) or head.reads != "text"
    if run.kind == "regression":
        return Regression(head, sees, run.metrics)
    unseen = run.read.unseen or "error"
    return Classification(head, sees, run.metrics, run.read.positive, run.read.texts, unseen)


def selection_score(task: TaskType, rows: list[ReportRow]) -> float:
    """The one number by which checkpoints are chosen, larger is better: the first score, an error below 0; of
    retrieval, the mean of both R@1."""
    chosen = [row for row in rows if str(row["metric"]).endswith("R@1")] if isinstance(task, Retrieval) else rows[:1]
    value = float(np.mean([row["score"].value for row in chosen]))
    return -value if task.metrics[0] in ERRORS else value


def _check_modalities(run: Finetuning, train: Examples, *, images: bool, texts: bool) -> None:
    """DataError where settings want images or texts that no training row has."""
    read, write = run.read, run.write
    head = run.kind in ("classification", "regression")
    for key, images_wanted, texts_wanted in (
        ("read.sees", head and read.sees, False),
        ("read.reads", head and read.reads in ("image", "both"), head and read.reads in ("text", "both")),
        ("write.sees", run.kind == "generation" and write.sees, False),
        ("write.reads", False, run.kind == "generation" and write.reads),
    ):
        if images_wanted and not images:
            check_rows(train, texts=False, images=True, what=run.task, key=key)
        if texts_wanted and not texts:
            check_rows(train, texts=True, images=False, what=run.task, key=key)


def _check_metrics(run: Finetuning) -> None:
    allowed = ALLOWED_METRICS[run.kind]
    for metric in run.metrics:
        if metric not in allowed:
            what, do = f"no such metric of {run.kind}", did_you_mean(metric, allowed)
            raise UsageError(what, where="metrics, kind", got=metric, expected=", ".join(allowed), do=do)
    if "rouge" in run.metrics:
        scorer_class()  # its library may be missing: found out now, not after hours of training


def _model_for(run: Finetuning, train: Examples, texts: bool) -> ModelSettings:
    """The settings of the model with the head that this task needs."""
    if run.kind in ("generation", "retrieval"):
        unimo = run.model.member == "unimo"
        fresh = run.kind == "retrieval" and unimo and (run.rank.fresh or not run.model.matching)
        dialogue = run.model.dialogue or (run.kind == "generation" and run.write.dialogue and unimo)
        return replace(run.model, head=None, matching=1 if fresh else run.model.matching, dialogue=dialogue)
    read, sees = run.read, bool(run.read.sees)
    if not texts and not sees:
        raise UsageError("rows with neither texts nor images", where=train.source, do="name their columns (--column)")
    auto: Reads = "both" if texts and sees else "text" if texts else "image"
    head = HeadSettings(
        task=run.task,
        kind="number" if run.kind == "regression" else "answers" if read.soft else "classes",
        labels=_labels(run, train),
        reads=auto if read.reads == "auto" else read.reads,
        fusion=read.fusion,
        hidden=read.hidden,
        activation=read.activation,
        dropout=read.dropout,
        max_length=read.max_length,
    )
    if run.kind == "regression" and read.standardise:
        numbers = numbers_of(train)
        head = replace(head, centre=float(numbers.mean()), spread=float(np.std(numbers)) or 1.0)
    return replace(run.model, head=head)


def _labels(run: Finetuning, train: Examples) -> tuple[str, ...]:
    if run.kind == "regression":
        return ()
    if run.read.soft:
        return tuple(sorted(answer_vocabulary(train, least=run.read.least, most=run.read.answers)))
    labels = tuple(labels_of(train))
    if len(labels) < 2:
        got, expected = f"{len(labels)} classes: {', '.join(labels)}", "at least two in the training split"
        do = "name the column of the labels (--column label=...)"
        raise DataError("nothing to choose from", where=train.source or train.name, got=got, expected=expected, do=do)
    if run.read.positive not in (None, *labels) and {"f1", "matthews"}.intersection(run.metrics):
        what, do = "no such class to look for", "--set read.positive=CLASS, or --set metrics=accuracy"
        expected = ", ".join(labels[:20])
        raise UsageError(what, where="read.positive", got=run.read.positive, expected=expected, do=do)
    return labels


__all__ = [
    "Classification", "Generation", "Regression", "Retrieval", "TaskType",
    "resolved", "selection_score", "task_type_of", "with_targets",
]  # fmt: skip
