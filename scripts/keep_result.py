"""Keeps a run's evaluation as results/NAME.json: python scripts/keep_result.py runs/scenes/evaluation.json NAME

Scores (of `unimo benchmark`: its table and what was forgotten), facts and notes stay; curves, examples and this
machine's folder do not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("title", "facts", "scores", "tasks", "forgetting", "notes")


def kept(text: str, folder: str) -> str:
    """The part of an evaluation.json that results/ holds."""
    report = json.loads(text.replace(f"{folder}/", ""))
    return json.dumps({key: report[key] for key in KEPT if key in report}, indent=1) + "\n"


if __name__ == "__main__":
    source, name = sys.argv[1:]
    (ROOT / "results" / f"{name}.json").write_text(kept(Path(source).read_text(), str(Path.cwd())))
