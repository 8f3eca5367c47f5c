"""Whole .json files as tables: a list of objects (BLIP, LAVIS, pandas), or COCO's images with annotations.

    [{"image": "1.jpg", "caption": "a dog"}, ...]                                    a row each
    {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
                                                                                     a row for each annotation
    {"data": [{"text": "...", "label": "..."}], "version": 1}                        a row for each object of the list

A file of JSON lines begins with an object that ends where the first line does, and is none of these.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from unimo.corpus.text import Row, parse_json, read_jsonl
from unimo.errors import DataError
from unimo.finetune.readers.raw import ends_in_returns, lines_of, opened, read_json_value

_BOM = b"\xef\xbb\xbf"
_PEEKED = 2**16


def json_rows(path: Path) -> Iterator[Row | DataError]:
    """The rows of a .json or .jsonl file of any of these forms."""
    if _is_whole(path):
        return whole_rows(path)
    return _returned_rows(path) if ends_in_returns(path) else read_jsonl(path)


def _returned_rows(path: Path) -> Iterator[Row | DataError]:
    """JSON lines that end in a lone carriage return."""
    for number, line in enumerate(lines_of(path), start=1):
        if isinstance(line, DataError):
            yield line
        elif line.strip():
            where = f"{path.name}, line {number}"
            try:
                yield Row(where, parse_json(line.encode(), where), number, 1)
            except DataError as error:
                yield error


def whole_rows(path: Path) -> Iterator[Row | DataError]:
    """The rows of a file that is one JSON value. DataError where no list of objects is in it, or more than one."""
    value = read_json_value(path)
    if isinstance(value, dict) and isinstance(value.get("images"), list) and isinstance(value.get("annotations"), list):
        yield from _annotated(value["images"], value["annotations"], path.name)
        return
    if isinstance(value, dict):
        lists = [name for name, each in value.items() if _of_objects(each)]
        if len(lists) != 1:
            raise DataError(
                "no list of rows" if not lists else "several lists of rows",
                where=path,
                got=", ".join((lists or list(value))[:8]) or "an empty object",
                expected="a list of objects, one of them in an object, or JSON lines",
                do="write the rows as .jsonl, one object a line",
            )
        yield from _rows(value[lists[0]], f"{path.name}, {lists[0]}")
        return
    yield from _rows(value, path.name)


def _rows(values: list[Any], where: str) -> Iterator[Row | DataError]:
    for i, each in enumerate(values):
        place = f"{where}, row {i}"
        if isinstance(each, dict):
            yield Row(place, each, i, 1)
        else:
            yield DataError(
                "not a row", where=place, got=type(each).__name__, expected="an object", do="repair the row"
            )


def _annotated(images: list[Any], annotations: list[Any], name: str) -> Iterator[Row | DataError]:
    """Each annotation with what the file says of its image. Images are the rows of a file without annotations."""
    if not annotations:
        yield from _rows(images, f"{name}, images")
        return
    known: dict[Any, dict[str, Any]] = {}
    for row in _rows(images, f"{name}, images"):
        if isinstance(row, DataError):
            yield row
        elif isinstance(row.values.get("id"), (int, str)):
            known[row.values["id"]] = row.values
        else:
            yield DataError(
                "image without an id", where=row.where, got=repr(row.values.get("id"))[:60], expected="an id"
            )
    for row in _rows(annotations, f"{name}, annotations"):
        if isinstance(row, DataError):
            yield row
            continue
        number = row.values.get("image_id")
        image = known.get(number) if isinstance(number, (int, str)) else None
        if image is None:
            expected = "an id of images"
            yield DataError("annotation of an unknown image", where=row.where, got=repr(number)[:60], expected=expected)
            continue
        own = {key: value for key, value in row.values.items() if key not in ("id", "image_id")}
        yield Row(row.where, {**image, **own}, row.offset, 1)


def _is_whole(path: Path) -> bool:
    """Whether a file is one JSON value: it begins with a list, or with an object that is no line of its own."""
    try:
        with opened(path) as stream:
            begin = stream.read(_PEEKED).removeprefix(_BOM).lstrip()
    except (EOFError, OSError, zlib.error):
        return False  # the reader of lines says what is wrong
    if begin[:1] != b"{":
        return begin[:1] == b"["
    first, end, rest = begin.partition(b"\n")
    if not end and len(begin) == _PEEKED:  # a long line: of a .json file, perhaps all of it
        return _is_json(path) and _holds_rows(path)
    try:
        json.loads(first)
    except (ValueError, RecursionError):  # an object over several lines, or a broken line
        ended = first.rstrip()[-1:]
        return ended in (b"{", b"[") or (ended == b"," and not rest.lstrip().startswith(b"{"))
    return _is_json(path) and not rest.strip() and _holds_rows(path)


def _is_json(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".json")


def _holds_rows(path: Path) -> bool:
    """Whether a file is one line, an object around a list of rows, and not itself the only row."""
    lines = islice((line for line in lines_of(path) if isinstance(line, DataError) or line.strip()), 2)
    first, *more = list(lines) or [""]
    if more or isinstance(first, DataError):
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and any(_of_objects(each) for each in value.values())


def _of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)
