"""The four kinds of tasks, and how settings and a training split become one of them."""

from __future__ import annotations

from dataclasses import replace
from types import NoneType

import numpy as np

from unimo.errors import DataError, UsageError, nearest
from unimo.finetune.classification import Classification, best_answer
from unimo.finetune.generation import Generation
from unimo.finetune.labels import answer_vocabulary, labels_of
from unimo.finetune.regression import Regression, numbers_of
from unimo.finetune.retrieval import Retrieval
from unimo.finetune.settings import Finetuning
from unimo.finetune.split import Examples
from unimo.finetune.task_type import Row, TaskType, check_rows, mean_loss
from unimo.metrics.rouge import scorer_class
from unimo.metrics.verdict import is_smaller_better
from unimo.model.build import ModelSettings
from unimo.model.task_heads import HeadSettings, Reads

METRICS_OF = {
    "classification": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "retrieval": ("retrieval",),
    "generation": ("rouge_l", "bleu"),
}
ALLOWED_METRICS = {  # the metrics that can mark a kind's predictions
    "classification": ("accuracy", "soft_accuracy", "f1", "matthews", "vqa_accuracy", "daquar_accuracy"),
    "regression": ("pearson", "spearman", "pearson_spearman", "squared_error"),
    "retrieval": ("retrieval",),
    "generation": (
        "bleu", "bleu_as_released", "captions", "rouge", "rouge_l", "cider_d",
        "squad_em", "squad_f1", "coqa_em", "coqa_f1",
    ),
}  # fmt: skip


def resolved(run: Finetuning, train: Examples) -> Finetuning:
    """The run with everything decided that depends on the training split: modalities, labels, head, lengths.

    A text cannot be longer than the model's table of positions: lengths beyond it are shortened to it.
    """
    max_length = run.model.positions - 2
    images, texts = any(row.image is not None for row in train.rows), any(row.texts for row in train.rows)
    read, write, rank = run.read, run.write, run.rank
    reading = run.kind in ("classification", "regression")
    for key, asked, there in (
        ("read.sees", reading and read.sees, "images"),
        ("read.reads", reading and read.reads in ("image", "both"), "images"),
        ("read.reads", reading and read.reads in ("text", "both"), "texts"),
        ("write.sees", run.kind == "generation" and write.sees, "images"),
        ("write.reads", run.kind == "generation" and write.reads, "texts"),
    ):
        if asked and not {"images": images, "texts": texts}[there]:
            check_rows(train, texts=there == "texts", images=there == "images", what=run.task, key=key)
    answers = any(isinstance(row.target, dict) for row in train.rows)
    several = any(isinstance(row.target, dict) and list(row.target.values()) != [1.0] for row in train.rows)
    soft = several if read.soft is None else read.soft
    run = replace(
        run,
        metrics=run.metrics or (("soft_accuracy",) if run.kind == "classification" and soft else METRICS_OF[run.kind]),
        read=replace(
            read,
            max_length=min(read.max_length, max_length),
            sees=images if read.sees is None else read.sees,
            soft=soft,
            unseen=read.unseen or ("wrong" if answers else "error"),
        ),
        write=replace(
            write,
            max_source_length=min(write.max_source_length, max_length),
            max_target_length=min(write.max_target_length, max_length),
            sees=images if write.sees is None else write.sees,
            reads=texts if write.reads is None else write.reads,
        ),
        rank=replace(rank, max_length=min(rank.max_length, max_length)),
    )
    if run.kind == "generation" and not (run.write.sees or run.write.reads):
        raise UsageError(
            "nothing to write from",
            where="write.sees, write.reads",
            got=f"images: {'' if images else 'not '}in the rows, texts: {'' if texts else 'not '}in the rows",
            expected="one of them read",
        )
    if (
        run.kind == "classification"
        and soft
        and not all(isinstance(row.target, (dict, NoneType)) for row in train.rows)
    ):
        raise UsageError(
            "the rows have labels, not answers with scores",
            where="read.soft",
            got="true",
            do="--set read.soft=false, or none: as the rows are",
        )
    for metric in run.metrics:
        if metric not in ALLOWED_METRICS[run.kind]:
            near = nearest(metric, ALLOWED_METRICS[run.kind])
            raise UsageError(
                f"no such metric of {run.kind}",
                where="metrics, kind",
                got=metric,
                expected=", ".join(ALLOWED_METRICS[run.kind]),
                do=f"did you mean {near}?" if near else None,
            )
        if metric == "rouge":
            scorer_class()
    return replace(run, model=_model_for(run, as_asked(run, train), texts))


def as_asked(run: Finetuning, examples: Examples) -> Examples:
    """The rows with targets as a resolved run learns them: where one class is asked, the best of several answers."""
    if run.kind != "classification" or run.read.soft:
        return examples
    rows = [replace(r, target=best_answer(r)) if isinstance(r.target, (dict, tuple)) else r for r in examples.rows]
    return replace(examples, rows=rows)


def question(run: Finetuning) -> TaskType:
    """The kind of a resolved run, as an objective."""
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


def selection_score(kind: TaskType, rows: list[Row]) -> float:
    """The one number by which checkpoints are chosen, larger is better: the first score, an error below 0; of
    retrieval, the mean of both R@1."""
    chosen = [row for row in rows if str(row["metric"]).endswith("R@1")] if isinstance(kind, Retrieval) else rows[:1]
    value = float(np.mean([row["score"].value for row in chosen]))
    return -value if is_smaller_better(kind.metrics[0]) else value


def _model_for(run: Finetuning, train: Examples, texts: bool) -> ModelSettings:
    """The settings of the model with the head that this task needs."""
    if run.kind in ("generation", "retrieval"):
        unimo = run.model.member == "unimo"
        fresh = run.kind == "retrieval" and unimo and (run.rank.fresh or not run.model.matching)
        dialogue = run.model.dialogue or (run.kind == "generation" and run.write.dialogue and unimo)
        return replace(run.model, head=None, matching=1 if fresh else run.model.matching, dialogue=dialogue)
    sees = bool(run.read.sees)
    if not texts and not sees:
        raise UsageError("rows with neither texts nor images", where=train.source, do="name their columns (--column)")
    auto: Reads = "both" if texts and sees else "text" if texts else "image"
    head = HeadSettings(
        task=run.task,
        kind="number" if run.kind == "regression" else "answers" if run.read.soft else "classes",
        labels=_labels(run, train),
        reads=auto if run.read.reads == "auto" else run.read.reads,
        fusion=run.read.fusion,
        hidden=run.read.hidden,
        activation=run.read.activation,
        dropout=run.read.dropout,
        max_length=run.read.max_length,
    )
    if run.kind == "regression" and run.read.standardise:
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
        raise DataError(
            "nothing to choose from",
            where=train.source or train.name,
            got=f"{len(labels)} classes: {', '.join(labels)}",
            expected="at least two in the training split",
            do="name the column of the labels (--column label=...)",
        )
    if run.read.positive not in (None, *labels) and {"f1", "matthews"}.intersection(run.metrics):
        raise UsageError(
            "no such class to look for",
            where="read.positive",
            got=run.read.positive,
            expected=", ".join(labels[:20]),
            do="--set read.positive=CLASS, or --set metrics=accuracy",
        )
    return labels


__all__ = [
    "Classification", "Generation", "Regression", "Retrieval", "TaskType",
    "as_asked", "mean_loss", "question", "resolved", "selection_score",
]  # fmt: skip
