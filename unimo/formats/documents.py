"""Files that are one JSON value, as rows:

    [{"image": "1.jpg", "caption": "a dog"}, ...]               a list, as of BLIP and LAVIS: a row each
    [{"image": "1.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, ...]}]
                                                                LLaVA: captions are what the assistant says
    {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
                                                                COCO: a row for each image, or each other annotation
    {"images": [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a dog"}]}]}
                                                                Karpathy's splits: a row for each image
    {"data": [{"text": "...", "label": "..."}], "version": 1}   an object around one list: a row each
    ["It rained.", "It snowed."]                                texts: a row each

A file of JSON lines begins with an object that ends where the first line does, and is none of these.
"""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unimo.errors import DataError
from unimo.formats.json_values import each_of, listed, name_of, part, read_json, words
from unimo.formats.text import BOM, Row, open_packed

PEEKED = 2**16  # bytes
KARPATHY = "Karpathy's JSON"
_LIST = re.compile(rb":\s*\[\s*[{n]")  # of objects, perhaps with null before them
_KEYS = re.compile(rb'"([\w#]{1,40})"\s*:')


def read_document(path: Path) -> Iterator[Row | DataError]:
    """The rows of a file that is one JSON value. DataError where no list of objects is in it, or more than one."""
    value, name = read_json(path, any_value=True), path.name
    if not isinstance(value, dict):
        yield from _rows(value, name)
        return
    images, annotations = value.get("images"), value.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list) and annotations:
        captioned = any(isinstance(each, dict) and "caption" in each for each in annotations)
        yield from (_captioned if captioned else _annotated)(images, annotations, name)
    elif isinstance(images, list) and any(isinstance(each, dict) and "sentences" in each for each in images):
        yield from each_of(images, f"{name}, images", _karpathy)
    else:
        lists = [key for key, each in value.items() if _of_objects(each)]
        if len(lists) != 1:
            what = "several lists of rows" if lists else "no list of rows"
            got, do = ", ".join((lists or list(value))[:8]) or "an empty object", "write the rows as .jsonl"
            expected = "a list of objects, one of them in an object, or JSON lines"
            raise DataError(what, where=path, got=got, expected=expected, do=do)
        yield from _rows(value[lists[0]], f"{name}, {lists[0]}")


def is_document(path: Path) -> bool:
    """Whether a file is one JSON value: it begins with a list, or with an object that is no line of its own."""
    begin = _begin(path)
    if begin[:1] != b"{":
        return begin[:1] == b"["
    first, end, rest = begin.partition(b"\n")
    alone = path.name.lower().removesuffix(".gz").endswith(".json") and _LIST.search(first) is not None
    if not end and len(begin) >= PEEKED - len(BOM):  # a long line; of COCO's files, all there is
        return alone and _is_one_line(path)
    try:
        json.loads(first)
    except (ValueError, RecursionError):  # an object over several lines, or a broken line
        ended = first.rstrip()[-1:]
        return ended in (b"{", b"[") or (ended == b"," and not rest.lstrip().startswith(b"{"))
    return alone and not rest.strip() and _is_one_line(path)


def keys_of(path: Path) -> set[str]:
    """Names of fields near the beginning and the end, found without reading the whole."""
    end = b""
    if not path.name.lower().endswith(".gz"):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - PEEKED))
            end = file.read()
    return {key.decode() for key in _KEYS.findall(_begin(path) + end)}


def layout_of(path: Path) -> str:
    """What the layout of the file is called."""
    keys = keys_of(path)
    if {"images", "sentences"} <= keys:
        return KARPATHY
    if {"images", "image_id"} <= keys:
        return "COCO captions JSON" if "caption" in keys else "COCO JSON"
    return "LLaVA conversations" if {"conversations", "from"} <= keys else "JSON list"


# ---- rows of each layout


