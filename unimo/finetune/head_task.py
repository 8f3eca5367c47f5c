"""What classification and regression share: rows read by the towers, and a head on the poolers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder
from unimo.data.segments import joined
from unimo.finetune.batches import TaskBatchBuilder
from unimo.finetune.split import Examples
from unimo.finetune.task_type import EXAMPLES, REQUEST, check_rows, images_of, taken
from unimo.model.task_heads import HeadSettings
from unimo.model.unified import Request, Towers, Unified


@dataclass(frozen=True)
class HeadTask:
    """head: what the model reads, and the form of the answer. sees: look at images."""

    head: HeadSettings
    sees: bool
    each_target: ClassVar[bool] = False

    @property
    def reads_texts(self) -> bool:
        return self.head.reads != "image"

    def check_inputs(self, examples: Examples) -> None:
        """Rows without what is read end a run before it begins."""
        needs_images = self.head.reads in ("image", "both")
        check_rows(examples, texts=self.reads_texts, images=needs_images, what=self.head.task)

    def read(self, builder: BatchBuilder) -> TaskBatchBuilder:
        """Adds the texts of every row to a batch, and the number of its image."""
        builder = taken(builder)
        for one in builder.examples:
            if self.reads_texts:
                segments = [builder.ids(text, self.head.max_length) for text in one.example.texts]
                builder.add_text(EXAMPLES, joined(segments, self.head.max_length))
        builder.extra[f"{EXAMPLES}.image"] = [one.image for one in builder.examples]
        return builder

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        images = images_of(batch) if self.sees else None
        return {REQUEST: Request(images, batch.texts_of(EXAMPLES) if self.reads_texts else None)}
