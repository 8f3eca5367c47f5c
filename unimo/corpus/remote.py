"""Shards behind an address (s3://, gs://, https:// ...), read by range through fsspec.

While a shard is indexed it lies in a nameless file of this machine, fetched piece by piece; afterwards an image is one
request. A request that breaks, or whose answer has another length than was asked for, is made again, then an error.
What is secret may not stand in an address, so that messages, indexes and settings can hold it as it is.
"""

from __future__ import annotations

import glob
import io
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from unimo.corpus.finding import Found, Kind, Source
from unimo.disk import disk_error
from unimo.errors import DataError, UnimoError, UsageError
from unimo.extras import optional
from unimo.file_access import Unread
from unimo.formats.tables import ending_of, form_of
from unimo.paths import names_of

WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before a request is made again
TIMEOUT = 40  # seconds of a request: all tries together are less than a loader waits for a batch
LISTING = 600  # seconds of a listing, which may have a million names
PIECE = 2**23  # bytes of a request at most
TABLES = ("jsonl", "csv", "tsv")
READ: dict[Kind, str] = {
    **dict.fromkeys(("pairs", "images"), "WebDataset .tar"),
    "texts": ".jsonl, .ndjson, .csv or .tsv, each also as .gz",
}
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}
_VERSIONS = "etag checksum md5hash content-md5 crc32c blob_id last-modified lastmodified last_modified mtime created"
"""What stores say of a file that changes with it, the surest first."""
_SECRET = re.compile(r"[^/@:]*:(?!\d+/)[^@]*@")  # user:password@, where host:port/ is none


class Status(NamedTuple):
    """What `os.stat` says of a file. st_mtime_ns: no time, but another number for another content."""

    st_size: int
    st_mtime_ns: int
    st_mode: int = stat.S_IFREG | 0o444


_statuses: dict[Remote, Status] = {}
_copies: dict[Remote, Any] = {}  # address -> the open file that holds it


