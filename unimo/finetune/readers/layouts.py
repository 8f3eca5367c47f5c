"""Published tables by the names of their columns, and a user's own by common names.

GLUE is read as its own .tsv files lay it out (Wang et al., ICLR 2019: quotes are characters, lines are rows), or as
.jsonl, .csv and .parquet files with these columns, or with UNIMO's own text_a, text_b, label, qid:

    SST-2   sentence, label                        MRPC  Quality, #1 ID, #2 ID, #1 String, #2 String
    MNLI    index, …, sentence1, sentence2, …, gold_label     m and mm are files of one layout; AX has no label
    STS-B   index, genre, …, sentence1, sentence2, score      0 to 5
    RTE     index, sentence1, sentence2, label     QNLI  index, question, sentence, label
    QQP     id, qid1, qid2, question1, question2, is_duplicate
    CoLA    no header: source, label, star, sentence; its test file has the header index, sentence

Of SNLI-VE (Xie et al., 2019) sentence1, the caption, is not read: the premise is the image, and a model that were given
the caption would not have to look. A label "-" marks pairs whose annotators did not agree (Bowman et al., EMNLP 2015);
the papers leave them out, and so do the readers, counting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from unimo.errors import DataError, UsageError, did_you_mean
from unimo.finetune.example import Dropped, Example, Found, Noted
from unimo.finetune.readers.columns import (
    TARGETS,
    Given,
    Layout,
    Names,
    TaskKind,
    example_of,
    find_columns,
    with_fields,
)
from unimo.formats.columns import CAPTION_NAMES, IMAGE_PATH_NAMES
from unimo.formats.documents import KARPATHY, layout_of
from unimo.formats.json_values import each_row
from unimo.formats.tables import form_of, rows_of
from unimo.formats.text import Row, first_line

PEEKED = 100  # rows whose fields are looked at before columns are chosen: JSON lines need not all have the same

COMMON = Layout(
    names={
        "id": ("id", "idx", "index", "qid", "uid", "guid", "question_id", "pairID", "key"),
        "text": (
            "text", "sentence", "sentence1", "text_a", "premise", "passage", "context", "document", "article",
            "dialogue", "question", "src", "source", "input", "prompt", "review", "content", "query",
        ),
        "text2": ("text2", "sentence2", "text_b", "hypothesis", "question"),
        "image": (*IMAGE_PATH_NAMES, "image_id"),
        "label": ("label", "label_name", "gold_label", "class", "category", "labels"),
        "answers": ("answers", "answer"),
        "score": ("score", "similarity", "relatedness", "rating"),
        "target": ("target", "tgt", "summary", "summaries", "highlights", "headline", "captions", "caption", "output",
                   "completion"),
        "group": ("group",),
    },
)  # fmt: skip


UNDECIDED = {"-": "label '-': the annotators did not agree"}
_ID, _FIRST, _SECOND = "index id idx qid", "sentence1 premise text_a", "sentence2 hypothesis text_b"


def _layout(kind: TaskKind, *needed: str, extra: str | Names = (), **names: str | Names) -> Layout:
    """names: part -> names of its column, between blanks."""
    names = {"id": "id qid", **names}
    columns = {part: tuple(name.split() if isinstance(name, str) else name) for part, name in names.items()}
    return Layout(columns, needed, kind, extra=(extra,) if isinstance(extra, str) else extra)


def _pair(label: str = "label", first: Names = (), second: Names = (), id: str = _ID, **names: str | Names) -> Layout:
    names |= {"text": (*first, *_FIRST.split()), "text2": (*second, *_SECOND.split()), "label": label}
    return replace(_layout("classification", "text", "text2", id=id, **names), dropped=UNDECIDED)


LAYOUTS: dict[str, Layout] = {
    "sst2": _layout("classification", "text", id=_ID, text="sentence text_a", label="label"),
    "mnli": _pair("gold_label label"),
    "rte": _pair(),
    "mrpc": _pair("Quality label", ("#1 String",), ("#2 String",)),
    "qnli": _pair(first=("question",), second=("sentence",)),
    "qqp": _pair("is_duplicate label", ("question1",), ("question2",)),
    "stsb": replace(
        _layout("regression", "text", "text2", id=_ID, text=_FIRST, text2=_SECOND, score="score label"),
        between=(0.0, 5.0),
    ),
    "snli": _pair("gold_label label", id="pairID id", group="captionID"),
    "snli_ve": replace(
        _layout(
            "classification", "text", "image", id="pairID id", text="sentence2 hypothesis",
            image="Flickr30K_ID Flickr30kID image", label="gold_label label",
        ),
        dropped=UNDECIDED,
    ),
    "sick": replace(_pair(id="id qid"), extra=("relatedness",), dropped={}),
    "released": _layout("classification", "text", text="text_a", text2="text_b", label="label"),  # or of numbers: STS-B
    "aeslc": _layout("generation", "text", extra="human_subjects", text="document", target="summary"),
    "dialogsum": _layout("generation", "text", extra="topic", text="document", target="summaries"),
    "squad_sentences": _layout("generation", "text", text="sentence", target="question"),
    "xquad": _layout(
        "generation", "text", "text2", extra="answer_start", text="context", text2="answer", target="question"
    ),
    "captions": _layout("retrieval", "image", id="key", image=(*IMAGE_PATH_NAMES, "key"), target=CAPTION_NAMES),
    "coco_captions": _layout("retrieval", "image", id="id", image=IMAGE_PATH_NAMES, target=CAPTION_NAMES),
    "visual_entailment": _layout("classification", "text", "image", text="hypothesis", image="image", label="label"),
    "scenes_qa": _layout(
        "classification", "text", "image", extra="type", text="question", image="image", answers="answer"
    ),
    "scenes_entailment": _layout("classification", "text", "image", text="sentence", image="image", label="label"),
}  # fmt: skip
COLA_COLUMNS = ("source", "label", "star", "sentence")


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
    split: str | None = None,
) -> Found:
    """The rows of a table. Of a file with Karpathy's splits those of `split` (train, val, test).

    fields: part of an example (id, text, text2, image, label, score, target, answers, group, extra) -> its column;
    several columns for text and extra. kind: classification, regression, generation or retrieval, which decides what
    can be the target. only: column -> value that a row must have, such as a split. form, delimiter, quoting, header:
    see `rows_of`.
    """
    if split in ("train", "val", "test") and form_of(path) == "json" and layout_of(path) == KARPATHY:
        yield from read_karpathy(path, split=split)
        return
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
    """Rows of any origin as examples; see `read_table`. The columns that are taken are told."""
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

    def example(row: Row) -> Iterator[Example | Dropped]:
        if any(str(row.values.get(name)) != value for name, value in (only or {}).items()):
            yield Dropped("not among the rows to keep")
        else:
            found = example_of(row, columns)
            yield Dropped(found) if isinstance(found, str) else found

    yield from each_row(chain(peeked, whole), example)


def read_karpathy(path: Path, *, split: str, restval: bool = True) -> Found:
    """dataset_coco.json, dataset_flickr30k.json, dataset_flickr8k.json (Karpathy and Fei-Fei, CVPR 2015): an example
    each image, its target all captions.

    split: train, val or test. restval: whether "train" has COCO's further 30,504 images of that name too, as in both
    papers (566,747 captions).
    """
    splits = {split, "restval"} if split == "train" and restval else {split}
    rows = list(rows_of(path, "json"))
    there = {str(row.values.get("split")) for row in rows if isinstance(row, Row)}
    if split not in there and all(isinstance(row, Row) for row in rows):
        expected = ", ".join(sorted(there)) or "images with a split"
        raise DataError("no such split", where=path.name, got=split, expected=expected, do="name one that is there")
    kept = [row for row in rows if isinstance(row, DataError) or row.values.get("split") in splits]
    yield from read_rows(kept, path.name, layout=LAYOUTS["coco_captions"])
    yield from [Dropped("image of another split")] * (len(rows) - len(kept))


def read_cola(path: Path, *, fields: Given | None = None) -> Found:
    """CoLA: four columns without a header, or any table that has one."""
    header = COLA_COLUMNS if form_of(path) == "tsv" and _is_cola_without_header(path) else None
    yield from read_table(path, layout=replace(LAYOUTS["sst2"], extra=("source",)), fields=fields, header=header)


def _is_cola_without_header(path: Path) -> bool:
    fields = first_line(path).split("\t")
    return len(fields) == len(COLA_COLUMNS) and fields[1] in ("0", "1")
