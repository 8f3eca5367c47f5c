"""Members of a tar with their offsets.

`tarfile` parses each header block: checksum, numbers, names. A loop of our own goes on behind a broken header, so that
it costs one member and is reported (`tarfile` ends there, or passes it over in silence), and reads extended headers, of
which `tarfile` takes broken ones for none and hostile ones in quadratic time.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from unimo.errors import DataError
from unimo.file_access import read_range, stat_regular

BLOCK = tarfile.BLOCKSIZE
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_MAX_EXTENDED = 2**20  # bytes of an extended header
_MAX_DIGITS = 19  # of a size in bytes that fits into 64 bits
_SPARSE = "GNU.sparse"


class Member(NamedTuple):
    """A file inside a tar: its bytes are [offset, offset + length) of the archive."""

    name: str
    offset: int
    length: int


class Oddity(NamedTuple):
    """A member that is no file: ignored, never followed."""

    name: str
    kind: Literal["folder", "other"]


def scan_tar(path: Path) -> Iterator[Member | Oddity | DataError]:
    """Every member in file order, and a located DataError for each stretch that could not be read.

    Reads USTAR (POSIX.1-1988), pax (POSIX.1-2001) and GNU long names. Behind a broken header the next block that is a
    valid header counts. Symbolic and hard links, devices, folders and sparse files are no members to be read.
    """
    size = stat_regular(path).st_size
    if read_range(path, 0, min(size, 2)) == b"\x1f\x8b":
        expected, do = "a tar that is not packed", f"gunzip < {path.name} > unpacked.tar"
        yield DataError("tar is packed by gzip", where=path.name, got="gzip's first bytes", expected=expected, do=do)
        return
    lost: int | None = None  # where a stretch without headers began
    at, cut = 0, False
    extended: dict[str, str] = {}  # what pax or GNU blocks say about the next member
    for_all: dict[str, str] = {}  # what pax global blocks say about all that follow
    while at + BLOCK <= size:
        try:
            header = tarfile.TarInfo.frombuf(read_range(path, at, BLOCK), "utf-8", "backslashreplace")
            if header.size < 0:
                raise tarfile.HeaderError("negative size")
            if header.type in _EXTENDED:
                records = _read_extension(path, header.type, at + BLOCK, header.size)
                (for_all if header.type == tarfile.XGLTYPE else extended).update(records)
        except tarfile.HeaderError:
            lost, at, extended = at if lost is None else lost, at + BLOCK, {}
            continue
        if lost is not None:
            yield _broken(path, lost, at)
            lost = None
        begin, body = at, at + BLOCK
        if header.type in _EXTENDED:
            at = body + -(-header.size // BLOCK) * BLOCK
            continue
        known, extended = {**for_all, **extended}, {}
        name = known.get("path", header.name).removeprefix("./")
        regular = header.isreg() and header.type != tarfile.GNUTYPE_SPARSE and _SPARSE not in known
        length = int(known.get("size", header.size)) if regular else header.size
        at = body if header.type in _WITHOUT_DATA or header.isdir() else body + -(-length // BLOCK) * BLOCK
        if at > body and body + length > size:
            yield _cut(f"{path.name}, member {name}, byte offset {begin}", f"{size - body} of {length} bytes")
            at, cut = body, True
        elif regular and not name.endswith("/"):
            yield Member(name, body, length)
        else:
            yield Oddity(name, "folder" if header.isdir() else "other")
    if cut:
        return
    if lost is not None and any(read_range(path, lost, BLOCK)):  # not the blocks of zeros at the end
        yield _broken(path, lost, size)
    elif lost is None:
        yield _cut(f"{path.name}, byte offset {min(at, size)}", f"{size} bytes without an end-of-archive block")


def _broken(path: Path, begin: int, end: int) -> DataError:
    got, expected = f"{end - begin} unreadable bytes", "a tar header whose checksum fits, or the end-of-archive blocks"
    do = "fetch or write the shard again; what was lost is not known from the shard alone"
    return DataError("broken tar header", where=f"{path.name}, byte offset {begin}", got=got, expected=expected, do=do)


def _cut(where: str, got: str) -> DataError:
    expected = "whole members and an end-of-archive block of zeros"
    do = "fetch or write the shard again; members behind this point are lost"
    return DataError("tar is cut short", where=where, got=got, expected=expected, do=do)


def _read_extension(path: Path, kind: bytes, body: int, length: int) -> dict[str, str]:
    """What a pax header says about name, size and holes, or the long name of a GNU one. HeaderError if broken."""
    data = read_range(path, body, length) if length <= _MAX_EXTENDED else b""
    if len(data) < length:
        raise tarfile.HeaderError("too long or cut short")
    if kind not in (tarfile.XHDTYPE, tarfile.XGLTYPE):
        long = data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
        return {"path": long} if kind == tarfile.GNUTYPE_LONGNAME else {}
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        # "25 path=some/long/name\n": the number counts the whole record, itself included
        digits = data[at : max(at, data.find(b" ", at, at + _MAX_DIGITS + 1))]
        if not digits.isdigit() or not len(digits) < int(digits) <= len(data) - at:
            raise tarfile.HeaderError("no length of a record")
        name, equals, value = data[at + len(digits) + 1 : at + int(digits)].partition(b"=")
        at += int(digits)
        if not equals or not value.endswith(b"\n"):
            raise tarfile.HeaderError("no record")
        if name == b"size" and not (value[:-1].isdigit() and len(value) <= _MAX_DIGITS + 1):
            raise tarfile.HeaderError("no size")
        if name in (b"path", b"size"):  # what nobody needs is forgotten at once, whatever there is of it
            records[name.decode()] = value[:-1].decode("utf-8", "backslashreplace")
        elif name.startswith(b"GNU.sparse"):
            records[_SPARSE] = ""
    return records
