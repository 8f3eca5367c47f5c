"""Readers of the public formats of tasks, and of a user's own files: path -> rows (see `unimo.finetune.split`).

    user's own      table csv tsv jsonl parquet · lines stories · folder images
    texts           sst2 mnli cola stsb rte mrpc qnli qqp · snli · sick · squad squad_sentences xquad · coqa · aeslc
                    dialogsum · released released_pieces
    released lines  released_captions · released_entailment
    with images   karpathy coco_captions captions · vqa questions · snli_ve visual_entailment · nlvr nlvr_json
    the made world  scenes_qa scenes_entailment

A new format is a function in a file here that yields examples and the errors of bad rows, and a line in READERS; a
table is a row of `layouts.LAYOUTS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from unimo.finetune.example import Found
from unimo.finetune.readers.coqa import read_coqa
from unimo.finetune.readers.images import NLVR, read_folder, read_images, read_questions
from unimo.finetune.readers.layouts import LAYOUTS, read_cola, read_karpathy, read_table
from unimo.finetune.readers.released import read_released_captions, read_released_entailment, read_released_pieces
from unimo.finetune.readers.squad import read_squad
from unimo.finetune.readers.text_files import read_lines, read_nlvr, read_stories
from unimo.finetune.readers.vqa import read_vqa
from unimo.formats.tables import FORMS


@dataclass(frozen=True)
class Reader:
    """A function from files, or from a corpus of images, to rows.

    files: names of the files it takes; a reader of one file takes several, one after the other. needed: how many of
    them must be given. options: names of its further settings.
    """

    read: Callable[..., Found]
    over: Literal["files", "images"] = "files"

    def __call__(self, *args, **options) -> Found:
        return self.read(*args, **options)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(p.name for p in self._parameters() if p.kind is p.POSITIONAL_OR_KEYWORD)

    @property
    def needed(self) -> int:
        return sum(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in self._parameters())

    @property
    def options(self) -> tuple[str, ...]:
        fixed = self.read.keywords if isinstance(self.read, partial) else {}
        return tuple(p.name for p in self._parameters() if p.kind is p.KEYWORD_ONLY and p.name not in fixed)

    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.read).parameters.values())


READERS: dict[str, Reader] = {
    "table": Reader(read_table),
    **{form: Reader(partial(read_table, form=form)) for form in FORMS},
    **{name: Reader(partial(read_table, layout=layout)) for name, layout in LAYOUTS.items()},
    "cola": Reader(read_cola),
    "lines": Reader(read_lines),
    "stories": Reader(read_stories),
    "folder": Reader(read_folder, "images"),
    "images": Reader(read_images, "images"),
    "questions": Reader(read_questions, "images"),
    "nlvr": Reader(partial(read_images, layout=NLVR), "images"),
    "nlvr_json": Reader(read_nlvr),
    "squad": Reader(read_squad),
    "coqa": Reader(read_coqa),
    "karpathy": Reader(read_karpathy),
    "vqa": Reader(read_vqa),
    "released_pieces": Reader(read_released_pieces),
    "released_captions": Reader(read_released_captions),
    "released_entailment": Reader(read_released_entailment),
}

__all__ = ["READERS", "Reader"]
