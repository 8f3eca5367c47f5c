"""Where a number comes from: which weights, which code, which machine."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from unimo.checkpoint import MANIFEST
from unimo.file_access import hash_file
from unimo.json_files import load_json
from unimo.machine import describe_machine
from unimo.weights.loading import WEIGHTS


def call_facts() -> dict[str, str]:
    """Command, code and machine, as facts of a report."""
    return {
        "command": shlex.join(sys.argv),
        "commit": commit() or "unknown (not a git checkout)",
        "machine": ", ".join(f"{name} {value}" for name, value in describe_machine().items()),
    }


def model_facts(pipeline: Any) -> dict[str, str]:
    """The weights of a `unimo.inference.Pipeline`, as facts of a report."""
    facts = pipeline.facts
    weights = "ema.safetensors" if facts.get("ema") else "model.safetensors"
    return {
        "checkpoint": f"{facts['path']}, step {facts['step']}",
        "checkpoint hash": f"{weights_hash(Path(facts['path']), weights)} ({weights})",
        "parameters": f"{sum(p.numel() for p in pipeline.model.parameters()):,}",
        "precision": str(pipeline.dtype).removeprefix("torch."),
    }


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
