"""Opening a saved model: peak memory and seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from unimo.config import override
from unimo.model.build import ModelSettings, build
from unimo.speed.turns import measured, milliseconds
from unimo.weights.saving import save_pretrained

# In a process of its own, whose peak is set back before it begins.
PROGRAM = """
import json, re, sys, time
from pathlib import Path
from unimo.weights.loading import load_model
def now(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")
held, began = now("VmRSS"), time.process_time()
model = load_model(sys.argv[1])
print(json.dumps([now("VmHWM") - held, time.process_time() - began]))
"""


def peak_and_seconds(folder: str | Path) -> tuple[int, float]:
    """Bytes above what the process held before, and seconds of the processor. Linux alone says so."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True)
    peak, seconds = json.loads(done.stdout)
    return peak, seconds


def rows(size: str, rounds: int) -> Iterator[dict[str, Any]]:
    """size: of the model."""
    torch.manual_seed(0)
    settings = override(ModelSettings(), [f"size={size}"])
    with tempfile.TemporaryDirectory() as place:
        folder = save_pretrained(build(settings), Path(place) / "model", settings)
        weights = (folder / "model.safetensors").stat().st_size
        found = [peak_and_seconds(folder) for _ in range(rounds)]
    peaks, seconds = zip(*found)
    yield {
        "benchmark": "load",
        "size": size,
        "MB of weights": round(weights / 1e6),
        "peak in weights": measured([peak / weights for peak in peaks], 3),
        "milliseconds": milliseconds(seconds),
    }
