"""Writer of checkpoints: under another name first, and read back before an older one goes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unimo.checkpoint import manifest as layout
from unimo.checkpoint.manifest import MANIFEST, STATE, SUFFIX, candidates, order, verify
from unimo.disk import disk_error, sync_folder, write_new
from unimo.errors import NumericsError, ResourceError, UsageError, WeightsError
from unimo.json_files import json_bytes

_log = logging.getLogger(__name__)
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def save(
    folder: str | Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], *, keep: int = 2
) -> Path:
    """Writes one checkpoint into `folder` and returns its path; on any failure the earlier ones are untouched.

    tensors: group -> name -> tensor on any device. Each must own its memory: save tied weights once and tie them again
    after loading. state: what JSON holds exactly (no NaN, no tuples). keep: how many verified checkpoints stay, at
    least 2. One process at a time may save into a folder. A group is held once more in memory while it is written.

    Raises NumericsError for a tensor that is not finite, UsageError for arguments and DataError for a state that cannot
    be saved, leaving nothing behind; ResourceError when the disk is full or fails.
    """
    folder = Path(folder)
    _check(step, tensors, keep)
    state_bytes = json_bytes(state, where=STATE)
    if not isinstance(state, dict) or len(state_bytes) > layout.MAX_STATE:
        got, do = f"{type(state).__name__} of {len(state_bytes)} bytes as JSON", "save arrays as tensors"
        raise UsageError("unfit state", got=got, expected=f"a dictionary of at most {layout.MAX_STATE} bytes", do=do)
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            sync_folder(folder.parent)
        for kind in ("partial", "trash"):  # half-written or half-deleted by processes that were killed
            for path in folder.glob(f"step-*.{kind}.*"):
                shutil.rmtree(path)
        _refuse_newer(folder, step)
        path = _write(folder, step, tensors, state_bytes)
    except OSError as fault:
        size = len(state_bytes) + sum(x.nbytes for named in tensors.values() for x in named.values())
        free = shutil.disk_usage(folder).free if folder.exists() else None
        raise disk_error(fault, folder, needed=size, free=free) from fault
    _verify_written(path)
    _purge(path, keep)
    return path


def _check(step: int, tensors: dict[str, dict[str, Tensor]], keep: int) -> None:
    """Refuses what cannot be saved, as far as the safetensors library does not."""
    if type(step) is not int or step < 0:
        raise UsageError("a checkpoint needs the step it was taken at", got=step, expected="a whole number >= 0")
    if keep < 2:
        raise UsageError("too few checkpoints kept", where="keep", got=keep, expected="at least 2: one may rot")
    for group, named in tensors.items():
        if not _GROUP.fullmatch(group):
            raise UsageError("a group's name becomes a file name", got=group, expected="letters, digits, _ and -")
        owner: dict[int, str] = {}
        for name, tensor in named.items():
            where = f"{group}: {name}"
            if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or tensor.is_meta:
                raise UsageError("a tensor cannot be saved", where=where, got=type(tensor), expected="a dense tensor")
            # Two names for one memory would come back as two tensors, and a tie would silently be cut.
            if tensor.numel() and (other := owner.setdefault(tensor.untyped_storage().data_ptr(), name)) != name:
                do = "leave one of them out and tie it again after loading"
                raise UsageError("two tensors share memory", where=f"{where} and {other}", do=do)
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                got = f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} values NaN or infinite"
                do = "go back to the last checkpoint; a lower learning rate often helps"
                raise NumericsError("a tensor is not finite; nothing was saved", where=where, got=got, do=do)


def _refuse_newer(folder: Path, step: int) -> None:
    """A good checkpoint of a later step would win at the next start, and this one be lost to the run."""
    for path in candidates(folder):
        with contextlib.suppress(WeightsError):
            if order(path)[0] > step and verify(path):
                what, do = "the folder holds a checkpoint of a later step", "use another folder, or remove that one"
                raise UsageError(what, where=path, got=f"step {step} to save", do=do)


def _write(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: bytes) -> Path:
    partial = folder / f"step-{step:08d}.partial.{secrets.token_hex(4)}"
    files: dict[str, dict[str, Any]] = {}

    def write(name: str, data: bytes) -> None:
        # The hash is of what was meant, not of what the disk gives back.
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_new(partial / name, data)

    try:
        partial.mkdir()
        for group, named in tensors.items():
            write(f"{group}{SUFFIX}", _serialized(group, named))
        write(STATE, state)
        manifest = {"format": "unimo", "version": layout.FORMAT_VERSION, "step": step, "files": files}
        write_new(partial / MANIFEST, layout.sealed(manifest))
        sync_folder(partial)
        again = [order(path)[1] for path in candidates(folder) if order(path)[0] == step]
        path = folder / (f"step-{step:08d}.{max(again) + 1}" if again else f"step-{step:08d}")
        partial.replace(path)
        sync_folder(folder)
        return path
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already when all went well


def _serialized(group: str, named: dict[str, Tensor]) -> bytes:
    try:
        return safetensors.torch.save({name: x.detach().cpu().contiguous() for name, x in named.items()})
    except (SafetensorError, KeyError, TypeError, ValueError) as fault:
        raise UsageError("tensors that cannot be saved", where=group, got=fault) from fault


def _verify_written(path: Path) -> None:
    try:
        verify(path)
    except WeightsError as fault:
        with contextlib.suppress(OSError):
            _remove(path)
        what = "the disk gave back other bytes than were written; earlier checkpoints are intact"
        do = "check the disk before going on"
        raise ResourceError(what, where=path, got=fault.one_line(), do=do) from fault


def _purge(newest: Path, keep: int) -> None:
    """Removes what is older than `newest`, but only once `keep` checkpoints, `newest` included, have been verified."""
    good = 1
    for path in candidates(newest.parent):
        if order(path) >= order(newest):
            continue
        if good < keep:
            with contextlib.suppress(WeightsError):
                good += bool(verify(path))
                continue
        try:
            _remove(path)
        except OSError as fault:  # the new checkpoint is safe: no reason to stop a run
            _log.warning("could not remove old checkpoint %s: %s", path, fault.strerror)


def _remove(path: Path) -> None:
    """Renamed first, so that a half-deleted checkpoint can never be taken for a damaged one."""
    shutil.rmtree(path.replace(path.with_name(f"{path.name}.trash.{secrets.token_hex(4)}")))
