"""Tasks that stand in the images themselves: folders of classes, and tars whose JSON says what is asked.

class/name.jpg                        the folder's name is the class, however deep the image lies in it
KEY.jpg + KEY.json in a tar           label_name or label; sentence and label; captions; lists of questions
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from unimo.corpus.corpus import Corpus
from unimo.corpus.text import Row
from unimo.errors import DataError, UsageError
from unimo.finetune.example import Dropped, Found
from unimo.finetune.readers.answers import plain_answer
from unimo.finetune.readers.layout import Layout
from unimo.finetune.readers.tables import Given, read_rows

CLASSES = Layout(
    {"id": ("key",), "image": ("key",), "label": ("label_name", "label")}, ("image", "label"), "classification"
)
NLVR = Layout(
    {"id": ("key",), "text": ("sentence",), "image": ("key",), "label": ("label",), "group": ("example",)},
    ("text", "image"),
    "classification",
)
QUESTIONS = Layout(
    {"id": ("id",), "text": ("question",), "image": ("key",), "answers": ("answers",)},
    ("text", "image"),
    "classification",
    extra=("answer_set",),
)
CAPTIONS = Layout({"id": ("key",), "image": ("key",), "target": ("captions",)}, ("image",), "retrieval")


def read_folder(images: Corpus, *, fields: Given | None = None) -> Found:
    """Images with classes: of their JSON, else the outermost folder they lie in."""
    yield from read_rows(_with_folder(images), _where(images), layout=CLASSES, fields=fields)


def read_images(
    images: Corpus, *, layout: Layout = CAPTIONS, fields: Given | None = None, rows: str | None = None
) -> Found:
    """Images whose JSON holds the rows. fields: as for tables; `key` is the image. rows: the field with a list of
    objects, each of which is an example of its own."""
    # The image is known here, whatever a field of its JSON is called.
    layout = replace(layout, names={**layout.names, "image": ("key",)})
    yield from _read(images, layout, fields, rows)


def read_questions(images: Corpus, *, fields: Given | None = None, several: Literal["all", "any"] = "all") -> Found:
    """Questions about images in `qas` of their JSON, each with `answers`.

    several: what a list of answers means. "all": together they are the answer, as in DAQUAR (on the bed are pillow and
    blanket), and make one class whatever their order. "any": each of them is right. In extra: the list, `answer_set`.
    """
    if several not in ("all", "any"):
        raise UsageError("unknown meaning of several answers", where="several", got=several, expected="all or any")
    yield from _read(images, QUESTIONS, fields, "qas", join=several == "all")


def _read(images: Corpus, layout: Layout, fields: Given | None, rows: str | None, *, join: bool = False) -> Found:
    without = 0

    def unfolded() -> Iterator[Row | DataError]:
        nonlocal without
        for row in _metas(images):
            if rows is None or isinstance(row, DataError):
                yield row
                continue
            inner = row.values.get(rows)
            if not isinstance(inner, list) or not all(isinstance(each, dict) for each in inner):
                got = "nothing" if inner is None else type(inner).__name__
                yield DataError("wrong type of field", where=f"{row.where}, field {rows}", got=got, expected="objects")
                continue
            without += not inner
            for i, each in enumerate(inner):
                values = {**each, "key": row.values["key"]}
                answers = values.get("answers")
                if isinstance(answers, list) and all(isinstance(answer, str) for answer in answers):
                    values["answer_set"] = tuple(answers)
                    values["answers"] = _joined(answers) if join else answers
                yield Row(f"{row.where}, {rows}[{i}]", values, row.offset, row.length)

    yield from read_rows(unfolded(), _where(images), layout=layout, fields=fields)
    yield from (Dropped(f"image without {rows}") for _ in range(without))


def _joined(answers: list[str]) -> str:
    return ", ".join(sorted({answer for answer in map(plain_answer, answers) if answer}))


def _with_folder(images: Corpus) -> Iterator[Row | DataError]:
    for row in _metas(images):
        if isinstance(row, Row) and not {"label", "label_name"} & set(row.values):
            folder, inside, _ = row.values["key"].partition("/")
            if inside:
                row.values["label_name"] = folder
        yield row


def _metas(images: Corpus) -> Iterator[Row | DataError]:
    for i in range(len(images)):
        try:
            yield Row(images.where(i), {**images.meta(i), "key": images.keys[i]}, i, 1)
        except DataError as error:
            yield error


def _where(images: Corpus) -> str:
    return ", ".join(str(path) for path, _ in images.shards[:3])
