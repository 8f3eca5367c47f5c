"""Generation: a text is written after a source, an image, or both (spec unimo §6.4, §6.9, unimo2 §6.2).

Summaries, questions, answers in a dialogue, captions. The target is every next token, with label smoothing; source and
image see themselves both ways, the target sees them and what is written so far. Decoding is a beam search, or greedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder
from unimo.data.records import Record, dialogue_record, seq2seq_record
from unimo.finetune.batches import BYTES_PER_TOKEN, TaskRows
from unimo.finetune.example import Example
from unimo.finetune.settings import Writing
from unimo.finetune.task_type import (
    EXAMPLES,
    REQUEST,
    ReportRow,
    RowTask,
    bad_rows,
    check_rows,
    groups_of,
    images_of,
    report_row,
    task_builder,
)
from unimo.metrics import METRICS
from unimo.metrics.intervals import Score
from unimo.metrics.tokenize import tokenize
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.objectives.objective import Part, predict_words
from unimo.tokenizer import Tokenizer

if TYPE_CHECKING:
    from unimo.finetune.split import Examples
    from unimo.inference.model import Pipeline

ON_WORDS = ("bleu", "rouge_l", "cider_d", "bleu_as_released")  # metrics of tokenized sentences
PARTS = {  # of a metric with several scores, those that are reported
    "bleu": ("BLEU-4",),
    "rouge": ("ROUGE-1", "ROUGE-2", "ROUGE-L"),
}


@dataclass(frozen=True)
class Generation(RowTask):
    """settings: layout of sources, and decoding. sees: read images. reads: read texts before writing."""

    task: str
    settings: Writing
    sees: bool
    reads: bool
    metrics: tuple[str, ...] = ("rouge_l",)
    weight: float = 1.0
    parts: tuple[str, ...] = ("write", "write.accuracy")
    each_target: ClassVar[bool] = True

    def check(self, examples: Examples) -> None:
        check_rows(examples, texts=self.reads, images=self.sees, what=self.task)
        empty = [row.id for row in examples.rows if any(not text.strip() for text in targets_of(row))]
        if empty:
            expected, do = "a text to be written in every row, or in none", "leave these rows out"
            raise bad_rows("an empty target", examples, empty, expected=expected, do=do)

    def record(self, example: Example, target: str | None, tokenizer: Tokenizer) -> Record:
        """The row as the published readers lay it out."""
        options = self.settings

        def ids(text: str, max_length: int) -> np.ndarray:
            return np.asarray(tokenizer.encode(text, max_bytes=BYTES_PER_TOKEN * max_length), np.int64)

        written = None if target is None else ids(target, options.max_target_length)
        sources = [ids(text, options.max_source_length) for text in (example.texts if self.reads else ())]
        if options.one_segment and len(sources) > 1:
            parts = [part for source in sources for part in ([tokenizer.sep], source)]
            sources = [np.concatenate(parts[1:]).astype(np.int64)]
        lengths: dict[str, Any] = {
            "max_source_length": options.max_source_length,
            "max_target_length": options.max_target_length,
        }
        if options.dialogue:  # the first text is the passage
            passage = sources.pop(0) if len(sources) > 1 else None
            return dialogue_record(sources, written, passage=passage, where=example.id, **lengths)
        if not sources and written is None:  # an image alone: nothing is known in words
            return Record(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
        end, keep_end = self.end(tokenizer), options.keep_end
        return seq2seq_record(sources, written, end=end, keep_end=keep_end, where=example.id, **lengths)

    def end(self, tokenizer: Tokenizer) -> int:
        """The token that ends a text."""
        return tokenizer.sep if self.settings.end == "sep" else tokenizer.mask

    def corrupt(self, builder: BatchBuilder) -> None:
        builder = task_builder(builder)
        for one in builder.examples:
            record = self.record(one.example, targets_of(one.example)[one.target], builder.tokenizer)
            dialogue = None
            if record.speakers is not None and record.turns is not None:
                dialogue = (record.speakers, record.turns)
            text = builder.add_text(
                EXAMPLES, record.ids, role=record.roles, positions=record.positions, dialogue=dialogue
            )
            places = np.arange(record.target_begins, len(record.ids) - 1)
            builder.add_targets("write", EXAMPLES, text, places, record.ids[places + 1])
        builder.extra[f"{EXAMPLES}.image"] = [one.image for one in builder.examples]

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        return {REQUEST: Request(images_of(batch) if self.sees else None, batch.texts_of(EXAMPLES))}

    def logits(self, model: Unified, batch: Batch, fused: dict[str, Fused]) -> Tensor:
        """(n, vocabulary subset) at every target position."""
        one = fused[REQUEST]
        return model.subset_logits(one.words(batch.targets["write"].host.rows, batch.texts), one.word_table()).float()

    def loss_of(self, logits: Tensor, batch: Batch, model: Unified) -> tuple[Tensor, int]:
        labels = model.word_columns(batch.targets["write"].labels)
        smoothing = self.settings.smoothing
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing), len(labels)

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        targets = batch.targets["write"]
        return predict_words(model, fused[REQUEST], targets, batch, "write", self.weight, self.settings.smoothing)

    def predict_rows(self, pipeline: Pipeline, rows: TaskRows, numbers: Sequence[int]) -> list[str]:
        options, examples = self.settings, [rows.examples.rows[i] for i in numbers]
        return pipeline.generate(
            [self.record(one, None, pipeline.tokenizer) for one in examples] if self.reads else None,
            [rows.seen(i) for i in numbers] if self.sees else None,
            num_beams=options.num_beams,
            max_length=options.max_length,
            min_length=options.min_length,
            length_penalty=options.length_penalty,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            end=self.end(pipeline.tokenizer),
            batch_size=len(numbers),
        )

    def metric_rows(self, metric: str, predicted: Sequence[Any], rows: Sequence[Example], seed: int) -> list[ReportRow]:
        references: list[Any] = [references_of(row) for row in rows]
        options: dict[str, Any] = {"groups": groups_of(rows)} if metric.startswith(("coqa", "squad")) else {}
        if metric == "rouge":  # what is not reported may be too much to compute
            options["kinds"] = PARTS[metric]
        if metric in ON_WORDS:
            predicted = [tokenize(text) for text in predicted]
            references = [[tokenize(text) for text in texts] for texts in references]
        function: Any = METRICS[metric]
        score = function(predicted, references, seed=seed, **options)
        if isinstance(score, Score):
            return [report_row(self.task, metric, score, "" if metric == "cider_d" else "%")]
        names = [name for name in PARTS.get(metric, tuple(score)) if name in score] or list(score)
        return [report_row(self.task, name, score[name], "%") for name in names]


def targets_of(example: Example) -> tuple[str, ...]:
    """The texts that a row may be answered with; () where it has no target."""
    target = example.target
    if target is None:
        return ()
    if isinstance(target, tuple):
        return target
    return tuple(target) if isinstance(target, dict) else (str(target),)


def references_of(example: Example) -> list[str]:
    """The target or targets, and further references of the file."""
    more = example.extra.get("references", ())
    return list(dict.fromkeys([*targets_of(example), *(str(one) for one in more)]))
