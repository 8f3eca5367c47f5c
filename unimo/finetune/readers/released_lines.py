"""Released captions and hypotheses: lines of vocabulary ids with ; between fields (`unimo.corpus.released_lines`).

Ids become text again, for tasks read text; where a text would not come back as the same pieces, that is said. Regions
that stand in the lines (SNLI-VE, COCO) are checked here and read by `unimo prepare regions --source lines:FILE`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from unimo.corpus.released_lines import ReleasedText, read_text_line, regions_of
from unimo.data.regions import read_tag_line
from unimo.errors import DataError
from unimo.finetune.example import Dropped, Example, Found, Noted
from unimo.finetune.readers.raw import ends_the_file, lines_of
from unimo.tokenizer import Tokenizer

SPECIAL = (Tokenizer.cls, Tokenizer.sep, Tokenizer.pad)


def read_released_captions(captions: Path, beside: Path | None = None) -> Found:
    """One example an image, its captions as target, of lines of 5 (Flickr30k), 8 or 16 fields (COCO).

    captions: a file, or a folder of nothing but such files. beside: of COCO the object tags (`image;token ids;sentence
    ids;positions`), which become the text of the example; of Flickr30k the list of image names and their numbers (two
    columns), of which the number goes to extra["number"]. An image whose captions are all empty is one to be
    described. Captions labelled as another image's are left out.
    """
    width = 0
    others: dict[str, str] | None = None
    images: dict[str, list[str]] = {}
    named: dict[str, str] = {}
    seen: dict[str, str] = {}
    for where, line in _lines(captions):
        if isinstance(line, DataError):
            yield line
            continue
        try:
            count = line.count(";") + 1
            found = read_text_line(line, where=where)
            if count == 14 or (width and count != width):
                expected = f"{width}, as in the lines before" if width else "5, 8 or 16 fields: captions"
                raise DataError("Wrong number of fields", where=where, got=count, expected=expected)
            if count == 16:
                regions_of(line, where=where)
            text = decoded(found.ids, where)
            if found.name in seen:
                do = f"it is that of {seen[found.name]}; the first was kept"
                raise DataError("caption appears twice", where=f"{where}, caption", got=found.name, do=do)
        except DataError as error:
            yield error
            continue
        width, seen[found.name] = count, where
        if found.label not in (None, "", "1"):
            yield Dropped("caption labelled as another image's")
            continue
        said = images.setdefault(found.image, [])
        named.setdefault(found.image, _image(found, coco=count != 5))
        if text[0]:
            said.append(text[0])
        if text[1]:
            yield Noted("captions that do not come back as the same pieces: their ids are no encoding of their text")
    if beside is not None and width:
        others = {}
        for item in _numbers(beside) if width == 5 else _tags(beside):
            if isinstance(item, DataError):
                yield item
            else:
                others[item[0]] = item[1]
    for image, said in images.items():
        texts: tuple[str, ...] = ()
        extra: dict[str, str] = {}
        if others is not None and image not in others:
            what = "image without a number" if width == 5 else "image without object tags"
            yield DataError(what, where=f"{captions.name}, image {image}", expected=f"a line of {beside}")
            continue
        if others is not None:
            texts, extra = ((), {"number": others[image]}) if width == 5 else ((others[image],), {})
        yield Example(image, texts, named[image], tuple(said) or None, extra)


def read_released_entailment(path: Path) -> Found:
    """SNLI-VE, lines of 14 fields: the hypothesis as text, the image as premise, the label as written."""
    for where, line in _lines(path):
        if isinstance(line, DataError):
            yield line
            continue
        try:
            found = read_text_line(line, where=where)
            if line.count(";") != 13:
                got = line.count(";") + 1
                raise DataError("Wrong number of fields", where=where, got=got, expected="14: pairs of SNLI-VE")
            regions_of(line, where=where)
            text, changed = decoded(found.ids, where)
            if not text:
                raise DataError("text is empty", where=where, do="remove the line")
        except DataError as error:
            yield error
            continue
        if changed:
            yield Noted("hypotheses that do not come back as the same pieces: their ids are no encoding of their text")
        yield Example(found.name, (text,), _image(found), found.label or None)


def _lines(path: Path) -> Iterator[tuple[str, str | DataError]]:
    """Place and text of the lines of a file, or of all files of a folder; nothing after one behind which nobody can
    read."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        for number, line in enumerate(lines_of(file), start=1):
            if isinstance(line, DataError) or line.strip():
                yield f"{file.name}, line {number}", line
            if isinstance(line, DataError) and ends_the_file(line):
                return


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


def _tags(path: Path) -> Iterator[tuple[str, str] | DataError]:
    for where, line in _lines(path):
        if isinstance(line, DataError):
            yield line
            continue
        try:
            found = read_tag_line(line, where=where)
            text, _ = decoded(found.ids, where)
            if not text:
                raise DataError("object tags without a word", where=where, got=found.image, do="remove the line")
            yield found.image, text
        except DataError as error:
            yield error


def _numbers(path: Path) -> Iterator[tuple[str, str] | DataError]:
    for where, line in _lines(path):
        if isinstance(line, DataError):
            yield line
            continue
        values = line.split("\t")
        if len(values) != 2 or not all(value.strip() for value in values):
            yield DataError("Wrong number of fields", where=where, got=len(values), expected="2: name and number")
        else:
            yield values[0].strip(), values[1].strip()
