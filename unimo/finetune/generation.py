"""Generation: a text is written after what is known, a source, an image, or both (spec unimo §6.4, §6.9, unimo2 §6.2).

Summaries, questions, answers in a dialogue, captions. Asked: every next token of the target, with label smoothing; the
known sees itself both ways, the target what is known and what it has written. Decoding is a beam search, or greedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder
from unimo.data.records import Record, dialogue_record, seq2seq_record
from unimo.errors import DataError
from unimo.finetune.baselines import nearest_rows
from unimo.finetune.batches import BYTES_PER_TOKEN, TaskRows
from unimo.finetune.settings import Writing
from unimo.finetune.split import Example, Examples
from unimo.finetune.task_type import (
    EXAMPLES,
    REQUEST,
    Row,
    check_rows,
    company,
    groups_of,
    images_of,
    in_passes,
    labelled,
    report_row,
    taken,
)
from unimo.inference import Pipeline
from unimo.metrics import METRICS
from unimo.metrics.intervals import Score
from unimo.metrics.tokenize import tokenize
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.objectives.objective import Part, predict_words
from unimo.tokenizer import Tokenizer

ON_WORDS = ("bleu", "rouge_l", "cider_d", "bleu_as_released")  # metrics of tokenized sentences
PARTS = {  # of a metric with several scores, those that are reported
    "bleu": ("BLEU-4",),
    "rouge": ("ROUGE-1", "ROUGE-2", "ROUGE-L"),
}


@dataclass(frozen=True)
class Generation:
    """settings: what is known, and decoding. sees: look at images. reads: read texts before."""

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
            raise DataError(
                "an empty target",
                where=examples.source or examples.name,
                got=f"{len(empty)} rows: {', '.join(empty[:5])}",
                expected="a text to be written in every row, or in none",
                do="leave these rows out",
            )

    # ---- asked ----------------------------------------------------------------------------------------------------

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
        max_length: dict[str, Any] = {
            "max_source_length": options.max_source_length,
            "max_target_length": options.max_target_length,
        }
        if options.dialogue:  # the first text is the passage
            passage = sources.pop(0) if len(sources) > 1 else None
            return dialogue_record(sources, written, passage=passage, where=example.id, **max_length)
        end = tokenizer.sep if options.end == "sep" else tokenizer.mask
        if not sources and written is None:  # an image alone: nothing is known in words
            return Record(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
        return seq2seq_record(sources, written, end=end, keep_end=options.keep_end, where=example.id, **max_length)

    def corrupt(self, builder: BatchBuilder) -> None:
        builder = taken(builder)
        for one in builder.examples:
            wanted = targets_of(one.example)
            record = self.record(one.example, wanted[one.target], builder.tokenizer)
            spoken = None
            if record.speakers is not None and record.turns is not None:
                spoken = (record.speakers, record.turns)
            text = builder.add_text(
                EXAMPLES, record.ids, role=record.roles, positions=record.positions, dialogue=spoken
            )
            places = np.arange(record.target_begins, len(record.ids) - 1)
            builder.add_targets("write", EXAMPLES, text, places, record.ids[places + 1])
        builder.extra[f"{EXAMPLES}.image"] = [one.image for one in builder.examples]

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        return {REQUEST: Request(images_of(batch) if self.sees else None, batch.texts_of(EXAMPLES))}

    def logits(self, model: Unified, batch: Batch, fused: dict[str, Fused]) -> Tensor:
        """(n, known words) at every place that is asked."""
        one = fused[REQUEST]
        return model.subset_logits(one.words(batch.targets["write"].rows, batch.texts), one.word_table).float()

    def loss_of(self, logits: Tensor, batch: Batch, model: Unified) -> tuple[Tensor, int]:
        labels = model.word_columns(batch.targets["write"].labels)
        smoothing = self.settings.smoothing
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing), len(labels)

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        asked = batch.targets["write"]
        return predict_words(model, fused[REQUEST], asked, batch, "write", self.weight, self.settings.smoothing)

    # ---- answered -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, pipeline: Pipeline, rows: TaskRows, batch_size: int | None = None) -> list[str]:
        options, found = self.settings, dict[int, str]()
        batch_size = company(pipeline, batch_size)
        end = pipeline.tokenizer.sep if options.end == "sep" else pipeline.tokenizer.mask
        for numbers in in_passes(rows, batch_size):
            examples = [rows.examples.rows[i] for i in numbers]
            images = [rows.seen(i) for i in numbers] if self.sees else None
            sources = [self.record(one, None, pipeline.tokenizer) for one in examples] if self.reads else None
            texts = pipeline.generate(
                sources,
                images,
                num_beams=options.num_beams,
                max_length=options.max_length,
                min_length=options.min_length,
                length_penalty=options.length_penalty,
                no_repeat_ngram_size=options.no_repeat_ngram_size,
                end=end,
                batch_size=batch_size,
            )
            found |= zip(numbers, texts)
        return [found[i] for i in range(len(rows))]

    def written(self, prediction: str) -> dict[str, Any]:
        return {"prediction": prediction}

    def baseline(self, train: Examples, examples: Examples) -> dict[str, list[str]]:
        """The target of the most similar training row."""
        near = nearest_rows(train, examples)
        if near is None:
            return {}
        return {"nearest training row": [targets_of(train.rows[i])[0] for i in near]}

    def score(self, predictions: Sequence[str], examples: Examples, seed: int = 0) -> list[Row]:
        here = labelled(examples)
        rows = [examples.rows[i] for i in here]
        said, wanted = [predictions[i] for i in here], [references_of(row) for row in rows]
        spoken, told = [tokenize(text) for text in said], [[tokenize(text) for text in texts] for texts in wanted]
        found = []
        for metric in self.metrics:
            function: Any = METRICS[metric]
            options: dict[str, Any] = {"groups": groups_of(rows)} if metric.startswith(("coqa", "squad")) else {}
            if metric == "rouge":  # what is not reported may be too much to compute
                options["kinds"] = PARTS[metric]
            given = (spoken, told) if metric in ON_WORDS else (said, wanted)
            score = function(*given, seed=seed, **options)
            if isinstance(score, Score):
                found.append(report_row(self.task, metric, score, "" if metric == "cider_d" else "%"))
            else:
                names = [name for name in PARTS.get(metric, tuple(score)) if name in score] or list(score)
                found += [report_row(self.task, name, score[name], "%") for name in names]
        return found


def targets_of(example: Example) -> tuple[str, ...]:
    """The texts a row may be answered with; () where it has no target."""
    target = example.target
    if target is None:
        return ()
    if isinstance(target, tuple):
        return target
    return tuple(target) if isinstance(target, dict) else (str(target),)


def references_of(example: Example) -> list[str]:
    """The target or targets, and what else the file gives to be marked against."""
    more = example.extra.get("references", ())
    return list(dict.fromkeys([*targets_of(example), *(str(one) for one in more)]))
