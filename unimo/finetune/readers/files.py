"""Tables under the readers: .csv and .tsv, JSON lines and Parquet, each row with its place."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from unimo.corpus.finding import did_you_mean
from unimo.corpus.text import Row, read_parquet
from unimo.errors import DataError, UsageError
from unimo.finetune.readers.json_tables import json_rows
from unimo.finetune.readers.raw import decoded, lines_of, raw_lines

MAX_FIELD = 2**24  # characters of one quoted field of a .csv
DELIMITERS = (",", "\t", ";", "|")
SHOWN = 20  # names of columns in an error
FORMS = ("csv", "tsv", "jsonl", "parquet")


def form_of(path: Path) -> str:
    """csv, tsv, jsonl or parquet, by the ending of a name."""
    name = path.name.lower().removesuffix(".gz")
    ending = {"json": "jsonl", "ndjson": "jsonl"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
    if ending not in FORMS:
        raise UsageError(
            "unknown kind of table",
            where=path,
            got=f"a name ending in .{ending}",
            expected=", ".join(f".{form}" for form in FORMS) + " (and .gz of the first three)",
            do="rename or convert the file, or give its form",
        )
    return ending


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
        return json_rows(path)
    if form == "parquet":
        return read_parquet(path)
    quoted = form == "csv" if quoting is None else quoting
    return _table(path, "\t" if form == "tsv" and delimiter is None else delimiter, quoted, header)


def _table(path: Path, delimiter: str | None, quoted: bool, header: Sequence[str] | None) -> Iterator[Row | DataError]:
    names = list(header) if header is not None else None
    expected = "" if names is None else _shown(names)
    nameless = False  # several columns have no name: nobody can ask for one
    if delimiter is None:
        delimiter = _sniffed(path)
    records = _quoted_records(path, delimiter) if quoted else _plain_records(path, delimiter)
    for where, number, fields in records:
        if isinstance(fields, DataError):
            if names is None:
                raise fields  # without its header a table says nothing
            yield fields
        elif fields in ([], [""]):
            continue  # a blank line
        elif names is None:
            names = _checked_header(fields, where)
            expected, nameless = _shown(names), names.count("") > 1
        elif len(fields) != len(names):
            yield DataError(
                "row has another number of fields",
                where=where,
                got=f"{len(fields)} fields",
                expected=expected,
                do="quote or remove delimiters inside fields" if quoted else "remove tabs and line ends inside fields",
            )
        else:
            values = dict(zip(names, fields))
            if nameless:
                del values[""]
            yield Row(where, values, number, 1, typed=False)


def _plain_records(path: Path, delimiter: str) -> Iterator[tuple[str, int, list[str] | DataError]]:
    for number, line in enumerate(lines_of(path), start=1):
        yield f"{path.name}, line {number}", number, line if isinstance(line, DataError) else line.split(delimiter)


def _quoted_records(path: Path, delimiter: str) -> Iterator[tuple[str, int, list[str] | DataError]]:
    """Records of RFC 4180: a quoted field may hold delimiters, line ends and doubled quotes."""
    broken: list[DataError] = []  # of the lines of the record being read

    def lines() -> Iterator[str]:
        for number, raw in enumerate(raw_lines(path), start=1):
            line = raw if isinstance(raw, DataError) else decoded(raw, path, number)
            if isinstance(line, DataError):
                broken.append(line)
                # Its record is refused below; what stands in for it only has to keep the quotes that open and close.
                line = "\n" if isinstance(raw, DataError) else raw.decode("utf-8", "replace").replace("\0", "\ufffd")
            yield line

    parser = csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        first = parser.line_num + 1
        fields: list[str] | DataError
        try:
            with _field_limit():
                fields = next(parser)
        except StopIteration:
            return
        except csv.Error as error:
            lone = "new-line character" in str(error)  # what the parser calls a carriage return within a line
            fields = DataError(
                "lines of a .csv end in different ways" if lone else "broken row of a .csv",
                where=f"{path.name}, lines {first} to {parser.line_num}",
                got="a lone carriage return outside of quotes" if lone else str(error),
                expected="line feeds, or carriage returns throughout"
                if lone
                else "a quote around a whole field, doubled within it (RFC 4180)",
                do="save the file with line feeds as line ends"
                if lone
                else "repair the quotes, or read the file without quoting",
            )
        if broken:
            fields = broken[0]
            broken.clear()
        yield f"{path.name}, line {first}", first, fields


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
        raise DataError(
            "two columns have one name",
            where=where,
            got=", ".join(twice[:SHOWN]),
            expected="a header with a name for each column",
            do="rename the columns, or give the header of a file that has none",
        )
    return names


def _shown(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)}: {', '.join(names[:SHOWN])}{more}"
