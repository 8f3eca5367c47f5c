"""Files of UNIMO's release (spec unimo 6.11): raw text to classify, GPT-2 ids to write from, lines of vocabulary ids.

classification   .tsv: text_a, perhaps text_b, label, perhaps qid (a table: `layouts.LAYOUTS`)
generation       .tsv: src, tgt, perhaps knowledge; each word a GPT-2 id or a special token such as [SEP]
captions, SNLI-VE    lines with ; between fields (`unimo.corpus.released_lines`)

Ids become text again, for tasks read text; where a text would not come back as the same pieces, that is said. Regions
that stand in the lines (SNLI-VE, COCO) are checked here and read by `unimo prepare regions --source lines:FILE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unimo.corpus.released_lines import ReleasedText, read_text_line, regions_of
from unimo.data.records import read_field, read_turns
from unimo.data.regions import read_tag_line
from unimo.errors import DataError
from unimo.finetune.example import Dropped, Example, Found, Noted
from unimo.formats.json_values import each_row, empty
from unimo.formats.tables import rows_of
from unimo.formats.text import Row, checked_text, ends_the_file, lines_of
from unimo.tokenizer import Tokenizer

SPECIAL = (Tokenizer.cls, Tokenizer.sep, Tokenizer.pad)


def read_released_pieces(path: Path) -> Found:
    """src, tgt and knowledge, turned back into text: texts are the knowledge, then the parts of src between [SEP].

    Of CoQA that makes passage and turns, of question generation passage and answer, of summaries one document. An id is
    FILE:LINE. DataError rows: words that are neither ids nor special tokens, and a src without text.
    """

    def example(row: Row) -> Iterator[Example]:
        if "src" not in row.values:
            raise DataError("column is missing", where=row.where, got=", ".join(row.values), expected="src")
        parts = _pieces(row, "src", read_turns)
        passage = _pieces(row, "knowledge", _whole) if row.values.get("knowledge") else []
        target = _pieces(row, "tgt", _whole)[0] if row.values.get("tgt") else None
        yield Example(row.key, (*passage, *parts), None, target)

    yield from each_row(rows_of(path, "tsv"), example)


def _pieces(row: Row, name: str, split: Callable[..., list[np.ndarray]]) -> list[str]:
    where, tokenizer = f"{row.where}, field {name}", Tokenizer.default()
    found = split(checked_text(row.values[name], where, name), tokenizer, where=where)
    texts = [tokenizer.decode(ids).strip() for ids in found]
    if not all(texts):
        raise empty(where)
    return texts


def _whole(text: str, tokenizer: Tokenizer, *, where: str) -> list[np.ndarray]:
    return [read_field(text, tokenizer, where=where)]


# ---- lines of vocabulary ids


def read_released_captions(captions: Path, beside: Path | None = None) -> Found:
    """One example an image, its captions as target, of lines of 5 (Flickr30k), 8 or 16 fields (COCO).

    captions: a file, or a folder of nothing but such files. beside: of COCO the object tags (`image;token ids;sentence
    ids;positions`), which become the text of the example; of Flickr30k the list of image names and their numbers (two
    columns), of which the number goes to extra["number"]. An image whose captions are all empty is one to be
    described. Captions labelled as another image's are left out.
    """
    width = 0
    images: dict[str, tuple[str, list[str]]] = {}  # image -> its name as files write it, its captions
    seen: dict[str, str] = {}

    def take(row: Row) -> Iterator[Dropped | Noted]:
        nonlocal width
        line, where = row.values["line"], row.where
        count, found = line.count(";") + 1, read_text_line(line, where=where)
        if count == 14 or (width and count != width):
            raise _other_fields(where, count, f"{width}, as in the lines before" if width else "5, 8 or 16: captions")
        if count == 16:
            regions_of(line, where=where)
        text, changed = decoded(found.ids, where)
        if found.name in seen:
            do = f"it is that of {seen[found.name]}; the first was kept"
            raise DataError("caption appears twice", where=f"{where}, caption", got=found.name, do=do)
        width, seen[found.name] = count, where
        if found.label not in (None, "", "1"):
            yield Dropped("caption labelled as another image's")
            return
        _, texts = images.setdefault(found.image, (_image(found, coco=count != 5), []))
        texts += [text] if text else []
        if changed:
            yield Noted("captions that do not come back as the same pieces: their ids are no encoding of their text")

    yield from each_row(_lines(captions), take)
    others: dict[str, str] | None = None
    if beside is not None and width:
        others = {}
        for item in each_row(_lines(beside), _number if width == 5 else _tags):
            if isinstance(item, DataError):
                yield item
            else:
                others.update([item])
    for image, (name, texts) in images.items():
        target = tuple(texts) or None
        if others is None:
            yield Example(image, (), name, target)
        elif image not in others:
            what = "image without a number" if width == 5 else "image without object tags"
            yield DataError(what, where=f"{captions.name}, image {image}", expected=f"a line of {beside}")
        elif width == 5:
            yield Example(image, (), name, target, {"number": others[image]})
        else:
            yield Example(image, (others[image],), name, target)


def read_released_entailment(path: Path) -> Found:
    """SNLI-VE, lines of 14 fields: the hypothesis as text, the image as premise, the label as written."""

    def example(row: Row) -> Iterator[Example | Noted]:
        line, where = row.values["line"], row.where
        found = read_text_line(line, where=where)
        if line.count(";") != 13:
            raise _other_fields(where, line.count(";") + 1, "14: pairs of SNLI-VE")
        regions_of(line, where=where)
        text, changed = decoded(found.ids, where)
        if not text:
            raise empty(where)
        if changed:
            yield Noted("hypotheses that do not come back as the same pieces: their ids are no encoding of their text")
        yield Example(found.name, (text,), _image(found), found.label or None)

    yield from each_row(_lines(path), example)


def _other_fields(where: str, got: int, expected: str) -> DataError:
    return DataError("Wrong number of fields", where=where, got=got, expected=expected)


def _lines(path: Path) -> Iterator[Row | DataError]:
    """The lines of a file, or of all files of a folder, each as a row with the value `line`."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        for number, line in enumerate(lines_of(file), start=1):
            if isinstance(line, DataError):
                yield line
                if ends_the_file(line):
                    return
            elif line.strip():
                yield Row(f"{file.name}, line {number}", {"line": line}, number, 1)


