"""Task type: an objective of training whose model also predicts, and whose predictions are scored.

    corrupt, requests, loss     as every objective (`unimo.objectives.objective`), over a `TaskBatchBuilder`
    predict(pipeline, rows)     one prediction for every row of a split, in its order
    score(predictions, rows)    rows of a report, each with its interval

A task type is a frozen dataclass of settings and of what the training split fixed (names of labels). Several rows share
a forward pass, those of like length together. The last bits of a matrix product depend on its shape: where no bit of a
prediction may depend on other rows, `batch_size` is 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder
from unimo.errors import DataError, UsageError
from unimo.finetune.batches import IMAGES, Place, TaskBatchBuilder, TaskRows
from unimo.finetune.example import Example
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.objectives.objective import Part

if TYPE_CHECKING:
    from unimo.finetune.split import Examples
    from unimo.inference.model import Pipeline

ReportRow = dict[str, Any]
EXAMPLES = "examples"  # group of the texts of a batch builder's rows
REQUEST = "task"  # name of the request of a batch builder's rows
BATCH_SIZE = 32  # rows of a forward pass, by default


class TaskType(ABC):
    """parts, trains, weight: as of objectives. metrics: what scores predictions, the first chooses checkpoints. sees:
    whether images are read. each_target: every target of a row is learnt once an epoch."""

    parts: tuple[str, ...]
    weight: float
    metrics: tuple[str, ...]
    sees: bool
    each_target: ClassVar[bool] = False

    @property
    def trains(self) -> tuple[str, ...]:
        """All that a task trains is in every step, but images that rows may lack."""
        return ("regions",) if self.sees else ()

    @abstractmethod
    def check(self, examples: Examples) -> None:
        """DataError for rows that cannot be read as this task, before a run begins."""

    @abstractmethod
    def corrupt(self, builder: BatchBuilder) -> None: ...

    @abstractmethod
    def requests(self, model: Any, batch: Batch, towers: Towers) -> dict[str, Request]: ...

    @abstractmethod
    def loss(self, model: Any, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]: ...

    @abstractmethod
    def predict(self, pipeline: Pipeline, rows: TaskRows, batch_size: int | None = None) -> list[Any]: ...

    @abstractmethod
    def score(self, predictions: Sequence[Any], examples: Examples, seed: int = 0) -> list[ReportRow]:
        """Every metric over the labelled rows."""

    def written(self, prediction: Any) -> dict[str, Any]:
        """A prediction as it stands in a file of predictions."""
        return {"prediction": prediction}


class RowTask(TaskType):
    """A task type whose predictions are made and scored row by row."""

    @abstractmethod
    def predict_rows(self, pipeline: Pipeline, rows: TaskRows, numbers: Sequence[int]) -> Sequence[Any]:
        """Predictions for some rows in one pass."""

    @abstractmethod
    def metric_rows(self, metric: str, predicted: Sequence[Any], rows: Sequence[Example], seed: int) -> list[ReportRow]:
        """The scores of one metric over rows that have a target."""

    @torch.inference_mode()
    def predict(self, pipeline: Pipeline, rows: TaskRows, batch_size: int | None = None) -> list[Any]:
        found: dict[int, Any] = {}
        for numbers in in_passes(rows, rows_per_pass(pipeline, batch_size)):
            found |= zip(numbers, self.predict_rows(pipeline, rows, numbers))
        return [found[i] for i in range(len(rows))]

    def score(self, predictions: Sequence[Any], examples: Examples, seed: int = 0) -> list[ReportRow]:
        numbers = labelled(examples)
        predicted, rows = [predictions[i] for i in numbers], [examples.rows[i] for i in numbers]
        return [row for metric in self.metrics for row in self.metric_rows(metric, predicted, rows, seed)]


def task_builder(builder: BatchBuilder) -> TaskBatchBuilder:
    """The batch builder of a task; those of pre-training have no rows of a split."""
    assert isinstance(builder, TaskBatchBuilder), "a task needs the batch builder of a TaskStream"
    return builder


def images_of(batch: Batch) -> Tensor | None:
    """(n,) the image of each row of a batch, -1 where it has none; None where no row has one."""
    number = batch.host.extra[f"{EXAMPLES}.image"]
    if IMAGES not in batch.image_groups:
        return None
    return torch.where(number >= 0, number + batch.image_groups[IMAGES][0], number)


def rows_per_pass(pipeline: Pipeline, batch_size: int | None) -> int:
    """None: BATCH_SIZE; 1 where padding has a say, as in UNIMO-2's release."""
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
def forward(
    task: TaskType, pipeline: Pipeline, rows: TaskRows, numbers: Sequence[int]
) -> tuple[Batch, Towers, dict[str, Fused]]:
    """One forward pass over some rows, as in training but without its random draws and its loss."""
    builder = rows.builder([Place(number, names=(0, number, 0)) for number in numbers])
    task.corrupt(builder)
    batch = builder.finish().to(pipeline.device)
    model: Unified = pipeline.model
    with precision_of(pipeline):
        towers = model.towers(batch)
        fused = model.fuse(towers, task.requests(model, batch, towers))
    return batch, towers, fused


