"""What classification and regression share: rows read by the towers, and a head on the poolers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder
from unimo.data.segments import joined
from unimo.finetune.batches import TaskBatchBuilder, TaskRows
from unimo.finetune.task_type import (
    EXAMPLES,
    REQUEST,
    RowTask,
    check_rows,
    forward,
    images_of,
    precision_of,
    task_builder,
)
from unimo.model.task_heads import HeadSettings
from unimo.model.unified import Fused, Request, Towers, Unified

if TYPE_CHECKING:
    from unimo.finetune.split import Examples
    from unimo.inference.model import Pipeline


@dataclass(frozen=True)
class HeadTask(RowTask):
    """head: what the model reads, and the form of the answer. sees: read images."""

    head: HeadSettings
    sees: bool

    @property
    def reads_texts(self) -> bool:
        return self.head.reads != "image"

    def check(self, examples: Examples) -> None:
        needs_images = self.head.reads in ("image", "both")
        check_rows(examples, texts=self.reads_texts, images=needs_images, what=self.head.task)

    def read(self, builder: BatchBuilder) -> TaskBatchBuilder:
        """Adds the texts of every row to a batch, and the number of its image."""
        builder = task_builder(builder)
        for one in builder.examples if self.reads_texts else ():
            segments = [builder.ids(text, self.head.max_length) for text in one.example.texts]
            builder.add_text(EXAMPLES, joined(segments, self.head.max_length))
        builder.extra[f"{EXAMPLES}.image"] = [one.image for one in builder.examples]
        return builder

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        images = images_of(batch) if self.sees else None
        return {REQUEST: Request(images, batch.texts_of(EXAMPLES) if self.reads_texts else None)}

    def logits(self, model: Unified, batch: Batch, fused: dict[str, Fused]) -> Tensor:
        """(n, k) of the head, float32."""
        return model.task_logits(fused[REQUEST]).float()

    def predicted_logits(self, pipeline: Pipeline, rows: TaskRows, numbers: Sequence[int]) -> Tensor:
        batch, _, fused = forward(self, pipeline, rows, numbers)
        with precision_of(pipeline):
            return self.logits(pipeline.model, batch, fused)
