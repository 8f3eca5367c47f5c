"""Checkpoints that survive kills, power cuts, full disks and rotting bits, and never execute code.

A checkpoint is one folder:

    step-00001234/
      model.safetensors  optimizer.safetensors  ...     one file per group of tensors
      state.json                                        everything that is not a tensor
      MANIFEST.json                                     format version, step; size and SHA-256 of each file

`save` writes it under another name, flushes it to the disk, renames it, reads it back and only then lets
older ones go. There is no "latest" pointer that could be torn or point to nothing: `latest` looks, verifies
and picks the newest good one, and says what it passed over. A step saved again stands beside the first as
`step-00001234.1`, because replacing a folder would take two renames with nothing between them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unimo.config import disk_error, json_bytes, load_json, parse_json
from unimo.errors import NumericsError, ResourceError, UsageError, WeightsError, nearest

FORMAT_VERSION = 1
MANIFEST, STATE = "MANIFEST.json", "state.json"

_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.(safetensors|json)")
_CHUNK = 4 << 20
_MAX_HEADER = 16 << 20  # names and shapes of about 100,000 tensors
_MAX_STATE = 64 << 20
_MAX_MANIFEST = 1 << 20
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.bool: "BOOL", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16",
    torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns. tensors: group -> name -> tensor; state: as it was saved, to the last bit."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    path: Path


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
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def remove(self, path: Path) -> None:
        """Removes a file or an empty folder."""
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


# ------------------------------------------------------------------------------------------------ save


def save(
    folder: str | Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    *,
    keep: int = 2,
    durable: bool = True,
    format_version: int = FORMAT_VERSION,
    disk: Disk | None = None,
) -> Path:
    """Writes one checkpoint into `folder` and returns its path; on any failure the earlier ones are
    untouched.

    tensors: group -> name -> tensor on any device. Each must own its memory: save tied weights once and tie
    them again after loading. state: what JSON holds exactly (no NaN, no tuples). keep: how many verified
    checkpoints stay, at least 2. durable=False skips the flushes to disk: still safe against kills, not
    against power cuts.

    Raises NumericsError for a tensor that is not finite, UsageError for arguments and DataError for a state
    that cannot be saved, all before anything is written; ResourceError when the disk is full or fails.
    """
    folder, disk = Path(folder), disk or Disk()
    _check_arguments(step, tensors, keep, format_version)
    _refuse_shared_memory(tensors)
    _refuse_non_finite(tensors)
    state_bytes = json_bytes(state, where=STATE)
    if not isinstance(state, dict) or len(state_bytes) > _MAX_STATE:
        raise UsageError(
            "unfit state",
            got=f"{type(state).__name__} of {len(state_bytes)} bytes as JSON",
            expected=f"a dictionary of at most {_MAX_STATE} bytes",
            do="save arrays as tensors",
        )
    contents = {f"{group}.safetensors": _safetensors(named) for group, named in tensors.items()}
    contents[STATE] = iter([state_bytes])
    size = len(state_bytes) + sum(t.numel() * t.itemsize for named in tensors.values() for t in named.values())

    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            if durable:
                disk.sync_folder(folder.parent)
        clean_up(folder)
        _refuse_newer(folder, step)
        _require_space(folder, size, disk)
        path = _write(folder, step, contents, durable, format_version, disk)
    except OSError as fault:
        free = shutil.disk_usage(folder).free if folder.exists() else None
        raise disk_error(fault, folder, needed=size, free=free) from fault
    _verify_written(path, disk)
    _purge(path, keep, disk)
    return path


def clean_up(folder: str | Path) -> list[str]:
    """Removes what killed processes left half-written or half-deleted; returns the names. `save` calls it
    first."""
    removed = []
    for remnant in sorted(Path(folder).glob("step-*.*.*")):
        if remnant.name.split(".")[-2] not in ("partial", "trash"):
            continue
        with contextlib.suppress(OSError), _locked(remnant) as alone:
            if alone:  # whoever is still writing it holds its lock
                shutil.rmtree(remnant)
                removed.append(remnant.name)
    return removed


def _check_arguments(step: int, tensors: dict[str, dict[str, Tensor]], keep: int, format_version: int) -> None:
    if type(step) is not int or step < 0:
        raise UsageError("a checkpoint needs the step it was taken at", got=step, expected="a whole number >= 0")
    if keep < 2:
        raise UsageError("too few checkpoints kept", where="keep", got=keep, expected="at least 2: one may rot")
    if not 1 <= format_version <= FORMAT_VERSION:
        raise UsageError("unknown checkpoint format", got=format_version, expected=f"1 to {FORMAT_VERSION}")
    for group, named in tensors.items():
        if not _GROUP.fullmatch(group):
            raise UsageError("a group's name becomes a file name", got=group, expected="letters, digits, _ and -")
        for name, tensor in named.items():
            kind = "not a tensor" if not isinstance(tensor, Tensor) else None
            if kind is None and (tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype not in _DTYPES):
                kind = f"{tensor.dtype} {tensor.layout} on {tensor.device}"
            if kind or name == "__metadata__":
                raise UsageError(
                    "a tensor cannot be saved",
                    where=f"{group}: {name}",
                    got=kind or name,
                    expected="a dense tensor of float, integer or bool",
                )


def _refuse_shared_memory(tensors: dict[str, dict[str, Tensor]]) -> None:
    """Two names for one memory would come back as two tensors, and a tie would silently be cut."""
    for group, named in tensors.items():
        spans = []  # (storage, first byte, end byte, name)
        for name, tensor in named.items():
            if tensor.numel():
                first = tensor.storage_offset() * tensor.itemsize
                reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
                storage = tensor.untyped_storage().data_ptr()
                spans.append((storage, first, first + (reach + 1) * tensor.itemsize, name))
        spans.sort()
        for one, other in itertools.pairwise(spans):
            if one[0] == other[0] and other[1] < one[2]:
                raise UsageError(
                    "two tensors share memory",
                    where=f"{group}: {one[3]} and {other[3]}",
                    expected="every tensor once",
                    do="leave one of them out and tie it again after loading",
                )


def _refuse_non_finite(tensors: dict[str, dict[str, Tensor]]) -> None:
    for group, named in tensors.items():
        for name, tensor in named.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                bad = int((~torch.isfinite(tensor)).sum())
                raise NumericsError(
                    "a tensor is not finite; nothing was saved",
                    where=f"{group}: {name}",
                    got=f"{bad} of {tensor.numel()} values NaN or infinite",
                    expected="finite values",
                    do="go back to the last checkpoint; a lower learning rate often helps",
                )


def _refuse_newer(folder: Path, step: int) -> None:
    """A good checkpoint of a later step would win at the next start, and this one be lost to the run."""
    for path in _candidates(folder):
        if _place(path)[0] <= step:
            return
        with contextlib.suppress(WeightsError):
            verify(path)
            raise UsageError(
                "the folder holds a checkpoint of a later step",
                where=path,
                got=f"step {step} to save",
                expected=f"a step of at least {_place(path)[0]}",
                do="use another folder, or remove the later checkpoint",
            )


def _require_space(folder: Path, size: int, disk: Disk) -> None:
    last = _candidates(folder)[:1]
    with contextlib.suppress(OSError):  # an earlier one may be damaged; it is only a hint of the size
        size = max([size, *(sum(file.stat().st_size for file in path.iterdir()) for path in last)])
    needed, free = int(1.2 * size), disk.free(folder)
    if free < needed:
        raise ResourceError(
            "not enough disk space for a checkpoint; earlier ones are intact",
            where=folder,
            got=f"{free} bytes free",
            expected=f"{needed} bytes (1.2 x its size)",
            do="free some space, then resume",
        )


def _write(
    folder: Path,
    step: int,
    contents: dict[str, Iterator[bytes | memoryview]],
    durable: bool,
    format_version: int,
    disk: Disk,
) -> Path:
    partial = folder / f"step-{step:08d}.partial.{secrets.token_hex(4)}"
    files: dict[str, dict[str, Any]] = {}
    try:
        disk.make(partial)
        with _locked(partial):
            for name, chunks in contents.items():
                files[name] = _write_file(partial / name, chunks, durable, disk)
            manifest = {"format": "unimo", "version": format_version, "step": step, "files": files}
            _write_file(partial / MANIFEST, iter([_sealed(manifest)]), durable, disk)
            if durable:
                disk.sync_folder(partial)
            path = _free_name(folder, step)
            disk.rename(partial, path)
            if durable:
                disk.sync_folder(folder)
            return path
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already when all went well


def _write_file(path: Path, chunks: Iterator[bytes | memoryview], durable: bool, disk: Disk) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with disk.create(path) as file:
        for chunk in chunks:
            rest = memoryview(chunk)
            digest.update(rest)
            size += len(rest)
            while rest:  # the system may take less than it was offered
                rest = rest[disk.write(file, rest) :]
        if durable:
            disk.sync(file)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _safetensors(named: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The safetensors format in pieces: header size (8 bytes), JSON header, raw tensors without gaps.

    Written here rather than by the library because that would hold every byte once more in memory and open
    the file itself, out of reach of fault injection. Reading is left to the library; the tests compare the
    two.
    """
    # Widest types first, as the library does, so that each tensor starts at a multiple of its item size.
    order = sorted(named, key=lambda name: (-named[name].itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        tensor = named[name]
        start, end = end, end + tensor.numel() * tensor.itemsize
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise UsageError("too many tensors in one group", got=f"{len(named)} tensors", do="split the group")
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        raw = named[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        for piece in raw.split(_CHUNK) if raw.numel() else ():
            yield memoryview(piece.numpy())


def _sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest with a hash over itself, so that no bit of it can change unnoticed either."""
    return json_bytes({**manifest, "seal": hashlib.sha256(json_bytes(manifest)).hexdigest()})


def _verify_written(path: Path, disk: Disk) -> None:
    try:
        verify(path)
    except WeightsError as fault:
        with contextlib.suppress(OSError):
            _trash(path, disk)
        raise ResourceError(
            "the disk gave back other bytes than were written; earlier checkpoints are intact",
            where=path,
            got=fault.one_line(),
            do="check the disk before going on",
        ) from fault


def _purge(newest: Path, keep: int, disk: Disk) -> None:
    """Lets go what is older than `newest`, but only once `keep` checkpoints, `newest` included, have been
    verified."""
    good = 1
    for path in _candidates(newest.parent):
        if _place(path) >= _place(newest):
            continue
        if good < keep:
            with contextlib.suppress(WeightsError):
                verify(path)
                good += 1
                continue
        try:
            _trash(path, disk)
        except OSError as fault:  # the new checkpoint is safe: no reason to stop a run
            _log.warning("could not remove old checkpoint %s: %s", path, fault.strerror)


def _trash(path: Path, disk: Disk) -> None:
    """Renamed first, so that a half-deleted checkpoint can never be taken for a damaged one."""
    trash = path.with_name(f"{path.name}.trash.{secrets.token_hex(4)}")
    disk.rename(path, trash)
    for file in sorted(trash.iterdir()):
        disk.remove(file)
    disk.remove(trash)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
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


# ------------------------------------------------------------------------------------------------ load


def load(
    path: str | Path,
    *,
    groups: Iterable[str] | None = None,
    device: str | torch.device = "cpu",
    report: Callable[[str], None] = _log.warning,
) -> Checkpoint:
    """Reads one checkpoint, or the newest good one of a folder of them, after verifying every byte it uses.

    groups: only these groups of tensors (None: all). report: told of each checkpoint passed over, and why.
    Raises WeightsError: nothing there, damaged, of an unknown format, or without a wanted group.
    """
    path, wanted = Path(path), None if groups is None else list(groups)
    if (path / MANIFEST).exists() or _NAME.fullmatch(path.name):
        manifest = verify(path, groups=wanted)
    else:
        reasons: list[str] = []
        found = _newest_good(path, wanted, reasons.append)
        for reason in reasons:
            report(reason)
        if found is None:
            raise WeightsError(
                "no usable checkpoint",
                where=path,
                got="; ".join(reasons) or "no folder named step-…",
                expected=f"a folder with {MANIFEST}, or a folder of such folders",
                do="check the path" if not reasons else "restore a copy",
            )
        path, manifest = found
    tensors = {
        name.removesuffix(".safetensors"): _read_tensors(path / name, str(device))
        for name in manifest["files"]
        if name != STATE and (wanted is None or name.removesuffix(".safetensors") in wanted)
    }
    state = load_json(path / STATE, max_bytes=_MAX_STATE, error=WeightsError)
    if not isinstance(state, dict):
        raise WeightsError("malformed state", where=path / STATE, got=type(state).__name__, expected="a dictionary")
    return Checkpoint(manifest["step"], tensors, state, path)


def latest(folder: str | Path, *, report: Callable[[str], None] = _log.warning) -> Path | None:
    """The newest checkpoint in `folder` whose every byte is right, or None. Reads only.

    report: called with one line for each newer one that was passed over (file, expected and found hash).
    """
    found = _newest_good(Path(folder), None, report)
    return found[0] if found else None


def verify(path: str | Path, *, groups: Iterable[str] | None = None) -> dict[str, Any]:
    """Compares every file with the manifest's sizes and SHA-256 and returns the manifest; WeightsError names
    the file.

    groups: check the files of these groups (and the state) only.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    files = manifest["files"]
    if groups is not None:
        groups = list(groups)
        known = [name.removesuffix(".safetensors") for name in files if name != STATE]
        for group in groups:
            if group not in known:
                raise WeightsError(
                    "no such group in the checkpoint",
                    where=path,
                    got=group,
                    expected=nearest(group, known) or ", ".join(known),
                )
        files = {name: files[name] for name in (STATE, *(f"{group}.safetensors" for group in groups))}
    for name, entry in files.items():
        _check_file(path / name, entry["bytes"], entry["sha256"])
    return manifest


def _newest_good(
    folder: Path, groups: list[str] | None, report: Callable[[str], None]
) -> tuple[Path, dict[str, Any]] | None:
    for path in _candidates(folder):
        try:
            return path, verify(path, groups=groups)
        except WeightsError as fault:
            report(f"skipped checkpoint {path.name}: {fault.one_line()}")
    return None


def _read_manifest(path: Path) -> dict[str, Any]:
    where = path / MANIFEST
    if not where.is_file():
        raise WeightsError("not a complete checkpoint", where=path, expected=f"a file {MANIFEST}")
    try:
        with where.open("rb") as file:
            data = file.read(_MAX_MANIFEST)
    except OSError as fault:
        raise WeightsError("cannot read manifest", where=where, got=fault.strerror) from fault
    manifest = parse_json(data, where=where, error=WeightsError)
    if not isinstance(manifest, dict) or manifest.get("format") != "unimo":
        raise WeightsError("not the manifest of a checkpoint", where=where, expected='"format": "unimo"')
    version = manifest.get("version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise WeightsError(
            "unknown checkpoint format",
            where=where,
            got=version,
            expected=f"1 to {FORMAT_VERSION}",
            do="install the release that wrote it, or a newer one",
        )
    seal = manifest.pop("seal", None)
    if _sealed(manifest) != data:
        raise WeightsError(
            "damaged manifest",
            where=where,
            got=f"seal {seal}",
            expected=f"seal {hashlib.sha256(json_bytes(manifest)).hexdigest()}",
            do="restore a copy; an earlier checkpoint is used where there is one",
        )
    files = manifest.get("files")
    well_formed = (
        isinstance(files, dict)
        and STATE in files
        and all(_FILE.fullmatch(name) and name != MANIFEST and _is_entry(entry) for name, entry in files.items())
        and type(manifest.get("step")) is int
    )
    if not well_formed:
        raise WeightsError("malformed manifest", where=where, expected="a step, and bytes and sha256 of plain files")
    named = _NAME.fullmatch(path.name)
    if named and int(named[1]) != manifest["step"]:
        raise WeightsError(
            "the folder's name and its manifest disagree",
            where=path,
            got=f"step {manifest['step']}",
            expected=f"step {int(named[1])}",
            do="rename the folder back",
        )
    return manifest


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)


def _check_file(path: Path, size: int, sha256: str) -> None:
    if not path.is_file():
        raise WeightsError("a file of the checkpoint is missing", where=path, expected=f"{size} bytes, sha256 {sha256}")
    do = "restore a copy; an earlier checkpoint is used where there is one"
    try:
        found = path.stat().st_size
        if found != size:
            raise WeightsError(
                "a file of the checkpoint has the wrong size",
                where=path,
                got=f"{found} bytes",
                expected=f"{size} bytes, sha256 {sha256}",
                do=do,
            )
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as fault:
        raise WeightsError("cannot read a file of the checkpoint", where=path, got=fault.strerror, do=do) from fault
    if digest.hexdigest() != sha256:
        raise WeightsError(
            "a file of the checkpoint is damaged",
            where=path,
            got=f"sha256 {digest.hexdigest()}",
            expected=f"sha256 {sha256}",
            do=do,
        )


def _read_tensors(path: Path, device: str) -> dict[str, Tensor]:
    """Copies, so that nothing stays mapped to a file that may be purged."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > _MAX_HEADER:
        raise WeightsError("header too large", where=path, got=f"{header} bytes", expected=f"at most {_MAX_HEADER}")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as fault:
        raise WeightsError("not a valid safetensors file", where=path, got=fault) from fault


# ------------------------------------------------------------------------------------------------ names


def _place(path: Path) -> tuple[int, int]:
    """(step, how often this step had been saved before)."""
    named = _NAME.fullmatch(path.name)
    assert named
    return int(named[1]), int(named[2] or 0)


def _candidates(folder: Path) -> list[Path]:
    """Everything that claims to be a checkpoint, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_place, reverse=True)


def _free_name(folder: Path, step: int) -> Path:
    again = [_place(path)[1] for path in _candidates(folder) if _place(path)[0] == step]
    return folder / (f"step-{step:08d}.{max(again) + 1}" if again else f"step-{step:08d}")
