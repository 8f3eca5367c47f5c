"""Tasks that stand in the images themselves: folders of classes, and tars whose JSON says what is asked.

class/name.jpg                        the folder's name is the class, however deep the image lies in it
KEY.jpg + KEY.json in a tar           label_name or label; sentence and label; captions; lists of questions
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from unimo.corpus.corpus import Corpus
from unimo.errors import DataError, UsageError
from unimo.finetune.example import Dropped, Found
from unimo.finetune.readers.columns import Given, Layout, plain_answer
from unimo.finetune.readers.layouts import read_rows
from unimo.formats.text import Row

_KEY = {"id": ("key",), "image": ("key",)}
CLASSES = Layout({**_KEY, "label": ("label_name", "label")}, ("image", "label"), "classification")
NLVR = Layout(
    {**_KEY, "text": ("sentence",), "label": ("label",), "group": ("example",)}, ("text", "image"), "classification"
)
QUESTIONS = Layout(
    {**_KEY, "id": ("id",), "text": ("question",), "answers": ("answers",)},
    ("text", "image"),
    "classification",
    extra=("answer_set",),
)
CAPTIONS = Layout({**_KEY, "target": ("captions",)}, ("image",), "retrieval")


def read_folder(images: Corpus, *, fields: Given | None = None) -> Found:
    """Images with classes: of their JSON, else the outermost folder they lie in."""

    def labelled(row: Row) -> list[Row]:
        folder, inside, _ = row.values["key"].partition("/")
        if inside and not {"label", "label_name"} & set(row.values):
            row.values["label_name"] = folder
        return [row]

    yield from _read(images, CLASSES, fields, labelled)


def read_images(
    images: Corpus, *, layout: Layout = CAPTIONS, fields: Given | None = None, rows: str | None = None
) -> Found:
    """Images whose JSON holds the rows. fields: as for tables; `key` is the image. rows: the field with a list of
    objects, each of which is an example of its own."""
    # The image is known here, whatever a field of its JSON is called.
    layout = replace(layout, names={**layout.names, "image": ("key",)})
    yield from _read(images, layout, fields, lambda row: _unfolded(row, rows) if rows else [row], rows)


def read_questions(images: Corpus, *, fields: Given | None = None, several: Literal["all", "any"] = "all") -> Found:
    """Questions about images in `qas` of their JSON, each with `answers`.

    several: what a list of answers means. "all": together they are the answer, as in DAQUAR (on the bed are pillow and
    blanket), and make one class whatever their order. "any": each of them is right. In extra: the list, `answer_set`.
    """
    if several not in ("all", "any"):
        raise UsageError("unknown meaning of several answers", where="several", got=several, expected="all or any")

    def questions(row: Row) -> list[Row]:
        found = _unfolded(row, "qas")
        for each in found:
            answers = each.values.get("answers")
            if isinstance(answers, list) and all(isinstance(answer, str) for answer in answers):
                each.values["answer_set"] = tuple(answers)
                if several == "all":
                    each.values["answers"] = ", ".join(sorted(set(filter(None, map(plain_answer, answers)))))
        return found

    yield from _read(images, QUESTIONS, fields, questions, "qas")


def _unfolded(row: Row, name: str) -> list[Row]:
    inner = row.values.get(name)
    if not isinstance(inner, list) or not all(isinstance(each, dict) for each in inner):
        got = "nothing" if inner is None else type(inner).__name__
        raise DataError("wrong type of field", where=f"{row.where}, field {name}", got=got, expected="objects")
    key = row.values["key"]
    return [Row(f"{row.where}, {name}[{i}]", {**each, "key": key}, row.offset, 1) for i, each in enumerate(inner)]


def _read(
    images: Corpus, layout: Layout, fields: Given | None, rows_in: Callable[[Row], list[Row]], name: str | None = None
) -> Found:
    """rows_in: the JSON of an image as rows."""
    without = 0

    def rows() -> Iterator[Row | DataError]:
        nonlocal without
        for i in range(len(images)):
            try:
                found = rows_in(Row(images.where(i), {**images.meta(i), "key": images.keys[i]}, i, 1))
                without += not found
                yield from found
            except DataError as error:
                yield error

    where = ", ".join(str(path) for path, _ in images.shards[:3])
    yield from read_rows(rows(), where, layout=layout, fields=fields)
    yield from (Dropped(f"image without {name}") for _ in range(without))