def mean_loss(task: TaskType, pipeline: Pipeline, rows: TaskRows, batch_size: int) -> float:
    """The training loss over the labelled rows of a split, without dropout; nan where none has a label.

    Of several targets of a row the first counts. A loss that depends on which rows share a pass (contrast) is that of
    passes of `batch_size` rows in the order of the split.
    """
    numbers = labelled(rows.examples)
    total = 0.0
    for first in range(0, len(numbers), batch_size):
        some = numbers[first : first + batch_size]
        batch, towers, fused = forward(task, pipeline, rows, some)
        with torch.inference_mode(), precision_of(pipeline):
            parts = task.loss(pipeline.model, batch, towers, fused)
        mean = sum(part.weight * float(part.total) / max(1, int(part.count)) for part in parts.values())
        total += len(some) * mean
    return total / len(numbers) if numbers else float("nan")


def precision_of(pipeline: Pipeline) -> torch.autocast:
    """The precision in which a model predicts, for everything that follows its last layer too."""
    return pipeline.encoder.autocast()


def labelled(examples: Examples) -> list[int]:
    """Numbers of the rows that have a target."""
    return [i for i, row in enumerate(examples.rows) if row.target is not None]


def groups_of(rows: Sequence[Example]) -> list[str] | None:
    """What rows are resampled by, for intervals: `group` where rows name one, else the image, else each alone."""
    if all("group" in row.extra for row in rows):
        return [str(row.extra["group"]) for row in rows]
    if all(row.image is not None for row in rows):
        return [str(row.image) for row in rows]
    return None


def check_rows(examples: Examples, *, texts: bool, images: bool, what: str, key: str = "") -> None:
    """DataError for rows without what the task reads, with their number. key: the setting that needs it."""
    without_text = [row.id for row in examples.rows if texts and not any(text.strip() for text in row.texts)]
    without_image = [row.id for row in examples.rows if images and row.image is None]
    for ids, name, one in ((without_text, "text", "a text"), (without_image, "image", "an image")):
        if ids:
            do = f"name its column (--column {name}=...), or leave the rows out"
            expected = f"{one} in every row of {what}"
            raise bad_rows(f"rows without {one}", examples, ids, key=key, expected=expected, do=do)


def bad_rows(what: str, examples: Examples, ids: Sequence[str], *, key: str = "", expected: str, do: str) -> DataError:
    """The error that counts the rows with a fault and names the first of them."""
    where = "; ".join(filter(None, (key, str(examples.source or examples.name))))
    got = f"{len(ids)} of {len(examples)}: {', '.join(ids[:5])}"
    return DataError(what, where=where, got=got, expected=expected, do=do)


def report_row(task: str, metric: str, score: Any, unit: str, note: str = "") -> ReportRow:
    row = {"task": task, "metric": metric, "score": score, "unit": unit}
    return {**row, "note": note} if note else row
