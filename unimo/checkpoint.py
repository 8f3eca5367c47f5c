"""Checkpoints that survive kills, power cuts, full disks and rotting bits, and never execute code.

A checkpoint is one folder:

    step-00001234/
      model.safetensors  optimizer.safetensors  ...     one file per group of tensors
      state.json                                        everything that is not a tensor
      MANIFEST.json                                     format version, step; size and SHA-256 of each file

`save` writes it under another name, flushes it to the disk, renames it, reads it back and only then lets older ones
go. There is no "latest" pointer that could be torn or point to nothing: `latest` looks, verifies and picks the newest
good one, and says what it passed over. A step saved again stands beside the first as `step-00001234.1`, because
replacing a folder would take two renames with nothing between them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from unimo.disk import Bytes, disk_error, sync_folder, write_new
from unimo.errors import DataError, NumericsError, ResourceError, UsageError, WeightsError, nearest
from unimo.file_access import hash_file
from unimo.json_files import json_bytes, load_json
from unimo.safetensors_files import copied_tensors, safetensors_pieces

FORMAT_VERSION = 1
MANIFEST, STATE, SUFFIX = "MANIFEST.json", "state.json", ".safetensors"
MAX_STATE, _MAX_MANIFEST = 64 << 20, 1 << 20  # bytes

_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_FILE = re.compile(rf"state\.json|{_GROUP.pattern}\.safetensors")
_RESTORE = "restore a copy; an earlier checkpoint is used where there is one"
_log = logging.getLogger(__name__)

Groups = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns. tensors: group -> name -> tensor; state: as it was saved, to the last bit."""

    step: int
    tensors: Groups
    state: dict[str, Any]
    path: Path


# ---- reading


def load(
    path: str | Path,
    *,
    groups: Iterable[str] | None = None,
    device: str | torch.device = "cpu",
    report: Callable[[str], None] = _log.warning,
) -> Checkpoint:
    """One checkpoint, or the newest good one of a folder of them, with every byte that is used verified.

    groups: only these groups of tensors (None: all). report: called with each checkpoint passed over, and why.
    Raises WeightsError: nothing there, damaged, of an unknown format, or without a wanted group.
    """
    path, groups = Path(path), None if groups is None else list(groups)
    if not (path / MANIFEST).exists() and not _NAME.fullmatch(path.name):
        reasons: list[str] = []
        newest = latest(path, groups=groups, report=reasons.append)
        for reason in reasons:
            report(reason)
        if newest is None:
            got, do = "; ".join(reasons) or "no folder named step-…", "restore a copy" if reasons else "check the path"
            expected = f"a run's folder, one of its checkpoints (with {MANIFEST}), or a saved folder (with config.json)"
            raise WeightsError("no usable checkpoint", where=path, got=got, expected=expected, do=do)
        path = newest
    manifest = verify(path, groups=groups)
    tensors = {
        group: _read(path / f"{group}{SUFFIX}", str(device))
        for group in (_groups_of(manifest) if groups is None else groups)
    }
    state = load_json(path / STATE, max_bytes=MAX_STATE, error=WeightsError)
    if not isinstance(state, dict):
        raise WeightsError("malformed state", where=path / STATE, got=type(state).__name__, expected="a dictionary")
    return Checkpoint(manifest["step"], tensors, state, path)


def latest(
    folder: str | Path, *, groups: Iterable[str] | None = None, report: Callable[[str], None] = _log.warning
) -> Path | None:
    """The newest checkpoint in `folder` whose every byte is right, or None. Reads only.

    groups: as of `load`. report: called with one line for each newer one that was passed over (file, expected and found
    hash).
    """
    for path in _candidates(Path(folder)):
        try:
            verify(path, groups=groups)
            return path
        except WeightsError as fault:
            report(f"skipped checkpoint {path.name}: {fault.one_line()}")
    return None


