"""The .tsv files of UNIMO's release (spec unimo 6.11): raw text to classify, GPT-2 ids to write from.

classification   text_a, perhaps text_b, label, perhaps qid
generation       src, tgt, perhaps knowledge; each word a GPT-2 id or a special token such as [SEP]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from unimo.corpus.text import Row, checked_text
from unimo.data.records import read_field, read_turns
from unimo.errors import DataError
from unimo.finetune.example import Example, Found
from unimo.finetune.readers.files import rows_of
from unimo.finetune.readers.layout import Layout
from unimo.finetune.readers.tables import read_table
from unimo.tokenizer import Tokenizer

TEXTS = {"id": ("qid",), "text": ("text_a",), "text2": ("text_b",)}
CLASSES = Layout({**TEXTS, "label": ("label",)}, ("text",), "classification")
SCORES = Layout({**TEXTS, "score": ("label",)}, ("text",), "regression")


def read_released(path: Path, *, kind: str = "classification") -> Found:
    """text_a, text_b, label, qid. kind: classification, or regression (STS-B)."""
    yield from read_table(path, layout=SCORES if kind == "regression" else CLASSES)


def read_released_pieces(path: Path) -> Found:
    """src, tgt and knowledge, turned back into text: texts are the knowledge, then the parts of src between [SEP].

    Of CoQA that makes passage and turns, of question generation passage and answer, of summaries one document. An id is
    FILE:LINE. DataError rows: words that are neither ids nor special tokens, and a src without text.
    """
    tokenizer = Tokenizer.default()
    for row in rows_of(path, "tsv"):
        if isinstance(row, DataError):
            yield row
            continue
        try:
            yield _decoded(row, tokenizer)
        except DataError as error:
            yield error


def _decoded(row: Row, tokenizer: Tokenizer) -> Example:
    if "src" not in row.values:
        raise DataError("column is missing", where=row.where, got=", ".join(row.values), expected="src")
    parts = _texts(row, "src", tokenizer, read_turns)
    passage = _texts(row, "knowledge", tokenizer, _whole) if row.values.get("knowledge") else []
    target = _texts(row, "tgt", tokenizer, _whole) if row.values.get("tgt") else [None]
    return Example(row.where.replace(", line ", ":"), (*passage, *parts), None, target[0])


def _texts(row: Row, name: str, tokenizer: Tokenizer, split: Callable[..., list[np.ndarray]]) -> list[str]:
    where = f"{row.where}, field {name}"
    texts = [
        tokenizer.decode(ids).strip()
        for ids in split(checked_text(row.values[name], where, name), tokenizer, where=where)
    ]
    if not all(texts):
        raise DataError("text is empty", where=where, do="remove the row")
    return texts


def _whole(text: str, tokenizer: Tokenizer, *, where: str) -> list[np.ndarray]:
    return [read_field(text, tokenizer, where=where)]
