"""Archives of published weights: fetched over a connection that may break, unpacked where nothing can get out."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unimo.disk import disk_error
from unimo.errors import ResourceError, WeightsError
from unimo.json_files import load_json, write_json
from unimo.safetensors_files import expect

Progress = Callable[[int, int | None], None]  # bytes that are there, and bytes in all where the server says it
ATTEMPTS = 3  # in a row that bring nothing
CHUNK = 1 << 20
SECONDS = 30  # without a byte
MAX_MEMBERS, MAX_UNPACKED = 20_000, 64 << 30
BROKEN = (ConnectionError, TimeoutError, http.client.HTTPException, urllib.error.URLError)
VARIABLES = ("word_embedding", "text.word_embedding")  # every published model has one of them


# ---- fetching


def fetch(address: str, path: Path, *, progress: Progress = lambda *_: None) -> Path:
    """The file at an address as `path`. A download that broke off is continued, by this call or by a later one.

    What is there of it lies in NAME.partial, and in NAME.partial.json which file of the server it is part of. Raises
    ResourceError at once where there is no connection, and where it broke for good; WeightsError for an address without
    a file.
    """
    partial, stalled = path.with_name(f"{path.name}.partial"), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        before = _size(partial)
        try:
            if _receive(address, partial, progress):
                break
            fault: Exception | None = None
        except urllib.error.HTTPError as error:
            do = "look for a newer address; a file from elsewhere: unimo convert FILE OUT"
            raise WeightsError("no file at this address", where=address, got=f"HTTP {error.code}", do=do) from error
        except BROKEN as error:
            fault = error
        grown = _size(partial) > before
        stalled = 0 if grown else stalled + 1
        if not _size(partial) and fault is not None:
            got, do = getattr(fault, "reason", fault), "check the network and its proxy; nothing was changed"
            raise ResourceError("no connection", where=address, got=got, do=do) from fault
        if stalled == ATTEMPTS:
            got, do = f"{_size(partial):,} bytes so far; {fault or 'closed'}", "the same command goes on from there"
            raise ResourceError("the download broke off", where=address, got=got, do=do) from fault
        time.sleep(stalled)
    partial.replace(path)
    _note(partial).unlink()
    return path


def _receive(address: str, partial: Path, progress: Progress) -> bool:
    """Appends what is missing; False where the server stopped before the end."""
    note, have = _note(partial), _size(partial)
    known: dict[str, Any] = load_json(note, error=WeightsError) if note.is_file() else {}
    if known.get("address") != address or not known.get("version"):
        have = 0  # another file, or one that may have changed meanwhile
    if have and have == known["bytes"]:
        return True
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=SECONDS) as response:
        if response.status != 206:  # the whole file, perhaps a new one
            have, length = 0, response.headers["Content-Length"]
            known = {"address": address, "bytes": int(length) if length else None}
            known["version"] = response.headers["ETag"] or response.headers["Last-Modified"]
            write_json(note, known)
        total = known["bytes"]
        try:
            _check_room(partial, total, have)
            with partial.open("ab" if have else "wb") as file:
                progress(have, total)
                while chunk := _next(response):
                    file.write(chunk)
                    have += len(chunk)
                    progress(have, total)
        except BROKEN:
            raise
        except OSError as fault:
            raise disk_error(fault, partial) from fault
    return total is None or have == total


def _next(response: Any) -> bytes:
    try:
        return response.read(CHUNK)
    except OSError as fault:  # of the connection, whatever its class
        raise ConnectionError(str(fault)) from fault


def _check_room(partial: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if total is not None and total - have > free:
        expected, do = f"{total - have:,} bytes", "free some space, or set UNIMO_CACHE to a folder on a larger disk"
        raise ResourceError("no room for the download", where=partial.parent, got=free, expected=expected, do=do)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _note(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


# ---- unpacking


class _Bounded(gzip.GzipFile):
    """Refuses to read in one piece what a header claims: a tar reader would make room for it."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks plain files and folders into `folder`; returns the folder in it that holds the variables.

    Raises WeightsError for members that are anything else or lead out of the folder, for too many of them or too large
    ones, and for a damaged archive.
    """
    total = 0
    try:
        with _opened(archive) as tar:
            for number, member in enumerate(tar):
                where = f"{archive}, {member.name}"
                expect(member.isfile() or member.isdir(), where, "not a plain file in the archive")
                total += member.size
                fits = number < MAX_MEMBERS and total <= MAX_UNPACKED
                expected = f"at most {MAX_MEMBERS:,} files and {MAX_UNPACKED:,} bytes"
                expect(fits, where, "too large an archive", f"{number + 1:,} files, {total:,} bytes", expected)
                tar.extract(member, folder, filter="data")
    except tarfile.FilterError as fault:
        raise WeightsError("a file that would lie outside its folder", where=archive, got=fault) from fault
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, ValueError) as fault:
        raise WeightsError("a damaged archive", where=archive, got=fault, do="fetch it again") from fault
    except OSError as fault:
        raise disk_error(fault, folder) from fault
    found = sorted({path.parent for name in VARIABLES for path in folder.rglob(name)})
    expect(len(found) < 2, archive, "several models in one archive", ", ".join(path.name for path in found), "one")
    return found[0] if found else folder


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    with contextlib.ExitStack() as stack:
        packed = archive.suffix != ".tar"
        file: Any = stack.enter_context(_Bounded(archive, "rb") if packed else archive.open("rb"))
        yield stack.enter_context(tarfile.open(fileobj=file, mode="r:"))
        # To the end of the file, where its check sum is; a tar ends before it, with some zeros.
        expect(any(not file.read(CHUNK) for _ in range(64)), archive, "data behind the end of the archive")


@contextlib.contextmanager
def unpacked(source: str | Path, cache: Path, *, progress: Progress = lambda *_: None) -> Iterator[Path]:
    """The folder or file of weights that a source means: itself, what a .tar.gz holds, or what lies at an address."""
    with contextlib.ExitStack() as stack:
        if str(source).startswith(("https://", "http://")):
            name = str(source).split("?")[0].rstrip("/").rpartition("/")[2]
            source = fetch(str(source), cache / "downloads" / name, progress=progress)
        if str(source).endswith((".tar.gz", ".tgz", ".tar")) and Path(source).is_file():
            cache.mkdir(parents=True, exist_ok=True)
            room = stack.enter_context(tempfile.TemporaryDirectory(prefix="unpacked-", dir=cache))
            source = unpack(Path(source), Path(room))
        yield Path(source)
