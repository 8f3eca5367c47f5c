"""What a kind of task is: an objective that is also answered and marked.

    corrupt, requests, loss     as every objective (`unimo.objectives.objective`), over a `TaskDraft`
    predict(pipeline, rows)     one prediction for every row of a split, in its order
    score(predictions, rows)    rows of a report, each with its interval

A kind is a frozen dataclass of settings and of what the training split taught (names of labels). Rows are answered
several in a pass, those of like length together. The last bits of a matrix product depend on its shape: where no bit of
an answer may depend on its company or its place, `together` is 1, and each row is read alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder
from unimo.errors import DataError, UsageError
from unimo.finetune.batches import IMAGES, Place, TaskBatchBuilder, TaskRows
from unimo.finetune.split import Example, Examples
from unimo.inference import Pipeline
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.objectives.objective import Part

Row = dict[str, Any]  # of a report
EXAMPLES = "examples"  # group of the texts of a batch builder's rows
REQUEST = "task"  # name of the request of a batch builder's rows
BATCH_SIZE = 32  # rows answered in one pass, if nobody says otherwise


class TaskType(Protocol):
    """parts, weight: as of objectives. metrics: what its predictions are marked by, checkpoints by the first. sees:
    whether images are looked at. each_target: every target of a row is learnt once an epoch."""

    each_target: ClassVar[bool]

    @property
    def parts(self) -> tuple[str, ...]: ...
    @property
    def weight(self) -> float: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def sees(self) -> bool: ...

    def check(self, examples: Examples) -> None: ...
    def corrupt(self, builder: BatchBuilder) -> None: ...
    def requests(self, model: Any, batch: Batch, towers: Towers) -> dict[str, Request]: ...
    def loss(self, model: Any, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]: ...
    def predict(self, pipeline: Pipeline, rows: TaskRows, batch_size: int | None = None) -> list[Any]: ...
    def baseline(self, train: Examples, examples: Examples) -> dict[str, list[Any]]: ...
    def score(self, predictions: Sequence[Any], examples: Examples, seed: int = 0) -> list[Row]: ...
    def written(self, prediction: Any) -> dict[str, Any]: ...


def taken(builder: BatchBuilder) -> TaskBatchBuilder:
    """The batch builder of a task; those of pre-training have no rows of a split."""
    assert isinstance(builder, TaskBatchBuilder), "a task needs the batch builder of a TaskStream"
    return builder


def images_of(batch: Batch) -> Tensor | None:
    """(n,) the image of each row of a batch, -1 where it has none; None where no row has one."""
    number = batch.extra[f"{EXAMPLES}.image"]
    if IMAGES not in batch.image_groups:
        return None
    return torch.where(number >= 0, number + batch.image_groups[IMAGES][0], number)


def company(pipeline: Pipeline, batch_size: int | None) -> int:
    """Rows of a pass. None: TOGETHER; 1 where padding has a say, as in UNIMO-2's release."""
    if batch_size is None:
        return 1 if pipeline.encoder.batch_dependent else BATCH_SIZE
    if batch_size < 1:
        raise UsageError("a pass holds at least one row", where="batch_size", got=batch_size, expected="1 or more")
    return batch_size


def in_passes(rows: TaskRows, batch_size: int) -> Iterator[list[int]]:
    """Numbers of all rows of a split, `batch_size` at a time, the shortest texts first."""
    lengths = [sum(map(len, row.texts)) for row in rows.examples.rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


@torch.inference_mode()
def answered(
    question: TaskType, pipeline: Pipeline, rows: TaskRows, numbers: Sequence[int]
) -> tuple[Batch, Towers, dict[str, Fused]]:
    """One forward pass over some rows, as in training but for its chance and its loss."""
    builder = rows.builder([Place(number, names=(0, number, 0)) for number in numbers])
    question.corrupt(builder)
    batch = builder.finish().to(pipeline.device)
    model: Unified = pipeline.model
    with precision_of(pipeline):
        towers = model.towers(batch)
        fused = model.fuse(towers, question.requests(model, batch, towers))
    return batch, towers, fused


def mean_loss(kind: TaskType, pipeline: Pipeline, rows: TaskRows, batch_size: int) -> float:
    """The training loss over the labelled rows of a split, without dropout; nan where none has a label.

    Of several targets of a row the first counts. A loss that depends on which rows share a pass (contrast) is that of
    passes of `batch_size` rows in the order of the split.
    """
    numbers = labelled(rows.examples).tolist()
    total, count = 0.0, 0
    for first in range(0, len(numbers), batch_size):
        batch, towers, fused = answered(kind, pipeline, rows, numbers[first : first + batch_size])
        with torch.inference_mode(), precision_of(pipeline):
            parts = kind.loss(pipeline.model, batch, towers, fused)
        n = len(batch.keys["examples"])
        total += n * sum(part.weight * float(part.total) / max(1, int(part.count)) for part in parts.values())
        count += n
    return total / count if count else float("nan")


def precision_of(pipeline: Pipeline) -> torch.autocast:
    """The precision in which a model answers, for everything that follows its last layer too."""
    return pipeline.encoder.autocast()


def labelled(examples: Examples) -> np.ndarray:
    """Numbers of the rows that have a target."""
    return np.array([i for i, row in enumerate(examples.rows) if row.target is not None], np.int64)


def groups_of(rows: Sequence[Example]) -> list[str] | None:
    """What rows are resampled by, for intervals: `group` where rows name one, else the image, else each alone."""
    if all("group" in row.extra for row in rows):
        return [str(row.extra["group"]) for row in rows]
    if all(row.image is not None for row in rows):
        return [str(row.image) for row in rows]
    return None


def check_rows(examples: Examples, *, texts: bool, images: bool, what: str, key: str = "") -> None:
    """DataError for the first rows without what the task reads; how many there are is told. key: the setting that asks
    for it, where one does."""
    for needed, missing, name, article in (
        (texts, [row.id for row in examples.rows if not any(text.strip() for text in row.texts)], "text", "a"),
        (images, [row.id for row in examples.rows if row.image is None], "image", "an"),
    ):
        if needed and missing:
            raise DataError(
                f"rows without {article} {name}",
                where="; ".join(filter(None, (key, str(examples.source or examples.name)))),
                got=f"{len(missing)} of {len(examples)}: {', '.join(missing[:5])}",
                expected=f"{article} {name} in every row of {what}",
                do=f"name its column (--column {name}=...), or leave the rows out",
            )


def check_texts(examples: Examples, wanted: int | None, what: str) -> None:
    """DataError where rows have another number of texts than the task takes."""
    wrong = [row.id for row in examples.rows if wanted is not None and len(row.texts) != wanted]
    if wrong:
        raise DataError(
            f"rows with another number of texts than {what} takes",
            where=f"read.texts; {examples.source or examples.name}",
            got=f"{len(wrong)} of {len(examples)}: {', '.join(wrong[:5])}",
            expected=f"{wanted} in every row",
            do="name the columns to be read (--column text=...); entailment by an image must not read its premise",
        )


def report_row(task: str, metric: str, score: Any, unit: str, note: str = "") -> Row:
    row = {"task": task, "metric": metric, "score": score, "unit": unit}
    return {**row, "note": note} if note else row
