"""Strict readers of text: UTF-8 or a located refusal, never a replaced character.

    .txt               one document; blank lines separate its paragraphs
    .jsonl, .jsonl.gz  one JSON object per line
    .parquet           one row per document (extra `parquet`)

Readers yield a record, or the DataError of a line that cannot be used, and go on with the next line.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from unimo.errors import DataError, UsageError
from unimo.file_access import read_range, stat_regular

MAX_LINE_BYTES = 64 * 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One JSON object or table row and where it lies: bytes of the (unpacked) file, or the row number of a
    table. typed: False where every value is text, as in a .csv."""

    where: str
    values: dict[str, Any]
    offset: int
    length: int
    sha256: bytes = bytes(32)  # of those bytes; zeros for a table row
    typed: bool = True


def decode_utf8(data: bytes, where: object, offset: int = 0) -> str:
    """Strict UTF-8 without NUL characters; a leading byte order mark is dropped. offset: where data begins
    in its file."""
    skipped = len(_BOM) if data.startswith(_BOM) else 0
    try:
        text = data[skipped:].decode("utf-8")
    except UnicodeDecodeError as error:
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise DataError(
            "text is not UTF-8",
            where=f"{where}, byte offset {offset + skipped + error.start}",
            got="UTF-16 (by its byte order mark)" if wide else f"byte 0x{error.object[error.start]:02x}",
            expected="UTF-8",
            do="convert the file to UTF-8",
        ) from None
    if "\0" in text:
        raise DataError(
            "text holds a NUL character",
            where=f"{where}, byte offset {offset + data.index(0)}",
            expected="text (a file of UTF-16 or a binary file reads like this)",
            do="convert the file to UTF-8, or leave it out",
        )
    return text


def split_lines(text: str) -> list[str]:
    """Lines as files have them: they end with a line feed, or a carriage return and one; the last may lack it.

    Not `str.splitlines`, which also cuts at form feeds, U+0085 and U+2028: characters that may stand inside a text.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


class SeveralValues(dict):
    """Stands for the value of a key that one JSON object gives several values: no type that any field may have."""


def parse_json(data: bytes, where: object, offset: int = 0) -> dict[str, Any]:
    """One JSON object; see `parse_json_value`."""
    value = parse_json_value(data, where, offset)
    if not isinstance(value, dict):
        raise _bad_json(where, f"a {type(value).__name__}")
    return value


def parse_json_value(data: bytes, where: object, offset: int = 0) -> Any:
    """Any JSON value. Syntax is strict; values are judged where they are used, since most are not.

    So NaN and infinity are floats, a whole number of more digits than Python reads is infinite, half a surrogate pair
    stays (see `checked_text`), and a key with two different values has `SeveralValues`. Deep nesting is refused.
    """
    text = decode_utf8(data, where, offset)
    # Whoever prints a value later must be able to go as deep as this, from wherever it stands then.
    spare = _SPARE_FRAMES if text.count("[") + text.count("{") > _SPARE_FRAMES else 0
    try:
        try:
            value = _deeper(spare, lambda: json.loads(text, object_pairs_hook=_object))
        except json.JSONDecodeError:
            raise
        except ValueError:  # too many digits
            value = json.loads(text, object_pairs_hook=_object, parse_int=_whole_number)
    except RecursionError:
        raise _bad_json(where, "too deeply nested") from None
    except ValueError as error:
        raise _bad_json(where, str(error)[:200]) from None
    return value


def _bad_json(where: object, got: str) -> DataError:
    return DataError(
        "broken JSON",
        where=where,
        got=got,
        expected="one JSON object (RFC 8259)",
        do="repair or remove this record",
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    first: dict[str, Any] = {}
    for key, value in pairs:
        if first.setdefault(key, value) != value:
            values[key] = SeveralValues(first=first[key], another=value)
    return values


_SPARE_FRAMES = 200


def _deeper(frames: int, function: Callable[[], Any]) -> Any:
    """The function's value, computed so many frames below this one."""
    return function() if frames == 0 else _deeper(frames - 1, function)


def _whole_number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return -math.inf if digits.startswith("-") else math.inf


def checked_text(value: object, where: object, field: str) -> str:
    """A string that can be written as UTF-8 (a JSON escape can smuggle in half a character), without NULs."""
    if not isinstance(value, str):
        raise DataError(
            "wrong type of field",
            where=f"{where}, field {field}",
            got=type(value).__name__,
            expected="a string",
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "text holds a lone surrogate",
            where=f"{where}, field {field}, character {error.start}",
            got=repr(value[error.start]),
            expected="valid Unicode",
            do="repair or remove this record",
        ) from None
    if "\0" in value:
        raise DataError("text holds a NUL character", where=f"{where}, field {field}, character {value.index(chr(0))}")
    return value


