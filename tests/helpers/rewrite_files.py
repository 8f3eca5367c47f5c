"""Little corpora of pairs and their rewrites."""

from __future__ import annotations

import json
from pathlib import Path

from unimo.rewriting.prepare import Counts

FEW = Counts(positives=2, sentences=4, phrases=5, words=6)
PAIRS = 60


def quiet(_: str) -> None:
    pass


def pairs_file(folder: Path, captions: dict[str, list[str]], name: str = "pairs.jsonl") -> Path:
    """Images of one colour and their captions, as a .jsonl beside its images."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for n, (key, texts) in enumerate(captions.items()):
        Image.new("RGB", (20, 16), (n % 256, 90, 60)).save(folder / f"{key}.png")
        lines.append(json.dumps({"image": f"{key}.png", "captions": texts}))
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def the_file(folder: Path) -> Path:
    (path,) = folder.glob("*.rewrites.safetensors")
    return path
