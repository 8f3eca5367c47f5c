"""Regular files read whole, by range or for their hash; never pipes, devices or folders."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from unimo.errors import DataError

MAX_MEMBER_BYTES = 256 * 2**20  # one image or JSON object; larger is damage or an attack, not a sample


class Unread(DataError):
    """A file that cannot be read now and perhaps can tomorrow: nothing to be remembered."""


def stat_regular(path: Path) -> os.stat_result:
    """The status of a regular file (links are followed); never opens pipes, devices or folders."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        dangling = os.path.islink(path)  # noqa: PTH114 - answers also for names that no file can have
        what = "file is missing" if isinstance(error, FileNotFoundError) else "cannot read file"
        got = "a link to nothing" if dangling else getattr(error, "strerror", None) or str(error)
        expected = "a readable regular file"
        raise Unread(what, where=path, got=got, expected=expected, do="restore the file or correct the path") from error
    if not stat.S_ISREG(status.st_mode):
        got, expected = stat.filemode(status.st_mode), "a regular file (no pipe, device or folder)"
        raise DataError("not a regular file", where=path, got=got, expected=expected, do="replace it or leave it out")
    return status


def read_file(path: Path, limit: int = MAX_MEMBER_BYTES) -> bytes:
    """All bytes of a small regular file."""
    size = stat_regular(path).st_size
    if size > limit:
        do = "make it smaller or leave it out"
        raise DataError("file is too large", where=path, got=f"{size} bytes", expected=f"at most {limit} bytes", do=do)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def hash_file(path: Path) -> str:
    """SHA-256 of a regular file, hexadecimal."""
    stat_regular(path)
    try:
        with path.open("rb") as stream:
            digest = hashlib.sha256()
            while block := stream.read(2**20):
                digest.update(block)
            return digest.hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    do = "check the file, its permissions and its disk"
    return Unread("cannot read file", where=path, got=error.strerror or str(error), expected="a readable file", do=do)


class _OpenFiles:
    """A few kept-open descriptors per process. pread carries its own position, so readers never disturb each
    other."""

    def __init__(self, limit: int = 64):
        self.limit = limit
        self.reset()
        os.register_at_fork(after_in_child=self.reset)  # a lock held at the fork would stay locked in the child

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.open: OrderedDict[str, int] = OrderedDict()

    def read(self, path: Path, offset: int, length: int) -> bytes:
        name = os.fspath(path)
        with self.lock:
            if name not in self.open:
                stat_regular(path)
                if len(self.open) >= self.limit:
                    os.close(self.open.popitem(last=False)[1])
                self.open[name] = os.open(path, os.O_RDONLY)
            self.open.move_to_end(name)
            return os.pread(self.open[name], length, offset)

    def forget(self, path: Path) -> None:
        with self.lock:
            handle = self.open.pop(os.fspath(path), None)
            if handle is not None:
                os.close(handle)


_open_files = _OpenFiles()


def read_range(path: Path, offset: int, length: int) -> bytes:
    """length bytes at offset, through a kept-open descriptor; fewer only where the file ends."""
    if not isinstance(path, Path):  # an address (`unimo.corpus.remote`)
        return path.read_range(offset, length)
    try:
        return _open_files.read(path, offset, length)
    except OSError as error:
        raise _unreadable(path, error) from error


def held(path: Path) -> AbstractContextManager[None]:
    """Around reading a file from end to end: what lies behind an address is copied to this machine meanwhile."""
    return nullcontext() if isinstance(path, Path) else path.copied()


def forget(path: Path) -> None:
    """Drop the kept-open descriptor, so that the next read sees a file that was replaced."""
    _open_files.forget(path)