def _rows(values: Iterable[Any], where: str) -> Iterator[Row | DataError]:
    for i, each in enumerate(values):
        place = f"{where}, row {i}"
        if isinstance(each, str):
            yield Row(place, {"text": each}, i)
        elif not isinstance(each, dict):
            got, do = type(each).__name__, "repair the row"
            yield DataError("not a row", where=place, got=got, expected="an object", do=do)
        elif isinstance(each.get("conversations"), list):
            yield from each_of([each], place, _conversation)
        else:
            yield Row(place, each, i)


def _conversation(value: dict[str, Any], where: str) -> Row:
    where = where.removesuffix("[0]")
    turns = [(part(turn, "from", str, where), part(turn, "value", str, where)) for turn in value["conversations"]]
    captions = [text for who, text in turns if who in ("gpt", "assistant")]
    requests = [text.replace("<image>", "").strip() for who, text in turns if who in ("human", "user")]
    return Row(where, {**value, "captions": captions, "request": next(iter(requests), "")}, 0)


def _karpathy(image: Any, where: str) -> Row:
    split, name = name_of(image, "split", where), words(image, "filename", where)
    sentences = enumerate(listed(image, "sentences", where))
    captions = [words(each, "raw", f"{where}.sentences[{j}]") for j, each in sentences]
    if not captions:
        expected, do = "one or more sentences", "add one or remove the image"
        raise DataError("image without caption", where=where, got=name, expected=expected, do=do)
    number = name_of(image, "cocoid" if "cocoid" in image else "imgid", where)
    folder = image.get("filepath")
    return Row(
        where, {"id": number, "image": f"{folder}/{name}" if folder else name, "captions": captions, "split": split}, 0
    )


def _captioned(images: list[Any], annotations: list[Any], name: str) -> Iterator[Row | DataError]:
    known = {str(image.get("id")) for image in images if isinstance(image, dict)}
    captions: dict[str, list[str]] = {}

    def take(annotation: Any, where: str) -> None:
        number = name_of(annotation, "image_id", where)
        if number not in known:
            expected, do = "an id of images", "remove it, or add its image"
            raise DataError("caption of an unknown image", where=where, got=number, expected=expected, do=do)
        captions.setdefault(number, []).append(words(annotation, "caption", where))

    def row(image: Any, where: str) -> Row:
        number = name_of(image, "id", where)
        values = {**image, "file_name": words(image, "file_name", where)}
        return Row(where, values | ({"captions": captions[number]} if number in captions else {}), 0)

    yield from each_of(annotations, f"{name}, annotations", take)
    yield from each_of(images, f"{name}, images", row)


def _annotated(images: list[Any], annotations: list[Any], name: str) -> Iterator[Row | DataError]:
    """Each annotation with what the file says of its image."""
    known: dict[str, dict[str, Any]] = {}

    def remember(image: Any, where: str) -> None:
        known[name_of(image, "id", where)] = image

    def row(annotation: Any, where: str) -> Row:
        number = name_of(annotation, "image_id", where)
        if number not in known:
            expected, do = "an id of images", "remove it, or add its image"
            raise DataError("annotation of an unknown image", where=where, got=number, expected=expected, do=do)
        own = {key: value for key, value in annotation.items() if key not in ("id", "image_id")}
        return Row(where, {**known[number], **own}, 0)

    yield from each_of(images, f"{name}, images", remember)
    yield from each_of(annotations, f"{name}, annotations", row)


# ---- looking at a file


def _begin(path: Path) -> bytes:
    if not path.is_file():  # a pipe would wait for ever
        return b""
    try:
        with open_packed(path) as stream:
            return stream.read(PEEKED).removeprefix(BOM).lstrip()
    except (EOFError, OSError, zlib.error):
        return b""  # the reader of lines says what is wrong


def _is_one_line(path: Path) -> bool:
    """Whether nothing but blanks follows the first line feed."""
    ended = False
    with contextlib.suppress(EOFError, OSError, zlib.error), open_packed(path) as stream:
        while block := stream.read(2**20):
            rest = block if ended else block.partition(b"\n")[2]
            ended |= b"\n" in block
            if rest.strip():
                return False
    return True


def _of_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, dict) for each in value)
