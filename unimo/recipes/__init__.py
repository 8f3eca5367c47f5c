"""Whole runs as functions: `unimo recipes` lists them, `unimo pretrain NAME` starts one.

A recipe's docstring tells its story: where it comes from, the command, the hardware, the time and the number to expect.
Its folders may be empty: then the command line asks for them, or, for recipes named in WORLDS, generates a world.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from unimo.config import from_dict, load_json
from unimo.errors import UsageError, nearest
from unimo.recipes.pretraining import base, large, photos, scenes, small
from unimo.train import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "scenes": scenes,
    "photos": photos,
    "small": small,
    "base": base,
    "large": large,
}
WORLDS: dict[str, dict[str, Any]] = {
    "scenes": {"size": 64}
}  # recipes that can make their own data: arguments of write_world


def find(name: str) -> Run:
    """The recipe of this name, or the settings.json of an earlier run."""
    if name in RECIPES:
        return RECIPES[name]()
    if name.endswith(".json") or Path(name).exists():
        path = Path(name) / "settings.json" if Path(name).is_dir() else Path(name)
        return from_dict(Run, load_json(path))
    close = nearest(name, RECIPES)
    raise UsageError(
        "no such recipe",
        got=name,
        expected=f"{', '.join(RECIPES)}, or the settings.json of a run",
        do=f"did you mean {close}?" if close else "unimo recipes",
    )


def with_world(name: str, run: Run, out: Path, say: Callable[[str], None]) -> Run:
    """A run without data gets the generated world of its seed, written beside `out` once and reused after."""
    if name not in WORLDS or run.data.texts or run.data.images or run.data.pairs:
        return run
    from unimo.data.scenes import write_world

    folder = out.absolute().parent / f"{name}-world-{run.seed}"
    say(f"the generated world is in {folder}")
    write_world(folder, seed=run.seed, **WORLDS[name])
    paths: dict[str, Any] = {kind: (str(folder / kind),) for kind in ("texts", "images", "pairs")}
    return replace(run, data=replace(run.data, **paths))
