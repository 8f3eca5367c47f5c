"""Files as they lie on disk: lines and whole JSON values, packed by gzip or not, each line with its number."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from unimo.corpus.text import MAX_LINE_BYTES, decode_utf8, parse_json, parse_json_value
from unimo.errors import DataError
from unimo.file_access import stat_regular

MAX_JSON_BYTES = 2**30  # the largest published one, the annotations of VQA v2, is a third of this
_UNFINISHED = ("cannot unpack", "cannot read")  # how errors begin that lose an unknown number of rows


def ends_the_file(error: DataError) -> bool:
    """Whether what lies behind the place of an error cannot be read, so that nobody can count what is lost."""
    return error.what.startswith(_UNFINISHED)


def lines_of(path: Path) -> Iterator[str | DataError]:
    """The lines of a text file without their ends, \\n or \\r\\n. A broken gzip stream ends the reading."""
    for number, line in enumerate(raw_lines(path), start=1):
        text = line if isinstance(line, DataError) else decoded(line, path, number)
        yield text if isinstance(text, DataError) else text.removesuffix("\n").removesuffix("\r")


def count_lines(path: Path) -> int:
    """Number of lines, the last with or without its end. DataError when the file cannot be read to its end."""
    number = 0
    for line in raw_lines(path):
        if isinstance(line, DataError) and ends_the_file(line):
            raise line
        number += 1
    return number


def read_json(path: Path) -> dict[str, Any]:
    """A whole .json or .json.gz file: one object of at most MAX_JSON_BYTES."""
    return parse_json(_whole(path), path.name)


def read_json_value(path: Path) -> Any:
    """A whole .json or .json.gz file that may be a list too."""
    return parse_json_value(_whole(path), path.name)


def _whole(path: Path) -> bytes:
    stat_regular(path)
    try:
        with opened(path) as stream:
            data = stream.read(MAX_JSON_BYTES + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise _cannot_unpack(path, 0, error) from error
    if len(data) > MAX_JSON_BYTES:
        raise DataError(
            "file is too large",
            where=path,
            got=f"more than {MAX_JSON_BYTES} bytes",
            expected=f"at most {MAX_JSON_BYTES} bytes",
            do="split it, or write its rows as .jsonl",
        )
    return data


def opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def ends_in_returns(path: Path) -> bool:
    """Whether the lines of a file end in a lone carriage return, as an old Mac or a spreadsheet wrote them."""
    try:
        with opened(path) as stream:
            begin = stream.read(2**16)
    except (EOFError, OSError, zlib.error):
        return False  # reading on says what is wrong
    return b"\r" in begin and b"\n" not in begin


class _Returns(io.RawIOBase):
    """A stream with carriage returns, alone or before a line feed, as line feeds."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._after_return = stream, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = self._stream.read(len(buffer))
            kept = data.removeprefix(b"\n") if self._after_return else data
            self._after_return = data.endswith(b"\r")
            kept = kept.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            buffer[: len(kept)] = kept
            if kept or not data:
                return len(kept)


def raw_lines(path: Path) -> Iterator[bytes | DataError]:
    """Lines with their ends; a DataError instead of one that is longer than MAX_LINE_BYTES."""
    stat_regular(path)
    number, returns = 0, ends_in_returns(path)
    with opened(path) as file:
        stream = cast(BinaryIO, io.BufferedReader(_Returns(file))) if returns else file
        while True:
            try:
                line = stream.readline(MAX_LINE_BYTES + 1)
                length = len(line)
                while length > MAX_LINE_BYTES and not line.endswith(b"\n"):  # pass over the rest of the giant
                    line = stream.readline(2**20)
                    length += len(line)
                    if not line:
                        break
            except (EOFError, OSError, zlib.error) as error:
                yield _cannot_unpack(path, number, error)
                return
            if not length:
                return
            number += 1
            if length <= MAX_LINE_BYTES:
                yield line
                continue
            yield DataError(
                "line is too long",
                where=f"{path.name}, line {number}",
                got=f"{length} bytes",
                expected=f"at most {MAX_LINE_BYTES} bytes",
                do="cut the row into smaller ones",
            )


def _cannot_unpack(path: Path, number: int, error: Exception) -> DataError:
    return DataError(
        "cannot unpack file",
        where=f"{path.name}, behind line {number}",
        got=str(error),
        expected="a complete file",
        do="fetch the file again; what lies behind this point is lost",
    )


def decoded(line: bytes, path: Path, number: int) -> str | DataError:
    try:
        return decode_utf8(line, f"{path.name}, line {number}")
    except DataError as error:
        return error
