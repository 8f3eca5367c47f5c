"""Reading a checkpoint, and choosing the newest good one of a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimo.checkpoint.layout import MANIFEST, MAX_STATE, NAME, STATE, candidates
from unimo.checkpoint.manifest import verify
from unimo.checkpoint.tensor_files import read_tensors
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
    """Reads one checkpoint, or the newest good one of a folder of them, after verifying every byte it uses.

    groups: only these groups of tensors (None: all). report: told of each checkpoint passed over, and why.
    Raises WeightsError: nothing there, damaged, of an unknown format, or without a wanted group.
    """
    path, wanted = Path(path), None if groups is None else list(groups)
    if (path / MANIFEST).exists() or NAME.fullmatch(path.name):
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
        name.removesuffix(".safetensors"): read_tensors(path / name, str(device))
        for name in manifest["files"]
        if name != STATE and (wanted is None or name.removesuffix(".safetensors") in wanted)
    }
    state = load_json(path / STATE, max_bytes=MAX_STATE, error=WeightsError)
    if not isinstance(state, dict):
        raise WeightsError("malformed state", where=path / STATE, got=type(state).__name__, expected="a dictionary")
    return Checkpoint(manifest["step"], tensors, state, path)


def latest(folder: str | Path, *, report: Callable[[str], None] = _log.warning) -> Path | None:
    """The newest checkpoint in `folder` whose every byte is right, or None. Reads only.

    report: called with one line for each newer one that was passed over (file, expected and found hash).
    """
    found = _newest_good(Path(folder), None, report)
    return found[0] if found else None


def _newest_good(
    folder: Path, groups: list[str] | None, report: Callable[[str], None]
) -> tuple[Path, dict[str, Any]] | None:
    for path in candidates(folder):
        try:
            return path, verify(path, groups=groups)
        except WeightsError as fault:
            report(f"skipped checkpoint {path.name}: {fault.one_line()}")
    return None
