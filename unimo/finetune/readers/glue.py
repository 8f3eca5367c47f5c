"""GLUE as its own .tsv files lay it out (Wang et al., ICLR 2019): quotes are characters, lines are rows.

    SST-2   sentence, label                        MRPC  Quality, #1 ID, #2 ID, #1 String, #2 String
    MNLI    index, …, sentence1, sentence2, …, gold_label     m and mm are files of one layout; AX has no label
    STS-B   index, genre, …, sentence1, sentence2, score      0 to 5
    RTE     index, sentence1, sentence2, label     QNLI  index, question, sentence, label
    QQP     id, qid1, qid2, question1, question2, is_duplicate
    CoLA    no header: source, label, star, sentence; its test file has the header index, sentence

The same readers take .jsonl, .csv and .parquet files with these columns, and UNIMO's own text_a, text_b, label, qid.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from unimo.errors import DataError
from unimo.finetune.example import Found
from unimo.finetune.readers.entailment import UNDECIDED
from unimo.finetune.readers.files import form_of
from unimo.finetune.readers.layout import Layout, Names
from unimo.finetune.readers.raw import lines_of
from unimo.finetune.readers.tables import Given, read_table

_ID: Names = ("index", "id", "idx", "qid")
_FIRST: Names = ("sentence1", "premise", "text_a")
_SECOND: Names = ("sentence2", "hypothesis", "text_b")


def _pair(label: Names = ("label",), first: Names = _FIRST, second: Names = _SECOND, ids: Names = _ID) -> Layout:
    names = {"id": ids, "text": first, "text2": second, "label": label}
    return Layout(names, ("text", "text2"), "classification", dropped=UNDECIDED)


LAYOUTS: Mapping[str, Layout] = {
    "sst2": Layout({"id": _ID, "text": ("sentence", "text_a"), "label": ("label",)}, ("text",), "classification"),
    "mnli": _pair(("gold_label", "label")),
    "rte": _pair(),
    "mrpc": _pair(("Quality", "label"), ("#1 String", *_FIRST), ("#2 String", *_SECOND)),
    "qnli": _pair(first=("question", *_FIRST), second=("sentence", *_SECOND)),
    "qqp": _pair(("is_duplicate", "label"), ("question1", *_FIRST), ("question2", *_SECOND)),
    "stsb": Layout(
        {"id": _ID, "text": _FIRST, "text2": _SECOND, "score": ("score", "label")},
        ("text", "text2"),
        "regression",
        between=(0.0, 5.0),
    ),
}
COLA = Layout(
    {"id": _ID, "text": ("sentence", "text_a"), "label": ("label",)}, ("text",), "classification", extra=("source",)
)
COLA_COLUMNS = ("source", "label", "star", "sentence")


def read_cola(path: Path, *, fields: Given | None = None) -> Found:
    """CoLA: four columns without a header, or any table that has one."""
    header = COLA_COLUMNS if form_of(path) == "tsv" and _headless(path) else None
    yield from read_table(path, layout=COLA, fields=fields, header=header)


def _headless(path: Path) -> bool:
    first = next(islice(lines_of(path), 1), "")
    if isinstance(first, DataError):
        raise first
    fields = first.split("\t")
    return len(fields) == len(COLA_COLUMNS) and fields[1] in ("0", "1")


def readers() -> dict[str, partial]:
    named = {name: partial(read_table, layout=layout) for name, layout in LAYOUTS.items()}
    return {**named, "cola": partial(read_cola)}
