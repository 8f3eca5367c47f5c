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
from unimo.inference.encoding import BATCH_SIZE, chunks, open_image
from unimo.paths import expand

Row = dict[str, Any]
STDIN = "-"
COLUMNS = {"image": ("image", "jpg", "png", "filepath", "path"), "text": ("text", "caption", "title", "sentence")}
LISTS = (".txt", ".jsonl")  # one a line
TABLES = (*LISTS, ".parquet")
FORMATS = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Input:
    """One image or text. name: what stands in its row; value: a path, bytes or a string."""

    name: str
    value: Any


class Inputs:
    """Images or texts that some arguments mean, one after the other.

    given: for images files, folders (searched through), patterns, .txt lists of paths, .parquet tables, or "-" for a
    list on standard input; for texts strings, .txt or .jsonl files of one a line, .parquet tables, or "-". column: of a
    table, where it has none of the usual names. Raises UsageError and DataError for what is not there, before anything
    is read.
    """

    def __init__(self, kind: str, given: Sequence[str], *, column: str | None = None, stdin: TextIO | None = None):
        self.kind, self.column, self.stdin = kind, column, stdin or sys.stdin
        self.sources: list[Path | str] = []
        for one in given:
            self.sources += [one] if one == STDIN or not self._is_path(one) else self._files(one, len(given) > 1)
        if not self.sources:
            raise UsageError(f"no {kind}s", got=", ".join(given) or "nothing", expected="files, folders, a list or -")

    def _is_path(self, given: str) -> bool:
        return self.kind == "image" or given.endswith(TABLES)

    def _files(self, given: str, one_of_several: bool) -> list[Path]:
        try:
            places = expand(given)
        except DataError:
            if one_of_several and Path(given).suffix not in TABLES:  # then it costs its own row
                return [Path(given)]
            raise
        found: list[Path] = []
        for path in places:
            inside = walk(path) if path.is_dir() else [path]
            found += [one for one in inside if one == path or one.name.lower().endswith(IMAGE_SUFFIXES)]
        return found

    @cached_property
    def total(self) -> int | None:
        """How many; None for a list on standard input."""
        return None if STDIN in self.sources else sum(map(self._count, self.sources))

    def _count(self, source: Path | str) -> int:
        if isinstance(source, str) or source.suffix not in TABLES:
            return 1
        return _table(source).metadata.num_rows if source.suffix == ".parquet" else sum(1 for _ in self._lines(source))

    def __iter__(self) -> Iterator[Input]:
        for source in self.sources:
            if source == STDIN:
                yield from (Input(line, line) for line in map(str.strip, self.stdin) if line)
            elif isinstance(source, str):
                yield Input(source, source)
            elif source.suffix == ".parquet":
                yield from self._of_table(source)
            elif source.suffix in LISTS:
                yield from (Input(line, line) for line in self._lines(source))
            else:
                yield Input(str(source), source)

    def _of_table(self, path: Path) -> Iterator[Input]:
        table = _table(path)
        known = COLUMNS[self.kind]
        column = self.column or next((name for name in known if name in table.schema_arrow.names), None)
        if column not in table.schema_arrow.names:
            got, expected = ", ".join(table.schema_arrow.names), f"one of {', '.join(known)}, or --column NAME"
            raise DataError(f"no column of {self.kind}s", where=path, got=got, expected=expected)
        number = 0
        for batch in table.iter_batches(BATCH_SIZE, columns=[column]):
            for value in batch.column(0).to_pylist():
                number += 1
                if isinstance(value, dict):  # as Hugging Face datasets hold images
                    value = value.get("bytes") or value.get("path")
                name = value if isinstance(value, str) else f"{path}:{number}"
                yield Input(name, value)

    def _lines(self, path: Path) -> Iterator[str]:
        """Lines that are not blank; of a .jsonl the text or image of each object."""
        known = COLUMNS[self.kind]
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(filter(str.strip, file), start=1):
                if path.suffix != ".jsonl":
                    yield line.strip()
                    continue
                try:
                    row = json.loads(line)
                    yield str(row[self.column or next(name for name in known if name in row)])
                except (ValueError, StopIteration, TypeError, KeyError) as fault:
                    where, expected = f"{path}, line {number}", f"an object with {' or '.join(known)}, or --column NAME"
                    raise DataError("not a row", where=where, got=line[:80], expected=expected) from fault


def _table(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as fault:
        raise DataError("not a Parquet table", where=path, got=str(fault)[:200]) from fault


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

    schema: the columns, an `error` among them; what a row lacks is empty.
    """
    path = Path(path)
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
