"""Writes that a kill or a power cut cannot leave half done, and the one error for a disk that refuses."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from unimo.errors import ResourceError

Bytes = bytes | memoryview
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomic(path: str | Path, data: bytes) -> None:
    """Writes a file so that a reader, a kill or a power cut meets either the old file or the whole new one.

    Raises ResourceError when the disk is full or refuses; the old file is then intact.
    """
    with replacing(Path(path), needed=len(data)) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path, *, needed: int | None = None) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` behind the body, as `write_atomic` says."""
    partial = path.with_name(f".{path.name}.partial.{secrets.token_hex(4)}")
    try:
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as fault:
        raise disk_error(fault, path, needed=needed) from fault


def write_new(path: Path, pieces: Iterable[Bytes]) -> str:
    """Writes a file that is not there yet; its SHA-256, of what was meant and not of what the disk gives back.

    Returns when all bytes are on the disk, no longer in memory alone: what is read of them afterwards comes from the
    disk itself, so that comparing says something.
    """
    digest = hashlib.sha256()
    with path.open("xb", buffering=0) as file:
        for piece in pieces:
            digest.update(piece)
            rest = memoryview(piece)
            while rest:  # the system may take less than it was offered
                rest = rest[os.write(file.fileno(), rest) :]
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return digest.hexdigest()


def sync_folder(folder: str | Path) -> None:
    """Makes names created, renamed or removed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_error(fault: OSError, where: object, *, needed: int | None = None, free: int | None = None) -> ResourceError:
    """The located error for a write that the operating system refused."""
    full = fault.errno in _DISK_FULL
    return ResourceError(
        "disk full" if full else "cannot write to disk",
        where=where,
        got=fault.strerror if free is None else f"{fault.strerror}; {free} bytes free",
        expected=None if needed is None else f"room for {needed} bytes",
        do="free some space or choose another folder" if full else "check the folder's permissions and the disk",
    )


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a lock file, which the system releases when this process dies.

    Raises ResourceError where another process holds it, unless it is to be waited for.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        what, do = "another process is writing here", "wait for it, or stop it"
        raise ResourceError(what, where=path, do=do) from None
    except OSError as fault:
        raise disk_error(fault, path) from fault
    try:
        yield
    finally:
        lock.release()