class Remote(PurePosixPath):
    """The address of a shard, for readers of local files."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def absolute(self) -> Remote:
        return self

    resolve = absolute

    def is_dir(self) -> bool:
        return False

    def is_file(self) -> bool:
        return True  # else it were not found

    exists = is_file

    def stat(self) -> Status:
        if self not in _statuses:
            _statuses[self] = _status(self, _ask(self, "info"))
        return _statuses[self]

    def open(self, mode: str = "rb") -> BinaryIO:
        return io.BufferedReader(_Ranges(self), 2**18)

    def read_range(self, offset: int, length: int) -> bytes:
        """length bytes at offset, fewer only where the file ends. Raises Unread."""
        if (copy := _copies.get(self)) is not None:
            return os.pread(copy.fileno(), length, offset)
        end = min(offset + length, self.stat().st_size)
        pieces = ((at, min(at + PIECE, end)) for at in range(offset, end, PIECE))
        return b"".join(_ask(self, "cat_file", length=b - a, start=a, end=b) for a, b in pieces)

    @contextmanager
    def copied(self) -> Iterator[None]:
        """Inside, reading is from a copy. Raises DataError where the shard changed meanwhile."""
        before = self._status_now()
        try:
            with tempfile.TemporaryFile(buffering=0) as copy:
                for at in range(0, before.st_size, PIECE):
                    _write(copy, self.read_range(at, PIECE))
                _copies[self] = copy
                yield
        finally:
            _copies.pop(self, None)
        if self._status_now() != before:
            what, expected = "shard changed while it was being indexed", "a shard that nobody writes to"
            raise DataError(what, where=self, expected=expected, do="wait until it is written, then start again")

    def _status_now(self) -> Status:
        _store(self)[0].invalidate_cache()
        _statuses.pop(self, None)
        return self.stat()


class _Ranges(io.RawIOBase):
    """A remote file from its beginning on."""

    def __init__(self, address: Remote):
        self.address, self.at = address, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.address.stat().st_size)[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        data = self.address.read_range(self.at, len(buffer))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def find_remote(kind: Kind, entry: str, found: Found) -> None:
    """Adds the shards behind an address, in which braces and, where the store lists its files, * may stand."""
    _refuse_secrets(entry)
    _store(Remote(entry))[0].invalidate_cache()  # listings of an earlier look
    listed: dict[Remote, Any] = {}
    for name in names_of(entry):
        listed |= _matches(name) if glob.has_magic(name) else {Remote(name): None}
    with ThreadPoolExecutor(16) as pool:
        failures = [error for error in pool.map(_look, listed, listed.values()) if error is not None]
        if failures:
            more = f" and {len(failures) - 3} more" if len(failures) > 3 else ""
            failures[0].where = ", ".join(str(error.where) for error in failures[:3]) + more
            raise failures[0]
        forms = dict(zip(listed, pool.map(partial(_form, kind), listed)))
    shards = [Source(cast(Path, address), form) for address, form in forms.items() if form]
    for address in (address for address, form in forms.items() if form is None):
        found.notes.tell(f"files at an address that are not read as {kind}", address.name)
    if not shards:
        got = ", ".join(address.name for address in list(listed)[:3]) or "nothing matches"
        do = "name shards of this form, as in s3://bucket/train-{000..099}.tar, or fetch the files and name them here"
        raise DataError(f"no {kind} found at an address", where=entry, got=got, expected=READ[kind], do=do)
    found.sources += shards


def _refuse_secrets(address: str) -> None:
    protocol, _, rest = address.partition("://")
    web, query = protocol.startswith("http"), rest.partition("?")[2]
    secret = _SECRET.match(rest) or (web and ("@" in rest.partition("/")[0] or query)) or "=" in query
    if not (secret or any(odd in rest for odd in ("::", "//", "\0"))):
        return
    got = f"{protocol}://{rest.rpartition('@')[2].partition('?')[0]}"
    expected = "host or bucket and name: no user, password, signature (?...), :: or empty part"
    do = "leave what is secret to the environment, ~/.netrc, or the settings of fsspec and the store's library"
    raise UsageError("not an address that is read", where="an address", got=got, expected=expected, do=do)


def _matches(pattern: str) -> dict[Remote, Any]:
    """The files of a pattern with what the listing says of them."""
    found = _ask(Remote(pattern), "glob", detail=True, timeout=LISTING)
    begin = pattern.partition("://")[0] + "://"
    named = {name if "://" in name else begin + name.lstrip("/"): info for name, info in found.items()}
    return {Remote(name): info for name, info in named.items() if info.get("type") != "directory"}


def _look(address: Remote, info: dict[str, Any] | None) -> Unread | None:
    """Remembers the state of a file, or says why there is none."""
    try:
        listed = info if info and info.get("size") is not None else None  # of a page of links nothing is known
        _statuses[address] = _status(address, listed or _ask(address, "info"))
    except Unread as error:
        return error
    return None


def _form(kind: Kind, address: Remote) -> str | None:
    name = address.name.lower()
    if kind != "texts":
        return "tar" if name.endswith(".tar") else None
    form = form_of(cast(Path, address)) if ending_of(name) in (*TABLES, "ndjson") else None
    return form if form in TABLES else None


def _status(address: Remote, info: dict[str, Any]) -> Status:
    if info.get("type") == "directory":
        do = f"name the shards in it, as in {address}/*.tar"
        raise Unread("not a file", where=address, got="a folder", expected="a shard", do=do)
    if info.get("size") is None or info.get("partial") is False:
        got = "no length" if info.get("size") is None else "Accept-Ranges: none"
        raise _no_ranges(got, address)
    said = {name.lower(): value for name, value in info.items()}
    version = next((said[name] for name in _VERSIONS.split() if said.get(name)), "")
    version = version.timestamp() if isinstance(version, datetime) else version  # one listing's, another's number
    return Status(int(info["size"]), int.from_bytes(str(version).strip('"').encode(), "big"))


def _no_ranges(got: str, where: object = None) -> Unread:
    expected, do = "a server that gives the length of a file and parts of it (Range)", "fetch the shard first"
    return Unread("server does not serve parts of a file", where=where, got=got, expected=expected, do=do)


def _write(file: BinaryIO, data: bytes) -> None:
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as fault:
        raise disk_error(fault, f"{tempfile.gettempdir()} (TMPDIR), where a shard is kept while indexed") from fault


# ---- requests


def _ask(address: Remote, method: str, timeout: int = TIMEOUT, length: int | None = None, **options: Any) -> Any:
    """What a method of the store answers, asked for again while it fails in a way that may pass. length: of it."""
    for wait in (*WAITS, None):
        fault: Any
        try:
            store, name = _store(address)
            limits: dict[str, Any] = {"timeout": timeout} if store.async_impl else {}
            if not store.async_impl and length is not None:
                limits["cache_type"] = "none"  # else each request would read ahead
            answer = getattr(store, method)(name, **options, **limits)
            if length is None or len(answer) == length:
                return answer
            fault = f"{len(answer)} of {length} bytes ({options})"
        except UnimoError as error:
            error.where = error.where or address
            raise
        except Exception as error:  # each library has its own
            fault = _cause(address, error)
            if _lasts(fault):
                break
        if wait is not None:
            time.sleep(wait)
    missing = isinstance(fault, FileNotFoundError) or getattr(fault, "status", None) in (404, 410)
    got = fault if isinstance(fault, str) else f"{type(fault).__name__}: {fault}"
    got = re.sub(r"\?[^\s'\")]*", "?...", got)[:300]  # a server may have led on to an address with a signature
    what = "file is missing" if missing else "cannot read from an address"
    do = "correct the address" if missing else "look at the network, the store and the credentials, then start again"
    raise Unread(what, where=address, got=got, expected="a readable file", do=do)


def _cause(address: Remote, error: Exception) -> BaseException:
    """fsspec says of whatever goes wrong over HTTP that the file is not there."""
    hidden = isinstance(error, FileNotFoundError) and str(address).startswith("http")
    return error.__cause__ if hidden and error.__cause__ is not None else error


def _lasts(fault: object) -> bool:
    status = getattr(fault, "status", 0)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    return refused or isinstance(fault, (FileNotFoundError, PermissionError, IsADirectoryError))


def _store(address: Remote) -> tuple[Any, str]:
    """fsspec's filesystem, one for each process, and what it calls the address."""
    protocol = str(address).partition("://")[0]
    do = 'pip install "unimo[remote]"'
    fsspec = optional("fsspec", "an address", do, where=address)
    try:
        return fsspec.core.url_to_fs(str(address), **(_http(fsspec, protocol) if protocol.startswith("http") else {}))
    except ImportError as fault:
        do = f"pip install {_LIBRARIES[protocol]}" if protocol in _LIBRARIES else do
        what, expected = f"{protocol}:// needs another library", "the library of this store"
        raise UsageError(what, where=address, got=fault, expected=expected, do=do) from fault
    except Exception as fault:  # adlfs without the name of an account, and the like
        what, expected = "cannot open the store of an address", "what the store's library asks for"
        do = "give it by the environment or fsspec's settings"
        raise Unread(what, where=address, got=fault, expected=expected, do=do) from fault


def _http(fsspec: Any, protocol: str) -> dict[str, Any]:
    """The user's settings of fsspec, and that a part is refused where a server sends the whole."""
    given = fsspec.config.conf.get(protocol, {})
    client = {"trust_env": True, **given.get("client_kwargs", {}), "raise_for_status": _refuse_whole}
    return {**given, "headers": {**given.get("headers", {}), "Accept-Encoding": "identity"}, "client_kwargs": client}


async def _refuse_whole(response: Any) -> None:
    if response.request_info.headers.get("Range") and response.status == 200:
        raise _no_ranges("the whole file instead of a part")