def _image(found: ReleasedText, coco: bool = False) -> str:
    """What the image is called: by its path if the line has one, of COCO by its number as its files write it."""
    if found.path:
        path = PurePosixPath(found.path)
        return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()
    return f"COCO_val_{found.image:0>12}" if coco and found.image.isdigit() else found.image


def decoded(ids: np.ndarray, where: str) -> tuple[str, bool]:
    """`[CLS] words [SEP]` as text, and whether the text has other pieces. DataError for ids that are none of ours."""
    if not len(ids):
        return "", False
    if ids.min() < 0 or ids.max() >= Tokenizer.vocab_size:
        outside = ids[(ids < 0) | (ids >= Tokenizer.vocab_size)][0]
        expected = f"0 to {Tokenizer.vocab_size - 1}"
        raise DataError("An id outside the vocabulary", where=f"{where}, token ids", got=outside, expected=expected)
    words = ids[~np.isin(ids, SPECIAL)]
    tokenizer = Tokenizer.default()
    text = tokenizer.decode(words).strip()
    return text, tokenizer.encode(text) != words.tolist()


def _tags(row: Row) -> Iterator[tuple[str, str]]:
    found = read_tag_line(row.values["line"], where=row.where)
    text, _ = decoded(found.ids, row.where)
    if not text:
        raise DataError("object tags without a word", where=row.where, got=found.image, do="remove the line")
    yield found.image, text


def _number(row: Row) -> Iterator[tuple[str, str]]:
    values: list[Any] = [value.strip() for value in row.values["line"].split("\t")]
    if len(values) != 2 or not all(values):
        raise _other_fields(row.where, len(values), "2: name and number")
    yield values[0], values[1]