def verify(path: str | Path, *, groups: Iterable[str] | None = None) -> dict[str, Any]:
    """The manifest, once every file has its size and SHA-256; WeightsError names the file that has not.

    groups: check the files of these groups (and the state) only.
    """
    path = Path(path)
    manifest = read_manifest(path)
    known = _groups_of(manifest)
    groups = known if groups is None else list(groups)
    for group in groups:
        if group not in known:
            expected = nearest(group, known) or ", ".join(known)
            raise WeightsError("no such group in the checkpoint", where=path, got=group, expected=expected)
    for name in (STATE, *(f"{group}{SUFFIX}" for group in groups)):
        _check_file(path / name, manifest["files"][name]["bytes"], manifest["files"][name]["sha256"])
    return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; WeightsError unless it is whole, of a known version and about plain files."""
    where = path / MANIFEST
    manifest = load_json(where, max_bytes=_MAX_MANIFEST, error=WeightsError)
    if not isinstance(manifest, dict) or manifest.get("format") != "unimo":
        raise WeightsError("not the manifest of a checkpoint", where=where, expected='"format": "unimo"')
    version, seal = manifest.get("version"), manifest.pop("seal", None)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        known, do = f"1 to {FORMAT_VERSION}", "install the release that wrote it, or a newer one"
        raise WeightsError("unknown checkpoint format", where=where, got=version, expected=known, do=do)
    if sealed(manifest) != where.read_bytes():
        raise WeightsError("damaged manifest", where=where, got=f"seal {seal}", do=_RESTORE)
    files, step = manifest.get("files"), manifest.get("step")
    listed = isinstance(files, dict) and STATE in files and all(map(_is_entry, files.items()))
    if not listed or type(step) is not int:
        raise WeightsError("malformed manifest", where=where, expected="a step, and bytes and sha256 of plain files")
    if _NAME.fullmatch(path.name) and _order(path)[0] != step:
        what, do = "the folder's name and its manifest disagree", "rename the folder back"
        raise WeightsError(what, where=path, got=f"step {step}", expected=f"step {_order(path)[0]}", do=do)
    return manifest


def sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest with a hash over itself, so that no bit of it can change unnoticed either."""
    return json_bytes({**manifest, "seal": hashlib.sha256(json_bytes(manifest)).hexdigest()})


def _is_entry(named: tuple[str, Any]) -> bool:
    match named:
        case (str(name), {"bytes": int(), "sha256": str()}):
            return _FILE.fullmatch(name) is not None
    return False


def _groups_of(manifest: dict[str, Any]) -> list[str]:
    return [name.removesuffix(SUFFIX) for name in manifest["files"] if name != STATE]


def _check_file(path: Path, size: int, sha256: str) -> None:
    try:
        found = path.stat().st_size if path.is_file() else None
        digest = hash_file(path) if found == size else None
    except (OSError, DataError) as fault:
        what, got = "cannot read a file of the checkpoint", fault.strerror if isinstance(fault, OSError) else fault.got
        raise WeightsError(what, where=path, got=got, do=_RESTORE) from fault
    if digest != sha256:
        got = f"sha256 {digest}" if digest else "no file" if found is None else f"{found} bytes"
        expected = f"sha256 {sha256}, {size} bytes"
        raise WeightsError("a file of the checkpoint is damaged", where=path, got=got, expected=expected, do=_RESTORE)


def _read(path: Path, device: str) -> dict[str, Tensor]:
    try:
        return copied_tensors(path, device)
    except (SafetensorError, OSError) as fault:
        raise WeightsError("not a valid safetensors file", where=path, got=fault) from fault


def _order(path: Path) -> tuple[int, int]:
    """(step, how often this step had been saved before)."""
    named = _NAME.fullmatch(path.name)
    assert named
    return int(named[1]), int(named[2] or 0)


def _candidates(folder: Path) -> list[Path]:
    """Everything that claims to be a checkpoint, newest first."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in paths if _NAME.fullmatch(path.name)), key=_order, reverse=True)


# ---- writing


def save(folder: str | Path, step: int, tensors: Groups, state: dict[str, Any], *, keep: int = 2) -> Path:
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
    if not isinstance(state, dict) or len(state_bytes) > MAX_STATE:
        got, do = f"{type(state).__name__} of {len(state_bytes)} bytes as JSON", "save arrays as tensors"
        raise UsageError("unfit state", got=got, expected=f"a dictionary of at most {MAX_STATE} bytes", do=do)
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


def _check(step: int, tensors: Groups, keep: int) -> None:
    """Refuses what cannot be saved, element types apart: those are for `safetensors_pieces`."""
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
    for path in _candidates(folder):
        with contextlib.suppress(WeightsError):
            if _order(path)[0] > step and verify(path):
                what, do = "the folder holds a checkpoint of a later step", "use another folder, or remove that one"
                raise UsageError(what, where=path, got=f"step {step} to save", do=do)


def _write(folder: Path, step: int, tensors: Groups, state: bytes) -> Path:
    partial = folder / f"step-{step:08d}.partial.{secrets.token_hex(4)}"
    files: dict[str, dict[str, Any]] = {}

    def write(name: str, pieces: Iterable[Bytes]) -> None:
        digest = write_new(partial / name, pieces)
        files[name] = {"bytes": (partial / name).stat().st_size, "sha256": digest}

    try:
        partial.mkdir()
        for group, named in tensors.items():
            write(f"{group}{SUFFIX}", safetensors_pieces(named, where=group))
        write(STATE, [state])
        manifest = {"format": "unimo", "version": FORMAT_VERSION, "step": step, "files": files}
        write_new(partial / MANIFEST, [sealed(manifest)])
        sync_folder(partial)
        again = [_order(path)[1] for path in _candidates(folder) if _order(path)[0] == step]
        path = folder / (f"step-{step:08d}.{max(again) + 1}" if again else f"step-{step:08d}")
        partial.replace(path)
        sync_folder(folder)
        return path
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already when all went well


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
    for path in _candidates(newest.parent):
        if _order(path) >= _order(newest):
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
