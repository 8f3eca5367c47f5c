"""Tables of any form as rows, each with its place: .csv, .tsv, JSON lines, whole .json files, Parquet.

Whole .json files are a list of objects (BLIP, LAVIS, pandas), COCO's images with annotations, or an object around one
list:

    [{"image": "1.jpg", "caption": "a dog"}, ...]                                    a row each
    {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
                                                                                     a row for each annotation
    {"data": [{"text": "...", "label": "..."}], "version": 1}                        a row for each object of the list

A file of JSON lines begins with an object that ends where the first line does, and is none of these.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from unimo.corpus.finding import did_you_mean
from unimo.corpus.text import BOM, Row, decode_utf8, open_packed, raw_lines, read_jsonl, read_parquet
from unimo.errors import DataError, UsageError
from unimo.finetune.readers.fields import lines_of, read_json

MAX_FIELD = 2**24  # characters of one quoted field of a .csv
DELIMITERS = (",", "\t", ";", "|")
SHOWN = 20  # names of columns in an error
FORMS = ("csv", "tsv", "jsonl", "parquet")
_PEEKED = 2**16  # bytes
_Record = list[str] | DataError


def form_of(path: Path) -> str:
    """csv, tsv, jsonl or parquet, by the ending of a name."""
    ending = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    form = {"json": "jsonl", "ndjson": "jsonl"}.get(ending, ending)
    if form not in FORMS:
        expected = ", ".join(f".{form}" for form in FORMS) + " (and .gz of the first three)"
        got, do = f"a name ending in .{ending}", "rename or convert the file, or give its form"
        raise UsageError("unknown kind of table", where=path, got=got, expected=expected, do=do)
    return form


def rows_of(
    path: Path,
    form: str | None = None,
    *,
    delimiter: str | None = None,
    quoting: bool | None = None,
    header: Sequence[str] | None = None,
) -> Iterator[Row | DataError]:
    """The rows of a table of any form, values by the names of their columns.

    form: see FORMS; by the ending of the name if not given. delimiter: of a .csv, read off the header if not given.
    quoting: whether quotes enclose fields that hold delimiters and line ends; if not given, in .csv they do and in .tsv
    they are characters like any other. header: names of the columns of a file that does not begin with them.
    """
    form = form or form_of(path)
    if form not in FORMS:
        raise UsageError("unknown form of table", got=form, expected=", ".join(FORMS), do=did_you_mean(form, FORMS))
    if form == "jsonl":
        return _whole_rows(path) if _is_whole(path) else read_jsonl(path, returns=True)
    if form == "parquet":
        return read_parquet(path)
    quoted = form == "csv" if quoting is None else quoting
    return _table(path, "\t" if form == "tsv" and delimiter is None else delimiter, quoted, header)


# ---- text with delimiters


def _table(path: Path, delimiter: str | None, quoted: bool, header: Sequence[str] | None) -> Iterator[Row | DataError]:
    names = None if header is None else list(header)
    do = "quote or remove delimiters inside fields" if quoted else "remove tabs and line ends inside fields"
    for number, fields in (_quoted if quoted else _plain)(path, delimiter or _sniffed(path)):
        where = f"{path.name}, line {number}"
        if isinstance(fields, DataError):
            if names is None:
                raise fields  # without its header a table says nothing
            yield fields
        elif fields in ([], [""]):
            continue  # a blank line
        elif names is None:
            names = _checked_header(fields, where)
        elif len(fields) != len(names):
            got = f"{len(fields)} fields"
            yield DataError("row has another number of fields", where=where, got=got, expected=_shown(names), do=do)
        else:
            values = dict(zip(names, fields))
            if "" in values and names.count("") > 1:  # nobody can name one of several columns without a name
                del values[""]
            yield Row(where, values, number, 1, typed=False)


def _plain(path: Path, delimiter: str) -> Iterator[tuple[int, _Record]]:
    for number, line in enumerate(lines_of(path), start=1):
        yield number, line if isinstance(line, DataError) else line.split(delimiter)


def _quoted(path: Path, delimiter: str) -> Iterator[tuple[int, _Record]]:
    """Records of RFC 4180: a quoted field may hold delimiters, line ends and doubled quotes."""
    broken: list[DataError] = []  # of the lines of the record being read

    def lines() -> Iterator[str]:
        for number, _, line in raw_lines(path, returns=True):
            try:
                if isinstance(line, DataError):
                    raise line
                yield decode_utf8(line, f"{path.name}, line {number}")
            except DataError as error:
                broken.append(error)
                # Its record is refused below; what stands in for it only has to keep the quotes that open and close.
                yield "\n" if isinstance(line, DataError) else line.decode("utf-8", "replace").replace("\0", "\ufffd")

    parser = csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        first = parser.line_num + 1
        fields: _Record
        try:
            with _field_limit():
                fields = next(parser)
        except StopIteration:
            return
        except csv.Error as error:
            fields = _bad_record(f"{path.name}, lines {first} to {parser.line_num}", error)
        if broken:
            fields = broken[0]
            broken.clear()
        yield first, fields


def _bad_record(where: str, error: csv.Error) -> DataError:
    if "new-line character" in str(error):  # what the parser calls a carriage return within a line
        return DataError(
            "lines of a .csv end in different ways",
            where=where,
            got="a lone carriage return outside of quotes",
            expected="line feeds, or carriage returns throughout",
            do="save the file with line feeds as line ends",
        )
    expected = "a quote around a whole field, doubled within it (RFC 4180)"
    do = "repair the quotes, or read the file without quoting"
    return DataError("broken row of a .csv", where=where, got=str(error), expected=expected, do=do)


@contextmanager
def _field_limit() -> Iterator[None]:
    before = csv.field_size_limit(MAX_FIELD)  # belongs to the process: other users of csv keep theirs
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _sniffed(path: Path) -> str:
    """The delimiter that the first line holds most often outside of quotes."""
    first = next(islice(lines_of(path), 1), "")
    if isinstance(first, DataError):
        raise first
    outside = "".join(first.split('"')[::2])
    return max(DELIMITERS, key=outside.count)  # a tie, as of a single column, is a comma's


def _checked_header(fields: list[str], where: str) -> list[str]:
    names = [name.strip() for name in fields]
    twice = sorted(name for name, count in Counter(names).items() if count > 1 and name)
    if twice:
        do = "rename the columns, or give the header of a file that has none"
        got, expected = ", ".join(twice[:SHOWN]), "a header with a name for each column"
        raise DataError("two columns have one name", where=where, got=got, expected=expected, do=do)
    return names


def _shown(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)}: {', '.join(names[:SHOWN])}{more}"


# ---- whole JSON


def _whole_rows(path: Path) -> Iterator[Row | DataError]:
    """The rows of a file that is one JSON value. DataError where no list of objects is in it, or more than one."""
    value = read_json(path, any_value=True)
    if not isinstance(value, dict):
        yield from _rows(value, path.name)
    elif isinstance(value.get("images"), list) and isinstance(value.get("annotations"), list):
        yield from _annotated(value["images"], value["annotations"], path.name)
    else:
        lists = [name for name, each in value.items() if _of_objects(each)]
        if len(lists) != 1:
            what = "several lists of rows" if lists else "no list of rows"
            got, do = ", ".join((lists or list(value))[:8]) or "an empty object", "write the rows as .jsonl"
            expected = "a list of objects, one of them in an object, or JSON lines"
            raise DataError(what, where=path, got=got, expected=expected, do=do)
        yield from _rows(value[lists[0]], f"{path.name}, {lists[0]}")


def _rows(values: Iterable[Any], where: str) -> Iterator[Row | DataError]:
    for i, each in enumerate(values):
        place, got = f"{where}, row {i}", type(each).__name__
        row = Row(place, each, i, 1) if isinstance(each, dict) else None
        yield row or DataError("not a row", where=place, got=got, expected="an object", do="repair the row")


def _annotated(images: list[Any], annotations: list[Any], name: str) -> Iterator[Row | DataError]:
    """Each annotation with what the file says of its image. Images are the rows of a file without annotations."""
    if not annotations:
        yield from _rows(images, f"{name}, images")
        return
    known: dict[Any, dict[str, Any]] = {}
    for row in _rows(images, f"{name}, images"):
        if isinstance(row, DataError):
            yield row
        elif isinstance(number := row.values.get("id"), (int, str)):
            known[number] = row.values
        else:
            yield DataError("image without an id", where=row.where, got=repr(number)[:60], expected="an id")
    for row in _rows(annotations, f"{name}, annotations"):
        if isinstance(row, DataError):
            yield row
            continue
        number = row.values.get("image_id")
        image = known.get(number) if isinstance(number, (int, str)) else None
        if image is None:
            what, got = "annotation of an unknown image", repr(number)[:60]
            yield DataError(what, where=row.where, got=got, expected="an id of images")
            continue
        own = {key: value for key, value in row.values.items() if key not in ("id", "image_id")}
        yield Row(row.where, {**image, **own}, row.offset, 1)


def _is_whole(path: Path) -> bool:
    """Whether a file is one JSON value: it begins with a list, or with an object that is no line of its own."""
    try:
        with open_packed(path) as stream:
            begin = stream.read(_PEEKED).removeprefix(BOM).lstrip()
    except (EOFError, OSError, zlib.error):
        return False  # the reader of lines says what is wrong
    if begin[:1] != b"{":
        return begin[:1] == b"["
    first, end, rest = begin.partition(b"\n")
    whole_name = path.name.lower().removesuffix(".gz").endswith(".json")
    if not end and len(begin) == _PEEKED:  # a long line: of a .json file, perhaps all of it
        return whole_name and _holds_rows(path)
    try:
        json.loads(first)
    except (ValueError, RecursionError):  # an object over several lines, or a broken line
        ended = first.rstrip()[-1:]
        return ended in (b"{", b"[") or (ended == b"," and not rest.lstrip().startswith(b"{"))
    return whole_name and not rest.strip() and _holds_rows(path)


def _holds_rows(path: Path) -> bool:
    """Whether a file is one line, an object around a list of rows, and not itself the only row."""
    filled = (line for line in lines_of(path) if isinstance(line, DataError) or line.strip())
    lines = list(islice(filled, 2))
    if len(lines) != 1 or isinstance(lines[0], DataError):
        return False
    try:
        value = json.loads(lines[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and any(map(_of_objects, value.values()))


def _of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)
