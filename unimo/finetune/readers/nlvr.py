"""NLVR v1 as published (Suhr et al., ACL 2017): JSON lines, six images per example."""

from __future__ import annotations

from pathlib import Path

from unimo.corpus.text import Row
from unimo.errors import DataError, UsageError
from unimo.finetune.example import Example, Found, Noted
from unimo.finetune.readers.files import rows_of
from unimo.finetune.readers.shape import name_of, words

ORDERS = 6


def read_nlvr(
    path: Path, *, orders: int = 1, image: str = "images/{directory}/{split}-{identifier}-{order}.png"
) -> Found:
    """train.json, dev.json, test.json: is a sentence true of an image of three boxes?

    orders: how many of the six images of an example, which show its boxes in other orders, become rows of their own.
    image: name of an image; split is the file's name without its ending. The rows of an example share a `group`.
    """
    if not 1 <= orders <= ORDERS:
        raise UsageError("no such number of images", where="orders", got=orders, expected=f"1 to {ORDERS}")
    split = path.name.partition(".")[0]
    for row in rows_of(path, "jsonl"):
        if isinstance(row, DataError):
            yield row
            continue
        try:
            identifier, sentence = (
                name_of(row.values, "identifier", row.where),
                words(row.values, "sentence", row.where),
            )
            target = _truth(row)
            directory = row.values.get("directory", "")
            directory = directory if isinstance(directory, (str, int)) else ""
            for order in range(orders):
                name = image.format(directory=directory, split=split, identifier=identifier, order=order)
                yield Example(f"{identifier}-{order}", (sentence,), name, target, {"group": identifier})
        except DataError as error:
            yield error
    if orders < ORDERS:
        yield Noted(f"{orders} of {ORDERS} images per example; the others show the same boxes in other orders")


def _truth(row: Row) -> str | None:
    label = row.values.get("label")
    if label is None or label == "":
        return None
    truth = str(label).lower()
    if truth not in ("true", "false"):
        raise DataError(
            "not a class", where=f"{row.where}, field label", got=repr(label)[:60], expected="true or false"
        )
    return truth
