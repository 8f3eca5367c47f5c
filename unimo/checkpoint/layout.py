"""How checkpoints are named, where the parts of one lie, and how large these may be."""

from __future__ import annotations

import re
from pathlib import Path

FORMAT_VERSION = 1
MANIFEST, STATE = "MANIFEST.json", "state.json"
MAX_STATE = 64 << 20  # bytes
CHUNK = 4 << 20  # bytes read or written at once

NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


def place(path: Path) -> tuple[int, int]:
    """(step, how often this step had been saved before)."""
    named = NAME.fullmatch(path.name)
    assert named
    return int(named[1]), int(named[2] or 0)


def candidates(folder: Path) -> list[Path]:
    """Everything that claims to be a checkpoint, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), key=place, reverse=True)


def free_name(folder: Path, step: int) -> Path:
    """Where a checkpoint of this step goes: beside those of the same step that are there."""
    again = [place(path)[1] for path in candidates(folder) if place(path)[0] == step]
    return folder / (f"step-{step:08d}.{max(again) + 1}" if again else f"step-{step:08d}")
