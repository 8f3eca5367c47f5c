"""Text with delimiters as rows: .csv with quotes (RFC 4180), .tsv without, and Flickr's token files."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unimo.errors import DataError
from unimo.formats.text import Row, decode_utf8, first_line, lines_of, raw_lines

MAX_FIELD = 2**24  # characters of one quoted field of a .csv
DELIMITERS = (",", "\t", ";", "|")
SHOWN = 20  # names of columns in an error
TOKEN_LINE = re.compile(r"(\S.*?\.\w{3,5})(?:#\w+)?\t\s*(.*)", re.DOTALL)  # 1000268201.jpg#0<tab>A child ...
_Record = list[str] | DataError


def read_delimited(
    path: Path, delimiter: str | None, quoted: bool, header: Sequence[str] | None
) -> Iterator[Row | DataError]:
    """The rows of a table. delimiter: read off the first line if not given; header: of a file that has none."""
    names = None if header is None else list(header)
    do = "quote or remove delimiters inside fields" if quoted else "remove tabs and line ends inside fields"
    for number, fields in (_quoted if quoted else _plain)(path, delimiter or delimiter_of(path)):
        where = f"{path.name}, line {number}"
        if isinstance(fields, DataError):
            if names is None:
                raise fields  # without its header a table says nothing
            yield fields
        elif fields in ([], [""]):
            continue  # a blank line
        elif names is None:
            names = checked_header(fields, where)
        elif len(fields) != len(names):
            got = f"{len(fields)} fields"
            yield DataError("row has another number of fields", where=where, got=got, expected=_shown(names), do=do)
        else:
            values = dict(zip(names, fields))
            if "" in values and names.count("") > 1:  # nobody can name one of several columns without a name
                del values[""]
            yield Row(where, values, number, typed=False)


def read_tokens(path: Path) -> Iterator[Row | DataError]:
    """Flickr8k.token.txt, results_20130124.token: an image's name, # and a number, a tab, a caption."""
    for number, line in enumerate(lines_of(path), start=1):
        where = f"{path.name}, line {number}"
        if isinstance(line, DataError):
            yield line
        elif found := TOKEN_LINE.fullmatch(line):
            yield Row(where, {"image": found[1], "caption": found[2]}, number, typed=False)
        elif line.strip():
            expected, do = "IMAGE.jpg#0, a tab, a caption", "repair or remove this line"
            yield DataError("not a caption of an image", where=where, got=line[:60], expected=expected, do=do)


def delimiter_of(path: Path) -> str:
    """The delimiter that the first line holds most often outside of quotes."""
    outside = "".join(first_line(path).split('"')[::2])
    return max(DELIMITERS, key=outside.count)  # a tie, as of a single column, is a comma's


def header_of(path: Path, delimiter: str | None = None) -> list[str]:
    """The names in the first line."""
    line = first_line(path)
    return [name.strip().strip('"') for name in line.split(delimiter or delimiter_of(path))]


def checked_header(fields: list[str], where: str) -> list[str]:
    names = [name.strip() for name in fields]
    twice = sorted(name for name, count in Counter(names).items() if count > 1 and name)
    if twice:
        do = "rename the columns, or give the header of a file that has none"
        got, expected = ", ".join(twice[:SHOWN]), "a header with a name for each column"
        raise DataError("two columns have one name", where=where, got=got, expected=expected, do=do)
    return names


def _plain(path: Path, delimiter: str) -> Iterator[tuple[int, _Record]]:
    for number, line in enumerate(lines_of(path), start=1):
        yield number, line if isinstance(line, DataError) else line.split(delimiter)


def _quoted(path: Path, delimiter: str) -> Iterator[tuple[int, _Record]]:
    """Records of RFC 4180: a quoted field may hold delimiters, line ends and doubled quotes."""
    broken: list[DataError] = []  # of the lines of the record being read

    def lines() -> Iterator[str]:
        for number, _, _, line in raw_lines(path):
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
    what, got = "broken row of a .csv", str(error)
    expected = "a quote around a whole field, doubled within it (RFC 4180)"
    do = "repair the quotes, or read the file without quoting"
    if "new-line character" in got:  # what the parser calls a carriage return within a line
        what, got = "lines of a .csv end in different ways", "a lone carriage return outside of quotes"
        expected, do = "line feeds, or carriage returns throughout", "save the file with line feeds as line ends"
    return DataError(what, where=where, got=got, expected=expected, do=do)


@contextmanager
def _field_limit() -> Iterator[None]:
    before = csv.field_size_limit(MAX_FIELD)  # belongs to the process: other users of csv keep theirs
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _shown(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)}: {', '.join(names[:SHOWN])}{more}"


# ---- lists in a cell

_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_PYTHON_LIST = re.compile(rf"\[\s*(?:{_STRING}\s*(?:,\s*{_STRING}\s*)*,?\s*)?\]", re.DOTALL)
_LIKE_LIST = re.compile(r"""\[\s*['"].*['"]\s*,?\s*\]""", re.DOTALL)  # meant as a list of strings, in whatever form
_ONE_STRING = re.compile(_STRING, re.DOTALL)


def unpacked(text: str, where: str, *, scores: bool = False) -> str | list[str] | dict[str, float]:
    """A list of strings that was written as text, JSON's or Python's, as that list; other texts as they are.

    scores: whether a JSON object of numbers is one too. DataError for what begins and ends as a list of strings and is
    none: it would be read as one string with brackets and quotes.
    """
    inner = text.strip()
    if not (inner.startswith(("[", "{")) and inner.endswith(("]", "}"))):
        return text
    try:
        found = json.loads(inner)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        return found
    if scores and isinstance(found, dict) and all(isinstance(each, (int, float)) for each in found.values()):
        return found
    if _PYTHON_LIST.fullmatch(inner):
        try:
            return [ast.literal_eval(each) for each in _ONE_STRING.findall(inner)]
        except (ValueError, SyntaxError):
            pass  # an escape that is none
    if _LIKE_LIST.fullmatch(inner):
        expected, do = 'a JSON list, as ["one", "two"]', "write the list as JSON, or one row for each of its texts"
        raise DataError("a list that cannot be read", where=where, got=inner[:60], expected=expected, do=do)
    return text
