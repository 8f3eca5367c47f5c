"""Fine-tuning that fits in a test: a pre-training run of random weights, and a few rows of every form."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unimo import checkpoint
from unimo.config import override, to_dict
from unimo.finetune.settings import Finetuning, TaskData
from unimo.model.build import ModelSettings, build
from unimo.recipes.finetuning import prepared
from unimo.regions.prepare import prepare_regions
from unimo.train.optimizer import OptimizerSettings

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230), "yellow": (230, 220, 30)}
SIZES = {
    "width": 32, "heads": 2, "depth": 1, "image_depth": 1, "text_depth": 1, "grounded_depth": 1, "image_size": 16,
    "patch": 8, "positions": 66, "dictionary": 16, "chosen": 4, "initial_std": 0.1, "dropout": 0.0,
    "attention_dropout": 0.0, "region_size": 24, "region_classes": 5,
}  # fmt: skip


def write_start(folder: Path, member: str = "unimo-2", **changes) -> str:
    """A run's folder as pre-training leaves it, with random weights."""
    settings = ModelSettings("tiny", member=member, **{**SIZES, **changes})
    torch.manual_seed(0)
    state = {"settings": {"model": to_dict(settings)}, "elapsed": 1.0, "ema": False}
    checkpoint.save(folder / "checkpoints", 5, {"model": dict(build(settings).named_parameters())}, state)
    return str(folder)


def tiny_run(start: str, kind: str, data: TaskData, *assignments: str, **settings) -> Finetuning:
    """Quick, without dropout or TensorBoard; everything else as it comes."""
    run = Finetuning(
        task=kind, kind=kind, data=data, batch_size=8, steps=60, epochs=None, precision="fp32", log="none",
        optimizer=OptimizerSettings(lr=3e-3, warmup=0.1, weight_decay=0.0), **settings,
    )  # fmt: skip
    return override(prepared(run, start), assignments)


def write_csv(path: Path, rows: list[dict]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_images(folder: Path, n: int, names: tuple[str, ...] = tuple(COLOURS), regions: bool = False) -> list[str]:
    """n plain images, each with its own shade of a colour, as COLOUR/NUMBER.png; returns the colours in order."""
    colours = [names[i % len(names)] for i in range(n)]
    for i, colour in enumerate(colours):
        (folder / colour).mkdir(parents=True, exist_ok=True)
        shade = np.clip(np.array(COLOURS[colour]) + 3 * (i // len(names)), 0, 255).astype(np.uint8)
        Image.fromarray(np.broadcast_to(shade, (16, 16, 3)).copy()).save(folder / colour / f"{i:03d}.png")
    if regions:
        prepare_regions("images", str(folder), "grid", feature_size=24, words=5, max_regions=5, say=lambda _: None)
    return colours


def keys_of(folder: Path) -> list[str]:
    """Paths of the images below a folder, by number."""
    found = sorted(folder.rglob("*.png"), key=lambda path: path.stem)
    return [path.relative_to(folder).as_posix() for path in found]


def quiet(line: str) -> None:
    """Progress nobody reads."""
