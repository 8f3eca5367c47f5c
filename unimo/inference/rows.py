"""Many inputs, one row each: files, folders, patterns, lists and tables in; JSON lines, CSV or Parquet out.

A bad input costs its own row: that has an `error`, and the others their answers.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from unimo.corpus.finding import IMAGE_SUFFIXES, walk
from unimo.disk import disk_error
from unimo.errors import DataError, UnimoError, UsageError
from unimo.formats.arrow import embedded_image, row_count
from unimo.formats.columns import CAPTION_NAMES, IMAGE_NAMES, TEXT_NAMES, first_of, missing_field
from unimo.formats.tables import is_table, rows_of
from unimo.formats.text import Row as TableRow
from unimo.inference.encoding import BATCH_SIZE, chunks, open_image
from unimo.paths import expand

Row = dict[str, Any]
STDIN = "-"
NAMES = {"image": IMAGE_NAMES, "text": tuple(dict.fromkeys((*TEXT_NAMES, *CAPTION_NAMES)))}  # of columns
FORMATS = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Input:
    """One image or text. name: what stands in its row; value: a path, bytes, a string, or why there is none."""

    name: str
    value: Any


class Inputs:
    """Images or texts that some arguments mean, one after the other.

    given: for images files, folders (searched through), patterns, .txt lists of paths, tables of any form, or "-" for
    a list on standard input; for texts strings, .txt files of one a line, tables, or "-". column: of a table, as NAME
    or KIND=NAME, where it has none of the usual names; a path in it is seen from its folder. Raises UsageError and
    DataError for what is not there, before anything is read, and for a table whose first row cannot be used.
    """

    def __init__(self, kind: str, given: Sequence[str], *, column: str | None = None, stdin: TextIO | None = None):
        self.kind, self.stdin = kind, stdin or sys.stdin
        self.names = NAMES[kind] if column is None else (column.removeprefix(f"{kind}="),)
        self.sources: list[Path | str] = []
        for one in given:
            self.sources += [one] if one == STDIN or not self._is_path(one) else self._files(one, len(given) > 1)
        if not self.sources:
            raise UsageError(f"no {kind}s", got=", ".join(given) or "nothing", expected="files, folders, a list or -")

    def _is_path(self, given: str) -> bool:
        return self.kind == "image" or _is_list(given)

    def _files(self, given: str, one_of_several: bool) -> list[Path]:
        try:
            places = expand(given)
        except DataError:
            if one_of_several and not _is_list(given):  # then it costs its own row
                return [Path(given)]
            raise
        found: list[Path] = []
        for path in places:
            inside = walk(path) if path.is_dir() else [path]
            found += [one for one in inside if one == path or one.name.lower().endswith(IMAGE_SUFFIXES)]
        return found

    @cached_property
    def total(self) -> int | None:
        """How many; None where that takes reading a table, or standard input."""
        counts = [_count(source) for source in self.sources]
        return None if None in counts else sum(count for count in counts if count is not None)

    def __iter__(self) -> Iterator[Input]:
        for source in self.sources:
            if source == STDIN:
                yield from (Input(line, line) for line in map(str.strip, self.stdin) if line)
            elif isinstance(source, str):
                yield Input(source, source)
            elif source.suffix == ".txt":
                yield from (Input(line, line) for line in _lines(source))
            elif is_table(source.name):
                yield from self._of_table(source)
            else:
                yield Input(str(source), source)

    def _of_table(self, path: Path) -> Iterator[Input]:
        for number, row in enumerate(rows_of(path)):
            found = row if isinstance(row, DataError) else first_of(row.values, self.names)
            if isinstance(row, TableRow) and found is None:
                found = missing_field(row.values, row.where, self.kind, self.names)
            if isinstance(found, DataError) and not number:
                raise found
            for value in found if isinstance(found, list) else [found]:
                yield self._input(path, row, value)

    def _input(self, path: Path, row: TableRow | DataError, value: Any) -> Input:
        if isinstance(value, dict):  # as Hugging Face datasets hold images
            value = embedded_image(value) or value.get("path")
        name = value if isinstance(value, str) else row.key if isinstance(row, TableRow) else str(row.where)
        if self.kind == "image" and isinstance(value, str) and (beside := path.parent / value).exists():
            value = beside
        return Input(name, value)


def _is_list(name: str) -> bool:
    return is_table(name) or name.endswith(".txt")


def _count(source: Path | str) -> int | None:
    if source == STDIN:
        return None
    if isinstance(source, Path) and source.suffix == ".txt":
        return sum(1 for _ in _lines(source))
    if isinstance(source, Path) and is_table(source.name):
        return row_count(source) if source.suffix == ".parquet" else None
    return 1


def _lines(path: Path) -> Iterator[str]:
    """Lines that are not blank."""
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from filter(None, map(str.strip, file))


def samples(kind: str, given: Sequence[str]) -> list[Any]:
    """Images or texts that arguments mean, where each is needed: DataError for one that cannot be used."""
    found = [(one, _opened(one, kind)) for one in Inputs(kind, given)]
    for _, value in found:
        if isinstance(value, UnimoError):
            raise value
    return [one.value for one, _ in found]


def answer_rows(
    inputs: Iterable[Input], kind: str, answer: Callable[[list[Any]], Sequence[Row]], *, batch_size: int = BATCH_SIZE
) -> Iterator[Row]:
    """A row for each input, in order: {kind: name, **answer}, or {kind: name, "error": why}.

    answer: opened images or texts -> a row each; called for `batch_size` inputs at a time.
    """
    for some in chunks(inputs, batch_size):
        opened = [_opened(one, kind) for one in some]
        good = [value for value in opened if not isinstance(value, UnimoError)]
        answers = iter(answer(good) if good else ())
        for one, value in zip(some, opened):
            yield {kind: one.name, **({"error": value.one_line()} if isinstance(value, UnimoError) else next(answers))}


def _opened(one: Input, kind: str) -> Any:
    """An image ready for its tower, a text, or the error that tells why not."""
    if isinstance(one.value, UnimoError):
        return one.value
    if kind == "text":
        return one.value if isinstance(one.value, str) else DataError("not a text", where=one.name, got=one.value)
    try:
        return open_image(one.value)
    except (DataError, UsageError) as fault:
        fault.where = fault.where or one.name
        return fault


# ---- out


@contextmanager
def row_writer(path: str | Path, schema: pa.Schema) -> Iterator[Callable[[Row], None]]:
    """Takes rows and writes them as the ending of `path` says. The file has another name until it is whole.

    schema: the columns, an `error` among them; what a row lacks is empty. UsageError for a file that exists.
    """
    path = Path(path)
    if path.exists():
        raise UsageError("the file exists", where="--out", got=path, do="choose another name, or remove it")
    if path.suffix not in FORMATS:
        expected = f"a name that ends in {', '.join(FORMATS)}"
        raise UsageError("unknown format", where="--out", got=path.name, expected=expected)
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            with _parquet(partial, schema) as write:
                yield write
        else:
            with partial.open("w", encoding="utf-8", newline="") as file:
                yield _csv(file, schema) if path.suffix == ".csv" else lambda row: _jsonl(file, row)
        partial.replace(path)
    except OSError as fault:
        raise disk_error(fault, path) from fault


def _jsonl(file: TextIO, row: Row) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _csv(file: TextIO, schema: pa.Schema) -> Callable[[Row], None]:
    """Lists stand as JSON in their cell."""
    writer = csv.DictWriter(file, schema.names)
    writer.writeheader()
    return lambda row: writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Callable[[Row], None]]:
    waiting: list[Row] = []
    with pq.ParquetWriter(path, schema) as writer:

        def write(row: Row, at_once: int = 1024) -> None:
            waiting.append(row)
            if len(waiting) >= at_once:
                writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
                waiting.clear()

        yield write
        writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
