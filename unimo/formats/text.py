"""Strict text: UTF-8, lines, JSON and JSON lines are read exactly, or refused with their place.

Readers yield a record, or the DataError of a line that cannot be used, and go on with the next line.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from unimo.errors import DataError
from unimo.file_access import read_range, stat_regular

MAX_LINE_BYTES = 64 * 2**20
BOM = b"\xef\xbb\xbf"
_LOST = ("cannot unpack", "cannot read")  # how errors begin that lose an unknown number of rows
_SPARE_FRAMES = 200


@dataclass(frozen=True)
class Row:
    """One record of a file and where it lies.

    offset, length: its bytes in the (unpacked) file of JSON lines; elsewhere offset is its number. sha256: of those
    bytes without the line's end. typed: False where every value is text, as in a .csv.
    """

    where: str
    values: dict[str, Any]
    offset: int
    length: int = 1
    sha256: bytes = bytes(32)
    typed: bool = True

    @property
    def key(self) -> str:
        """FILE:NUMBER."""
        return self.where.replace(", line ", ":").replace(", row ", ":")


# ---- text


def decode_utf8(data: bytes, where: object, offset: int = 0) -> str:
    """Strict UTF-8 without NUL characters, a byte order mark dropped. offset: where data begins in its file."""
    skipped = len(BOM) if data.startswith(BOM) else 0
    do = "convert the file to UTF-8: iconv -f {} -t UTF-8 FILE > NEW"
    try:
        text = data[skipped:].decode("utf-8")
    except UnicodeDecodeError as error:
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        got = "UTF-16 (by its byte order mark)" if wide else f"byte 0x{error.object[error.start]:02x}"
        place = f"{where}, byte offset {offset + skipped + error.start}"
        do = do.format("UTF-16" if wide else "WINDOWS-1252")
        raise DataError("text is not UTF-8", where=place, got=got, expected="UTF-8", do=do) from None
    if "\0" in text:
        place = f"{where}, byte offset {offset + data.index(0)}"
        expected = "text (a file of UTF-16 or a binary file reads like this)"
        do = f"{do.format('UTF-16LE')}, or leave it out"
        raise DataError("text holds a NUL character", where=place, expected=expected, do=do)
    return text


def split_lines(text: str) -> list[str]:
    """Lines as files have them: they end with a line feed, or a carriage return and one; the last may lack it.

    Not `str.splitlines`, which also cuts at form feeds, U+0085 and U+2028: characters that may stand inside a text.
    """
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def checked_text(value: object, where: object, field: str) -> str:
    """A string that can be written as UTF-8 (a JSON escape can smuggle in half a character), without NULs."""
    if not isinstance(value, str):
        got, do = type(value).__name__, "repair or remove this record, or name another field"
        raise DataError("wrong type of field", where=f"{where}, field {field}", got=got, expected="a string", do=do)
    try:
        value.encode("utf-8")
        what, at = "text holds a NUL character", value.find("\0")
    except UnicodeEncodeError as error:
        what, at = "text holds a lone surrogate", error.start
    if at >= 0:
        place, do = f"{where}, field {field}, character {at}", "repair or remove this record"
        raise DataError(what, where=place, got=repr(value[at]), expected="valid Unicode", do=do)
    return value


# ---- JSON


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
            return _deeper(spare, lambda: json.loads(text, object_pairs_hook=_object))
        except json.JSONDecodeError:
            raise
        except ValueError:  # too many digits
            return json.loads(text, object_pairs_hook=_object, parse_int=_whole_number)
    except RecursionError:
        raise _bad_json(where, "too deeply nested") from None
    except ValueError as error:
        raise _bad_json(where, str(error)[:200]) from None


def _bad_json(where: object, got: str) -> DataError:
    expected = "one JSON object (RFC 8259)"
    return DataError("broken JSON", where=where, got=got, expected=expected, do="repair or remove this record")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        first: dict[str, Any] = {}
        for key, value in pairs:
            if first.setdefault(key, value) != value:
                values[key] = SeveralValues(first=first[key], another=value)
    return values


def _deeper(frames: int, function: Callable[[], Any]) -> Any:
    """The function's value, computed so many frames below this one."""
    return function() if frames == 0 else _deeper(frames - 1, function)


def _whole_number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return -math.inf if digits.startswith("-") else math.inf


# ---- lines


