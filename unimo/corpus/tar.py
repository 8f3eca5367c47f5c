"""Members of a tar with their offsets: every header's checksum is verified, and a broken one costs one member."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unimo.errors import DataError
from unimo.file_access import read_range, stat_regular

BLOCK = 512
_ZEROS = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")  # regular, regular before 1988, contiguous
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_MAX_NAME_BYTES = 2**20
_MAX_DIGITS = 19  # of a size in bytes that fits into 64 bits
_SPARSE = "GNU.sparse"


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar: its bytes are [offset, offset + length) of the archive."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True)
class Oddity:
    """A member that is not a regular file (link, device, folder, sparse): ignored, never followed."""

    name: str
    kind: str


def scan_tar(path: Path) -> Iterator[Member | Oddity | DataError]:
    """Every regular member in file order, and a located DataError for each stretch that could not be read.

    Reads USTAR (POSIX.1-1988), pax (POSIX.1-2001) and GNU long names. Behind a broken header the reader goes
    on at the next block that is a valid header, so one flipped bit costs one member and is reported, not the
    rest.
    """
    size = stat_regular(path).st_size
    at = 0
    ended = False  # an end-of-archive block was met
    extended: dict[str, str] = {}  # what pax or GNU blocks say about the next member
    for_all: dict[str, str] = {}  # what pax global blocks say about all that follow

    def broken(what: str, begin: int, end: int) -> DataError:
        return DataError(
            what,
            where=f"{path.name}, byte offset {begin}",
            got=f"{end - begin} unreadable bytes",
            expected="a tar header whose checksum fits, or the end-of-archive blocks",
            do="fetch or write the shard again; what was lost is not known from the shard alone",
        )

    while at + BLOCK <= size:
        block = read_range(path, at, BLOCK)
        if block == _ZEROS:
            next_header = _find_header(path, at + BLOCK, size)
            if next_header is None:
                ended = True
                break
            yield broken("blank stretch inside a tar", at, next_header)
            at, extended = next_header, {}
            continue
        header = _parse_header(block)
        body = at + BLOCK
        if header is None:
            next_header = _find_header(path, body, size)
            yield broken("broken tar header", at, size if next_header is None else next_header)
            if next_header is None:
                return
            at, extended = next_header, {}
            continue
        name, kind, length = header
        after = body + -(-length // BLOCK) * BLOCK
        if kind in (b"x", b"g", b"L", b"K"):
            records = _read_extension(path, kind, body, length) if body + length <= size else None
            if records is None:
                next_header = _find_header(path, body, size)
                yield broken("broken extended tar header", at, size if next_header is None else next_header)
                if next_header is None:
                    return
                at, extended = next_header, {}
                continue
            (for_all if kind == b"g" else extended).update(records)
            at = after
            continue
        known = {**for_all, **extended}
        extended = {}
        name = known.get("path", name).removeprefix("./")
        if kind in _REGULAR and "size" in known:
            length = int(known["size"])
            after = body + -(-length // BLOCK) * BLOCK
        holds_data = kind not in _WITHOUT_DATA
        if holds_data and body + length > size:
            yield DataError(
                "tar is cut short",
                where=f"{path.name}, member {name}, byte offset {at}",
                got=f"{size - body} of {length} bytes of this member",
                expected="the whole member and an end-of-archive block",
                do="fetch or write the shard again",
            )
            next_header = _find_header(path, body, size)
            if next_header is None:
                return
            at = next_header
            continue
        if kind in _REGULAR and not name.endswith("/") and _SPARSE not in known:
            yield Member(name, body, length)
        else:
            yield Oddity(name, kind.decode("latin-1"))
        at = after if holds_data else body
    if not ended:
        yield DataError(
            "tar is cut short",
            where=f"{path.name}, byte offset {min(at, size)}",
            got=f"{size} bytes without an end-of-archive block",
            expected="an end-of-archive block of zeros",
            do="fetch or write the shard again; members behind this point are lost",
        )


def _parse_header(block: bytes) -> tuple[str, bytes, int] | None:
    """(name, type flag, length) of a header block, or None when it is not a sound one."""
    checksum = _number(block[148:156])
    if checksum is None or checksum != sum(block) - sum(block[148:156]) + 8 * 0x20:
        return None
    length = _number(block[124:136])
    if length is None or length < 0:
        return None
    name = block[:100].split(b"\0", 1)[0]
    kind = block[156:157]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return name.decode("utf-8", "backslashreplace"), kind, length


def _number(field: bytes) -> int | None:
    """An octal field, or GNU's base-256 form of large numbers; None when it is neither."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    return int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else None


def _find_header(path: Path, at: int, size: int) -> int | None:
    """Offset of the next sound header at or behind `at`, in steps of one block; None when there is none."""
    step = 2 * BLOCK  # it mostly is near: many broken headers must not each cost a long read
    while at < size:
        chunk = read_range(path, at, step)
        for begin in range(0, len(chunk) - BLOCK + 1, BLOCK):
            block = chunk[begin : begin + BLOCK]
            # the checksum field of a real header is never blank, which spares most blocks the sum
            if block[148:156].strip(b"\0 ") and _parse_header(block) is not None:
                return at + begin
        at += step
        step = min(2 * step, 2048 * BLOCK)
    return None


def _read_extension(path: Path, kind: bytes, body: int, length: int) -> dict[str, str] | None:
    """What a pax header says about name, size and holes, or the long name of a GNU one; None when it does not parse."""
    if length > _MAX_NAME_BYTES:
        return None
    data = read_range(path, body, length)
    if kind in (b"L", b"K"):
        return {"path": data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")} if kind == b"L" else {}
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        # "25 path=some/long/name\n": the number counts the whole record, itself included
        digits = data[at : max(at, data.find(b" ", at, at + _MAX_DIGITS + 1))]
        if not digits.isdigit() or not len(digits) < int(digits) <= len(data) - at:
            return None
        name, equals, value = data[at + len(digits) + 1 : at + int(digits)].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            return None
        at += int(digits)
        if name == b"size" and not (value[:-1].isdigit() and len(value) <= _MAX_DIGITS + 1):
            return None
        if name in (b"path", b"size"):
            records[name.decode()] = value[:-1].decode("utf-8", "backslashreplace")
        elif name.startswith(b"GNU.sparse"):
            records[_SPARSE] = ""
    return records
