"""Where a number comes from: which weights, and which code."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from unimo.checkpoint import MANIFEST
from unimo.file_access import hash_file
from unimo.json_files import load_json
from unimo.weights.loading import WEIGHTS


def weights_hash(folder: Path, name: str) -> str:
    """SHA-256 of the weights that answered: a checkpoint's manifest knows it, a saved folder is read."""
    if (folder / MANIFEST).is_file():
        return load_json(folder / MANIFEST)["files"][name]["sha256"]
    return hash_file(folder / WEIGHTS)


def commit() -> str | None:
    """The commit of the code that runs, "+ changes" when files differ from it; None where git cannot say."""
    here = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        options = {"cwd": here, "capture_output": True, "text": True, "timeout": 10, "check": True}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain", "--", "."], **options).stdout.strip()  # type: ignore[call-overload]
        return commit + (" + changes" if changed else "")
    return None
