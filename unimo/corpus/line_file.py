"""Any line of a large text file by its place, packed by gzip or not: found once from beginning to end, then read alone.

A packed file cannot be entered in the middle. Here the state of unpacking is kept every SPACING bytes, so that a line
costs at most that much unpacking, not the whole file.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from unimo.corpus.text import MAX_LINE_BYTES
from unimo.errors import DataError
from unimo.file_access import read_range, stat_regular

SPACING = 16 << 20  # bytes of text between two places where unpacking can begin
PIECE, PACKED = 1 << 20, 1 << 16  # bytes of text, and of a packed file, at once
HEAD = 4096  # bytes of a line that are handed out while lines are found


class Line(NamedTuple):
    """number: from 1. offset, length: bytes of the (unpacked) file, the line's end included. head: its beginning."""

    number: int
    offset: int
    length: int
    head: bytes


class LineFile:
    """One file. `lines` finds them and has to run to its end before `read`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.packed = self.path.name.lower().endswith(".gz")
        stat_regular(self.path)
        self._entries: list[tuple[int, int, Any]] = []  # (place in the text, place in the file, unpacker or None)

    def lines(self) -> Iterator[Line]:
        """Every line, without the whole of it in memory. DataError where a packed file is damaged or ends early."""
        number, offset, length, head = 1, 0, 0, b""
        for piece in self._pieces():
            start = 0
            while (end := piece.find(b"\n", start)) >= 0:
                head += piece[start : min(end + 1, start + HEAD - len(head))]
                length += end + 1 - start
                yield Line(number, offset, length, head)
                number, offset, length, head, start = number + 1, offset + length, 0, b"", end + 1
            head += piece[start : start + max(0, HEAD - len(head))]
            length += len(piece) - start
        if length:
            yield Line(number, offset, length, head)

    def read(self, line: Line) -> str:
        """The text of a line without its end. DataError for one that is too long or not UTF-8."""
        where = self.where(line)
        if line.length > MAX_LINE_BYTES:
            expected = f"at most {MAX_LINE_BYTES} bytes"
            raise DataError("line is too long", where=where, got=f"{line.length} bytes", expected=expected)
        data = self._unpacked(line.offset, line.length) if self.packed else read_range(self.path, *line[1:3])
        try:
            return data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as fault:
            raise DataError("text is not UTF-8", where=where, got=fault, expected="UTF-8") from None

    def where(self, line: Line) -> str:
        return f"{self.path.name}, line {line.number}"

    def _pieces(self) -> Iterator[bytes]:
        self._entries.clear()
        with self.path.open("rb") as file:
            if not self.packed:
                while piece := file.read(PIECE):
                    yield piece
                return
            unpacker, out, taken, kept = None, 0, 0, -SPACING
            while packed := file.read(PACKED):
                while packed:
                    if out - kept >= SPACING:
                        self._entries.append((out, taken, None if unpacker is None else unpacker.copy()))
                        kept = out
                    piece, packed, used, unpacker = self._unpack(unpacker, packed)
                    taken += used
                    out += len(piece)
                    yield piece
        if unpacker is not None:
            raise self._damaged(out, "the packed stream ends early")

    def _unpacked(self, offset: int, length: int) -> bytes:
        """Bytes of the text, from the nearest place before them where unpacking can begin."""
        out, taken, unpacker = self._entries[bisect_right(self._entries, offset, key=lambda entry: entry[0]) - 1]
        unpacker = None if unpacker is None else unpacker.copy()
        found = []
        with self.path.open("rb") as file:
            file.seek(taken)
            while out < offset + length and (packed := file.read(PACKED)):
                while packed and out < offset + length:
                    piece, packed, _, unpacker = self._unpack(unpacker, packed)
                    found.append(piece[max(0, offset - out) : max(0, offset + length - out)])
                    out += len(piece)
        return b"".join(found)

    def _unpack(self, unpacker: Any, packed: bytes) -> tuple[bytes, bytes, int, Any]:
        """At most PIECE bytes of text; what is left of the packed bytes, how many were used, and the state behind them.

        A file may be several packed streams, one after the other; between two there is no state.
        """
        unpacker = zlib.decompressobj(31) if unpacker is None else unpacker
        try:
            piece = unpacker.decompress(packed, PIECE)
        except zlib.error as fault:
            raise self._damaged(None, fault) from None
        rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
        return piece, rest, len(packed) - len(rest), None if unpacker.eof else unpacker

    def _damaged(self, at: int | None, fault: object) -> DataError:
        return DataError(
            "cannot unpack file",
            where=self.path if at is None else f"{self.path}, behind byte {at} of its text",
            got=str(fault),
            expected="a complete file",
            do="fetch the file again; what lies behind this point is lost",
        )