class RawLine(NamedTuple):
    """number: from 1. offset, length: in the (unpacked) file. data: with its end; or what is wrong with it."""

    number: int
    offset: int
    length: int
    data: bytes | DataError


def open_packed(path: Path) -> BinaryIO:
    if not path.name.lower().endswith(".gz"):
        return path.open("rb")
    return cast(BinaryIO, gzip.open(path if isinstance(path, Path) else path.open("rb")))  # a file or an address


def raw_lines(path: Path) -> Iterator[RawLine]:
    """The lines of a file, packed by gzip or not. A broken gzip stream ends the reading.

    A file without a line feed in its first 64 KiB may have lines that end in lone carriage returns, as an old Mac or a
    spreadsheet wrote them; they become line feeds.
    """
    stat_regular(path)
    number = offset = 0
    with open_packed(path) as stream:
        try:
            readline = _readline_of(stream)
            while line := readline(MAX_LINE_BYTES + 1):
                number, length = number + 1, len(line)
                rest = line
                while length > MAX_LINE_BYTES and rest and not rest.endswith(b"\n"):  # pass over the rest of the giant
                    rest = readline(2**20)
                    length += len(rest)
                long = length > MAX_LINE_BYTES
                data = line_too_long(f"{path.name}, line {number}", length) if long else line
                yield RawLine(number, offset, length, data)
                offset += length
        except (EOFError, OSError, zlib.error) as error:
            yield RawLine(number + 1, offset, 0, cannot_unpack(path, number, error))


def _readline_of(stream: BinaryIO) -> Callable[[int], bytes]:
    begin = stream.read(2**16)
    stream.seek(0)
    if b"\r" not in begin or b"\n" in begin:
        return stream.readline
    text = io.TextIOWrapper(stream, encoding="latin-1", newline="\r")  # a character for each byte
    return lambda size: text.readline(size).replace("\r", "\n").encode("latin-1")


def line_too_long(where: str, length: int) -> DataError:
    expected, do = f"at most {MAX_LINE_BYTES} bytes", "cut the record into smaller ones"
    return DataError("line is too long", where=where, got=f"{length} bytes", expected=expected, do=do)


def cannot_unpack(path: Path, number: int, error: Exception) -> DataError:
    where, do = f"{path.name}, behind line {number}", "fetch the file again; what lies behind this point is lost"
    return DataError("cannot unpack file", where=where, got=str(error), expected="a complete file", do=do)


def ends_the_file(error: DataError) -> bool:
    """Whether what lies behind the place of an error cannot be read, so that nobody can count what is lost."""
    return error.what.startswith(_LOST)


def lines_of(path: Path) -> Iterator[str | DataError]:
    """The lines of a text file without their ends, \\n, \\r\\n or \\r. A broken gzip stream ends the reading."""
    for number, _, _, line in raw_lines(path):
        try:
            text = line if isinstance(line, DataError) else decode_utf8(line, f"{path.name}, line {number}")
            yield text if isinstance(text, DataError) else text.removesuffix("\n").removesuffix("\r")
        except DataError as error:
            yield error


def first_line(path: Path) -> str:
    """The first line of a text file, empty where there is none. DataError when it cannot be read."""
    first = next(lines_of(path), "")
    if isinstance(first, DataError):
        raise first
    return first


def read_jsonl(path: Path) -> Iterator[Row | DataError]:
    """The objects of a .jsonl or .jsonl.gz file; blank lines are passed over."""
    for number, offset, length, line in raw_lines(path):
        if isinstance(line, DataError):
            yield line
        elif line.strip() and line.strip() != BOM:
            where = f"{path.name}, line {number}"
            try:
                yield Row(where, parse_json(line, where, offset), offset, length, line_sha256(line))
            except DataError as error:
                yield error


def line_sha256(line: bytes) -> bytes:
    return hashlib.sha256(line.rstrip(b"\r\n")).digest()


def read_jsonl_at(path: Path, offset: int, length: int) -> bytes:
    """The line at an offset of the unpacked file. In a .gz all that lies before it is unpacked again: for looking, not
    for training, which reads tokens from the index."""
    if not path.name.lower().endswith(".gz"):
        return read_range(path, offset, length)
    try:
        with open_packed(path) as stream:
            stream.seek(offset)
            return stream.read(length)
    except (EOFError, OSError, zlib.error) as error:
        raise cannot_unpack(path, 0, error) from error
