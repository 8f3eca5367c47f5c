"""Any line of a large text file by its place, packed by gzip or not: found once from beginning to end, then read alone.

A packed file cannot be entered in the middle; `indexed_gzip` keeps the state of unpacking every SPACING bytes, so that
a line costs at most that much unpacking. It takes a file that ends early for a shorter one; `gzip`, which finds the
lines, does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from unimo.errors import DataError, UsageError
from unimo.file_access import read_range, stat_regular
from unimo.formats.text import MAX_LINE_BYTES, decode_utf8, ends_the_file, line_too_long, raw_lines

SPACING = 16 << 20  # bytes of text between two places where unpacking can begin
HEAD = 4096  # bytes of a line that are handed out while lines are found


class Line(NamedTuple):
    """number: from 1. offset, length: bytes of the (unpacked) file, the line's end included. head: its beginning."""

    number: int
    offset: int
    length: int
    head: bytes


class LineFile:
    """One file."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.packed = self.path.name.lower().endswith(".gz")
        stat_regular(self.path)

    def lines(self) -> Iterator[Line]:
        """Every line, without the whole of it in memory. DataError where a packed file is damaged or ends early."""
        for number, offset, length, data in raw_lines(self.path):
            if isinstance(data, DataError) and ends_the_file(data):
                raise data
            yield Line(number, offset, length, b"" if isinstance(data, DataError) else data[:HEAD])

    def read(self, line: Line) -> str:
        """The text of a line without its end. DataError for one that is too long or not UTF-8."""
        if line.length > MAX_LINE_BYTES:
            raise line_too_long(self.where(line), line.length)
        if self.packed:
            self._unpacked.seek(line.offset)
            data = self._unpacked.read(line.length)
        else:
            data = read_range(self.path, line.offset, line.length)
        return decode_utf8(data, self.where(line)).rstrip("\r\n")

    def where(self, line: Line) -> str:
        return f"{self.path.name}, line {line.number}"

    @cached_property
    def _unpacked(self) -> Any:
        try:
            import indexed_gzip
        except ImportError as error:
            expected, do = "the extra `regions`", 'pip install "unimo[regions]", or unpack the file'
            raise UsageError("packed lines need indexed_gzip", where=self.path, expected=expected, do=do) from error
        return indexed_gzip.IndexedGzipFile(str(self.path), spacing=SPACING)
