"""Writing a checkpoint: under another name first, and read back before an older one goes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from unimo.checkpoint.disk import Disk, locked
from unimo.checkpoint.layout import FORMAT_VERSION, MANIFEST, MAX_STATE, STATE, candidates, free_name, place
from unimo.checkpoint.manifest import sealed, verify
from unimo.checkpoint.refusals import check_arguments, refuse_non_finite, refuse_shared_memory
from unimo.checkpoint.tensor_files import safetensors_pieces
from unimo.disk import disk_error
from unimo.errors import ResourceError, UsageError, WeightsError
from unimo.json_files import json_bytes

_log = logging.getLogger(__name__)


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
    check_arguments(step, tensors, keep, format_version)
    refuse_shared_memory(tensors)
    refuse_non_finite(tensors)
    state_bytes = json_bytes(state, where=STATE)
    if not isinstance(state, dict) or len(state_bytes) > MAX_STATE:
        raise UsageError(
            "unfit state",
            got=f"{type(state).__name__} of {len(state_bytes)} bytes as JSON",
            expected=f"a dictionary of at most {MAX_STATE} bytes",
            do="save arrays as tensors",
        )
    contents = {f"{group}.safetensors": safetensors_pieces(named) for group, named in tensors.items()}
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
        with contextlib.suppress(OSError), locked(remnant) as alone:
            if alone:  # whoever is still writing it holds its lock
                shutil.rmtree(remnant)
                removed.append(remnant.name)
    return removed


def _refuse_newer(folder: Path, step: int) -> None:
    """A good checkpoint of a later step would win at the next start, and this one be lost to the run."""
    for path in candidates(folder):
        if place(path)[0] <= step:
            return
        with contextlib.suppress(WeightsError):
            verify(path)
            raise UsageError(
                "the folder holds a checkpoint of a later step",
                where=path,
                got=f"step {step} to save",
                expected=f"a step of at least {place(path)[0]}",
                do="use another folder, or remove the later checkpoint",
            )


def _require_space(folder: Path, size: int, disk: Disk) -> None:
    last = candidates(folder)[:1]
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
        with locked(partial):
            for name, chunks in contents.items():
                files[name] = _write_file(partial / name, chunks, durable, disk)
            manifest = {"format": "unimo", "version": format_version, "step": step, "files": files}
            _write_file(partial / MANIFEST, iter([sealed(manifest)]), durable, disk)
            if durable:
                disk.sync_folder(partial)
            path = free_name(folder, step)
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
    for path in candidates(newest.parent):
        if place(path) >= place(newest):
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
