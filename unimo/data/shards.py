"""Where bytes lie: positioned reads, the members of a tar, and the sidecar index that remembers both.

Nothing here runs, extracts or follows what the data says: a tar is read at its offsets by our own header
parser (every header's checksum is verified, and a broken one is reported with its offset instead of ending
the archive), and an index is a safetensors file of plain arrays with string metadata.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from unimo.errors import DataError, ResourceError
from unimo.paths import user_path

# --- files ----------------------------------------------------------------------------------------

MAX_MEMBER_BYTES = 256 * 2**20  # one image or JSON object; larger is damage or an attack, not a sample


class Unread(DataError):
    """A file that cannot be read now and perhaps can tomorrow: nothing to be remembered."""


def stat_regular(path: Path) -> os.stat_result:
    """The status of a regular file (links are followed); never opens pipes, devices or folders."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        dangling = os.path.islink(path)  # noqa: PTH114 - answers also for names that no file can have
        raise Unread(
            "file is missing" if isinstance(error, FileNotFoundError) else "cannot read file",
            where=path,
            got="a link to nothing" if dangling else getattr(error, "strerror", None) or str(error),
            expected="a readable regular file",
            do="restore the file or correct the path",
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            "not a regular file",
            where=path,
            got=stat.filemode(status.st_mode),
            expected="a regular file (no pipe, device or folder)",
            do="replace it or leave it out",
        )
    return status


def read_file(path: Path, limit: int = MAX_MEMBER_BYTES) -> bytes:
    """All bytes of a small regular file."""
    size = stat_regular(path).st_size
    if size > limit:
        raise DataError(
            "file is too large",
            where=path,
            got=f"{size} bytes",
            expected=f"at most {limit} bytes",
            do="make it smaller or leave it out",
        )
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
    return Unread(
        "cannot read file",
        where=path,
        got=error.strerror or str(error),
        expected="a readable file",
        do="check the file, its permissions and its disk",
    )


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
    try:
        return _open_files.read(path, offset, length)
    except OSError as error:
        raise _unreadable(path, error) from error


def forget(path: Path) -> None:
    """Drop the kept-open descriptor, so that the next read sees a file that was replaced."""
    _open_files.forget(path)


# --- tar ------------------------------------------------------------------------------------------

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


# --- index ----------------------------------------------------------------------------------------

INDEX_VERSION = 2  # 2: what is passed over is not bad; named pictures; what could not be read is tried again


class Strings(Sequence[str]):
    """A list of strings held as two arrays, cheap to share between processes."""

    def __init__(self, blob: np.ndarray, offsets: np.ndarray):
        self.blob, self.offsets = blob, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = index % len(self)
        return self.blob[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "surrogateescape")


def pack_strings(values: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """(blob of UTF-8 bytes, offsets of length n + 1). Names of files keep bytes that are not UTF-8."""
    encoded = [_encoded(value) for value in values]
    return np.frombuffer(b"".join(encoded), np.uint8), offsets_of([len(value) for value in encoded])


def _encoded(value: str) -> bytes:
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character out of a JSON escape
        return value.encode("utf-8", "backslashreplace")


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each of the concatenated pieces begins, and the end: int64, length n + 1."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


@dataclass
class Index:
    """What is remembered of one shard: string metadata and plain arrays (see `sources.build_index` for their
    names)."""

    header: dict[str, str]
    arrays: dict[str, np.ndarray]

    @property
    def counts(self) -> dict[str, int]:
        return json.loads(self.header["counts"])

    @property
    def quarantined(self) -> list[dict]:
        return json.loads(self.header["quarantined"])


def save_index(path: Path, index: Index) -> None:
    """Write beside, flush to disk, then rename: a reader finds the old index or the new one, never half of
    one."""
    header = {**index.header, "format": "unimo-index", "version": str(INDEX_VERSION)}
    header["self_sha256"] = _self_hash(header, index.arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".unimo-", suffix=".partial")
        os.close(handle)
        try:
            arrays = {k: np.ascontiguousarray(v) for k, v in index.arrays.items()}
            with open(name, "wb") as written:  # noqa: PTH123 - a descriptor to flush
                written.write(_in_order(save(arrays, metadata=header)))
                written.flush()
                os.fsync(written.fileno())
            os.chmod(name, 0o644)  # noqa: PTH101 - mkstemp's 0600 would hide it from other users of the shard
            os.replace(name, path)  # noqa: PTH105
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108
            raise
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            "cannot write the index",
            where=path,
            got=getattr(error, "strerror", None) or str(error),
            expected="room and permission beside the shard, or in index_dir",
            do="free disk space, or name a writable folder as index_dir",
        ) from error


def _in_order(data: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library leaves them in the random order of a hash map."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def load_index(path: Path) -> Index | None:
    """The stored index, or None when there is none that can be trusted: it is then simply built again."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as stored:
            header = dict(stored.metadata() or {})
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, ValueError):
        return None
    claimed = header.pop("self_sha256", None)
    if header.get("format") != "unimo-index" or header.get("version") != str(INDEX_VERSION):
        return None
    return Index(header, arrays) if claimed == _self_hash(header, arrays) else None


def _self_hash(header: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def index_path(shard: Path, kind: str, index_dir: Path | None) -> Path:
    """Beside the shard (a folder's index lies inside it), or under index_dir, or under the user's cache
    folder.

    The kind is part of the name, since one tar may serve as pairs in one run and as images in another.
    """
    if index_dir is None:
        home = shard if shard.is_dir() else shard.parent
        if os.access(home, os.W_OK) and home.stat().st_mode & 0o222:  # root may write where nobody should
            return home / (
                f".unimo-{kind}.index.safetensors" if shard.is_dir() else f"{shard.name}.{kind}.index.safetensors"
            )
        where = "the folder of indexes, where none may lie beside the shards; name one as index_dir"
        cache = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", where)
        index_dir = cache / "unimo" / "index"
    place = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:12]
    return index_dir / f"{shard.name}-{place}.{kind}.index.safetensors"
