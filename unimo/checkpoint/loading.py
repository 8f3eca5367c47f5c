"""Reader of checkpoints, and the choice of the newest good one in a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unimo.checkpoint.manifest import MANIFEST, MAX_STATE, NAME, STATE, SUFFIX, candidates, read_manifest, verify
from unimo.errors import WeightsError
from unimo.json_files import load_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns. tensors: group -> name -> tensor; state: as it was saved, to the last bit."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    path: Path


def load(
    path: str | Path,
    *,
    groups: Iterable[str] | None = None,
    device: str | torch.device = "cpu",
    report: Callable[[str], None] = _log.warning,
) -> Checkpoint:
    """One checkpoint, or the newest good one of a folder of them, with every byte that is used verified.

    groups: only these groups of tensors (None: all). report: told of each checkpoint passed over, and why.
    Raises WeightsError: nothing there, damaged, of an unknown format, or without a wanted group.
    """
    path, groups = Path(path), None if groups is None else list(groups)
    if (path / MANIFEST).exists() or NAME.fullmatch(path.name):
        manifest = verify(path, groups=groups)
    else:
        reasons: list[str] = []
        newest = latest(path, groups=groups, report=reasons.append)
        for reason in reasons:
            report(reason)
        if newest is None:
            got, do = "; ".join(reasons) or "no folder named step-…", "restore a copy" if reasons else "check the path"
            expected = f"a folder with {MANIFEST}, or a folder of such folders"
            raise WeightsError("no usable checkpoint", where=path, got=got, expected=expected, do=do)
        path, manifest = newest, read_manifest(newest)
    names = [name.removesuffix(SUFFIX) for name in manifest["files"] if name != STATE] if groups is None else groups
    tensors = {group: _read(path / f"{group}{SUFFIX}", str(device)) for group in names}
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
    for path in candidates(Path(folder)):
        try:
            verify(path, groups=groups)
            return path
        except WeightsError as fault:
            report(f"skipped checkpoint {path.name}: {fault.one_line()}")
    return None


def _read(path: Path, device: str) -> dict[str, Tensor]:
    """Copies, so that nothing stays mapped to a file that may be removed."""
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as fault:
        raise WeightsError("not a valid safetensors file", where=path, got=fault) from fault
