"""Generation as plain text (two files, line by line; stories with highlights), and NLVR v1's JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unimo.errors import DataError, UsageError
from unimo.file_access import read_file
from unimo.finetune.example import Example, Found, Noted
from unimo.finetune.readers.columns import Given
from unimo.finetune.readers.layouts import read_table
from unimo.formats.json_values import each_row, empty, name_of, words
from unimo.formats.tables import is_table, rows_of
from unimo.formats.text import Row, decode_utf8, ends_the_file, lines_of, raw_lines

HIGHLIGHT = "@highlight"
ORDERS = 6  # images of an example of NLVR, which show its three boxes in other orders


def read_lines(source: Path, target: Path | None = None, *, fields: Given | None = None) -> Found:
    """Gigaword, CNN/DailyMail and whatever else is published as two files of equally many lines, or as one table.

    target: None for a test split. fields: of a table, see `read_table`. DataError, naming both counts, when the files
    have different numbers of lines.
    """
    if target is None and is_table(source.name):  # article and highlights, as Hugging Face datasets have them
        yield from read_table(source, kind="generation", fields=fields)
        return
    if fields:
        raise UsageError("lines have no columns", where=source, got=", ".join(fields), do="leave --column out")
    if target is None:
        yield Noted("sources without a file of targets: no targets")
    elif (counts := [_count(path) for path in (source, target)])[0] != counts[1]:
        what, got = "source and target have different numbers of lines", f"{counts[0]} and {counts[1]} lines"
        expected = "a line of target for each line of source"
        do = "look for a line end inside a text, or fetch both files again"
        raise DataError(what, where=f"{source}, {target}", got=got, expected=expected, do=do)
    targets = None if target is None else lines_of(target)
    for number, text in enumerate(lines_of(source), start=1):
        wanted = None if targets is None else next(targets)
        errors = [each for each in (text, wanted) if isinstance(each, DataError)]
        if not errors and not str(text).strip():
            errors.append(empty(f"{source.name}, line {number}"))
        if not errors and target is not None and not str(wanted).strip():
            errors.append(empty(f"{target.name}, line {number}", "target is empty"))
        if errors:
            yield errors[0]
            if ends_the_file(errors[0]):
                return
        else:
            row = Example(f"{source.name}:{number}", (str(text).strip(),))
            yield row if wanted is None else Example(row.id, row.texts, None, str(wanted).strip())


def _count(path: Path) -> int:
    """The lines of a file. DataError where a packed one is damaged or ends early."""
    data = [line if isinstance(line, DataError) else None for *_, line in raw_lines(path)]
    if data and data[-1] is not None and ends_the_file(data[-1]):
        raise data[-1]
    return len(data)


def read_stories(path: Path) -> Found:
    """CNN/DailyMail as .story files in a folder: the article, then sentences of the summary behind @highlight lines."""
    names = sorted(path.glob("*.story"))
    if not names:
        raise DataError("no stories", where=path, expected="a folder of .story files", do="correct the path")
    for name in names:
        try:
            text = decode_utf8(read_file(name), name.name)
            article, *highlights = (" ".join(part.split()) for part in text.split(HIGHLIGHT))
            if not article:
                raise empty(name.name)
            if not any(highlights):
                raise DataError("story without highlights", where=name.name, do="remove the story")
            yield Example(name.stem, (article,), None, "\n".join(filter(None, highlights)))
        except DataError as error:
            yield error


def read_nlvr(
    path: Path, *, orders: int = 1, image: str = "images/{directory}/{split}-{identifier}-{order}.png"
) -> Found:
    """train.json, dev.json, test.json (Suhr et al., ACL 2017): is a sentence true of an image of three boxes?

    orders: how many of the six images of an example become rows of their own. image: name of an image; split is the
    file's name without its ending. The rows of an example share a `group`.
    """
    if not 1 <= orders <= ORDERS:
        raise UsageError("no such number of images", where="orders", got=orders, expected=f"1 to {ORDERS}")

    def examples(row: Row) -> Iterator[Example]:
        number, sentence = name_of(row.values, "identifier", row.where), words(row.values, "sentence", row.where)
        label, directory = row.values.get("label"), row.values.get("directory", "")
        target = None if label is None or label == "" else str(label).lower()
        if target not in ("true", "false", None):
            where = f"{row.where}, field label"
            raise DataError("not a class", where=where, got=repr(label)[:60], expected="true or false")
        known = {"directory": directory if isinstance(directory, (str, int)) else "", "identifier": number}
        for order in range(orders):
            name = image.format(**known, split=path.name.partition(".")[0], order=order)
            yield Example(f"{number}-{order}", (sentence,), name, target, {"group": number})

    yield from each_row(rows_of(path, "jsonl"), examples)
    if orders < ORDERS:
        yield Noted(f"{orders} of {ORDERS} images per example; the others show the same boxes in other orders")
