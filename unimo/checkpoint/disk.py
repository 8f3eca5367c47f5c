"""The calls by which a checkpoint reaches the disk, and the lock of a folder that is being written."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from unimo.disk import sync_folder


class Disk:
    """The only calls by which `save` touches the disk: tests put a full or dying one in its place."""

    def free(self, folder: Path) -> int:
        """Bytes an ordinary user may still write."""
        return shutil.disk_usage(folder).free

    def make(self, folder: Path) -> None:
        folder.mkdir()

    def create(self, path: Path) -> BinaryIO:
        return path.open("xb", buffering=0)

    def write(self, file: BinaryIO, data: bytes | memoryview) -> int:
        return file.write(data)

    def sync(self, file: BinaryIO) -> None:
        """Returns when the file's bytes are on the disk; drops them from memory so that verifying reads the
        disk."""
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def sync_folder(self, folder: Path) -> None:
        """Returns when the names in the folder are on the disk."""
        sync_folder(folder)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def remove(self, path: Path) -> None:
        """Removes a file or an empty folder."""
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Holds the folder's lock, which the system releases when this process dies. False: another process holds
    it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        except OSError:  # a file system without locks: the run folder's lock is then the only guard
            alone = True
        yield alone
    finally:
        os.close(descriptor)
