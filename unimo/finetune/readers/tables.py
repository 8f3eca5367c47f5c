"""Tables of any form (.csv, .tsv, .jsonl, .parquet): a user's own, and all published ones that are just tables.

The columns of a user's file are guessed by common names, and what was guessed is said; `fields` says it otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from unimo.corpus.finding import did_you_mean
from unimo.corpus.text import Row
from unimo.errors import DataError, UsageError
from unimo.finetune.example import Dropped, Found, Noted
from unimo.finetune.readers.files import rows_of
from unimo.finetune.readers.layout import TARGETS, Layout, TaskKind, example_of, find_columns, with_fields
from unimo.finetune.readers.raw import ends_the_file

Given = Mapping[str, str | Sequence[str] | None]  # part -> column or columns; None: no column, whatever is there
PEEKED = 100  # rows whose fields are looked at before columns are chosen: JSON lines need not all have the same

COMMON = Layout(
    names={
        "id": ("id", "idx", "index", "qid", "uid", "guid", "question_id", "pairID", "key"),
        "text": (
            "text", "sentence", "sentence1", "text_a", "premise", "passage", "context", "document", "article",
            "dialogue", "question", "src", "source", "input", "prompt", "review", "content", "query",
        ),
        "text2": ("text2", "sentence2", "text_b", "hypothesis", "question"),
        "image": ("image", "image_path", "image_file", "file_name", "filename", "img", "picture", "image_id"),
        "label": ("label", "label_name", "gold_label", "class", "category", "labels"),
        "answers": ("answers", "answer"),
        "score": ("score", "similarity", "relatedness", "rating"),
        "target": ("target", "tgt", "summary", "summaries", "highlights", "headline", "captions", "caption", "output",
                   "completion"),
        "group": ("group",),
    },
)  # fmt: skip


def read_table(
    path: Path,
    *,
    layout: Layout = COMMON,
    form: str | None = None,
    fields: Given | None = None,
    kind: TaskKind | None = None,
    only: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    quoting: bool | None = None,
    header: Sequence[str] | None = None,
) -> Found:
    """The rows of a table.

    fields: part of an example (id, text, text2, image, label, score, target, answers, group, extra) -> its column;
    several columns for text and extra. kind: classification, regression, generation or retrieval, which decides what
    can be the target. only: column -> value that a row must have, such as a split. form, delimiter, quoting, header:
    see `rows_of`.
    """
    rows = rows_of(path, form, delimiter=delimiter, quoting=quoting, header=header)
    yield from read_rows(rows, path.name, layout=layout, fields=fields, kind=kind, only=only)


def read_rows(
    rows: Iterable[Row | DataError],
    where: object,
    *,
    layout: Layout = COMMON,
    fields: Given | None = None,
    kind: TaskKind | None = None,
    only: Mapping[str, str] | None = None,
) -> Found:
    """Rows of any origin as examples; see `read_table`."""
    if kind is not None and kind not in TARGETS:
        raise UsageError("unknown kind of task", got=kind, expected=", ".join(TARGETS), do=did_you_mean(kind, TARGETS))
    layout = with_fields(layout if kind is None else replace(layout, kind=kind), fields)
    whole = iter(rows)
    peeked = list(islice(whole, PEEKED))
    present = dict.fromkeys(chain.from_iterable(row.values for row in peeked if isinstance(row, Row)))
    if not present:
        yield from (row for row in (*peeked, *whole) if isinstance(row, DataError))
        return
    for name in only or {}:
        if name not in present:
            do = did_you_mean(name, present)
            raise DataError("no such column", where=where, got=name, expected=", ".join(list(present)[:20]), do=do)
    columns = find_columns(layout, present, where)
    yield Noted(f"columns: {columns}")
    for row in chain(peeked, whole):
        if isinstance(row, DataError):
            yield row
            if ends_the_file(row):
                return
            continue
        if any(str(row.values.get(name)) != value for name, value in (only or {}).items()):
            yield Dropped("not of the rows asked for")
            continue
        try:
            found = example_of(row, columns)
            yield Dropped(found) if isinstance(found, str) else found
        except DataError as error:
            yield error


def _layout(kind: TaskKind, needed: Sequence[str], extra: Sequence[str] = (), **names: str | Sequence[str]) -> Layout:
    every = {part: (name,) if isinstance(name, str) else tuple(name) for part, name in names.items()}
    return Layout({"id": ("id", "qid"), **every}, tuple(needed), kind, extra=tuple(extra))


PAIR = {"text": ("sentence1", "premise", "text_a"), "text2": ("sentence2", "hypothesis", "text_b")}
LAYOUTS: dict[str, Layout] = {
    "sick": _layout("classification", ("text", "text2"), ("relatedness",), **PAIR, label="label"),
    "aeslc": _layout("generation", ("text",), ("human_subjects",), text="document", target="summary"),
    "dialogsum": _layout("generation", ("text",), ("topic",), text="document", target="summaries"),
    "squad_sentences": _layout("generation", ("text",), text="sentence", target="question"),
    "xquad": _layout(
        "generation", ("text", "text2"), ("answer_start",), text="context", text2="answer", target="question"
    ),
    "captions": _layout(
        "retrieval", ("image",), id="key", image=("image", "key", "file_name"), target=("captions", "caption")
    ),
    "visual_entailment": _layout("classification", ("text", "image"), text="hypothesis", image="image", label="label"),
    "scenes_qa": _layout(
        "classification", ("text", "image"), ("type",), text="question", image="image", answers="answer"
    ),
    "scenes_entailment": _layout("classification", ("text", "image"), text="sentence", image="image", label="label"),
}


def tables() -> Iterator[tuple[str, partial]]:
    """Readers of the forms, and of the research data that need only the names of their columns."""
    yield "table", partial(read_table)
    for form in ("csv", "tsv", "jsonl", "parquet"):
        yield form, partial(read_table, form=form)
    for name, layout in LAYOUTS.items():
        yield name, partial(read_table, layout=layout)