def read_text(path: Path, name: str | None = None) -> str:
    """A whole .txt file."""
    size = stat_regular(path).st_size
    with path.open("rb") as stream:
        return decode_utf8(stream.read(size), name or path.name)


def read_jsonl(path: Path) -> Iterator[Row | DataError]:
    """The objects of a .jsonl or .jsonl.gz file; blank lines are passed over. A broken gzip stream ends the
    reading."""
    stat_regular(path)
    offset = number = 0
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
        while True:
            try:
                line = stream.readline(MAX_LINE_BYTES + 1)
                length = len(line)
                while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):  # pass over the rest of the giant
                    rest = stream.readline(2**20)
                    length += len(rest)
                    if not rest or rest.endswith(b"\n"):
                        break
            except (EOFError, OSError, zlib.error) as error:
                yield DataError(
                    "cannot unpack file",
                    where=f"{path.name}, behind line {number}",
                    got=str(error),
                    expected="a complete gzip stream",
                    do="fetch the file again; the lines behind this point are lost",
                )
                return
            if not line:
                return
            number += 1
            where = f"{path.name}, line {number}"
            begin, offset = offset, offset + length
            if length > MAX_LINE_BYTES:
                yield DataError(
                    "line is too long",
                    where=where,
                    got=f"{length} bytes",
                    expected=f"at most {MAX_LINE_BYTES} bytes",
                    do="cut the record into smaller ones",
                )
            elif line.strip() and line.strip() != _BOM:
                try:
                    yield Row(where, parse_json(line, where, begin), begin, length, hashlib.sha256(line).digest())
                except DataError as error:
                    yield error


def read_jsonl_at(path: Path, offset: int, length: int) -> bytes:
    """The line at an offset of the unpacked file. In a .gz all that lies before it is unpacked again: for
    looking, not for training, which reads tokens from the index."""
    if not path.name.endswith(".gz"):
        return read_range(path, offset, length)
    try:
        with gzip.open(path) as stream:
            stream.seek(offset)
            return stream.read(length)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError("cannot unpack file", where=path, got=str(error), do="fetch the file again") from error


def read_parquet(path: Path) -> Iterator[Row | DataError]:
    """The rows of a Parquet file, as Python values."""
    number = 0
    try:
        table = _parquet(path)
        for group in range(table.num_row_groups):
            for values in table.read_row_group(group).to_pylist():
                yield Row(f"{path.name}, row {number}", values, number, 1)
                number += 1
    except UsageError:
        raise
    except DataError as error:
        yield error
    except Exception as error:  # pyarrow raises its own classes, OSError, ValueError and more on damaged files
        yield _bad_parquet(path, f"behind row {number}", error)


def read_parquet_at(path: Path, row: int) -> dict[str, Any]:
    """One row of a Parquet file; the row group it lies in is kept, since neighbours are often asked for
    next."""
    try:
        begin = 0
        metadata = _parquet(path).metadata
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if row < begin + rows:
                status = path.stat()
                return _row_group(path, group, status.st_size, status.st_mtime_ns).slice(row - begin, 1).to_pylist()[0]
            begin += rows
    except (DataError, UsageError):
        raise
    except Exception as error:
        raise _bad_parquet(path, f"row {row}", error) from error
    raise DataError(
        "row is missing",
        where=f"{path}, row {row}",
        got=f"{begin} rows",
        do="run `unimo data check` again",
    )


def parquet_holds_bytes(path: Path) -> bool:
    """Whether any column holds bytes, plain or in a record, such as images; True where that cannot be found out."""
    try:
        import pyarrow

        waiting = [field.type for field in _parquet(path).schema_arrow]
        while waiting:
            kind = waiting.pop()
            if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
                return True
            if pyarrow.types.is_struct(kind):
                waiting += [kind.field(i).type for i in range(kind.num_fields)]
        return False
    except Exception:  # no pyarrow, or a damaged file: reading it says so
        return True


@lru_cache(maxsize=2)
def _row_group(path: Path, group: int, size: int, mtime_ns: int):  # size and time: a replaced file is read anew
    return _parquet(path).read_row_group(group)


def _parquet(path: Path):
    stat_regular(path)
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(
            "reading Parquet needs pyarrow",
            where=path,
            expected="the extra `parquet`",
            do='pip install "unimo[parquet]", or convert the file to .jsonl',
        ) from error
    return parquet.ParquetFile(path)


def _bad_parquet(path: Path, place: str, error: Exception) -> DataError:
    return DataError(
        "cannot read Parquet file",
        where=f"{path.name}, {place}",
        got=f"{type(error).__name__}: {error}"[:200],
        expected="a complete Parquet file",
        do="fetch or write the file again",
    )
