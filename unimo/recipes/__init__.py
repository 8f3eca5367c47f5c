"""Whole runs as functions: `unimo recipes` lists them, `unimo pretrain NAME` starts one.

A recipe's docstring tells its story: where it comes from, the command, the hardware, the time and the number to expect.
Its folders may be empty: then the command line asks for them, or, for recipes named in WORLDS, generates a world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unimo.config import from_dict, override
from unimo.corpus.finding import Kind
from unimo.errors import UsageError, nearest
from unimo.json_files import load_json
from unimo.recipes.pretraining import base, large, photos, scenes, small
from unimo.recipes.unimo import unimo_base, unimo_large, unimo_photos, unimo_scenes
from unimo.train.settings import VAL_FRACTION, Run, needing_rewrites

RECIPES: dict[str, Callable[[], Run]] = {
    "scenes": scenes,
    "photos": photos,
    "small": small,
    "base": base,
    "large": large,
    "unimo-scenes": unimo_scenes,
    "unimo-photos": unimo_photos,
    "unimo-base": unimo_base,
    "unimo-large": unimo_large,
}
# Recipes that can make their own data: the world's name, and arguments of write_world.
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "scenes": (
        "spatial-scenes",
        {"size": 64, "pairs": 13000, "alone": 7000, "captions_per_image": 4, "places": 0.5, "relations": 0.5},
    ),
    "unimo-scenes": ("placed-scenes", {"size": 64, "pairs": 6000, "images": 3000, "texts": 6000, "placed": 0.5}),
}


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
        where="the recipe's name",
        got=name,
        expected=f"{', '.join(RECIPES)}, or the settings.json of a run",
        do=f"did you mean {close}?" if close else "unimo recipes",
    )


def with_data(name: str, run: Run, given: Mapping[str, Any], validation: Mapping[str, Any]) -> Run:
    """The run on the user's folders. given: kind -> paths; where there are any, kinds without paths are absent.

    A recipe of the generated world, which has held-out data of its own, then holds out a part as others do.
    """
    paths: dict[str, Any] = {kind: tuple(some) for kind, some in validation.items() if some}
    if any(given.values()):
        paths |= {kind: tuple(some or ()) for kind, some in given.items()}
        if name in WORLDS:
            paths["val_fraction"] = VAL_FRACTION
    return replace(run, data=replace(run.data, **paths))


def with_world(name: str, run: Run, out: Path, say: Callable[[str], None]) -> Run:
    """A run without data gets the generated world of its seed, written beside `out` once and reused after.

    `scenes` on data of the user's does without rewritten captions where there are none.
    """
    if name not in WORLDS:
        return run
    if run.data.texts or run.data.images or run.data.pairs:
        off = needing_rewrites(run) if run.model.member == "unimo-2" and run.data.rewrites is None else []
        if off:
            say(f"no rewritten captions (unimo prepare rewrites), and so {', '.join(off)} = 0")
        return override(run, [f"{name}=0" for name in off])
    from unimo.synthetic.dataset import write_world

    world, options = WORLDS[name]
    folder = out.absolute().parent / f"{world}-world-{run.seed}"
    say(f"the generated world is in {folder}")
    write_world(folder, seed=run.seed, **options)
    paths: dict[str, Any] = {kind: (str(folder / kind),) for kind in ("texts", "images", "pairs")}
    if run.model.member == "unimo":
        paths |= prepare_world(folder, say)
    elif needing_rewrites(run):
        paths["rewrites"] = rewrite_world(folder, say)
    return replace(run, data=replace(run.data, **paths))


def rewrite_world(world: Path, say: Callable[[str], None]) -> str:
    """Rewritten captions of the world in a folder beside it: few of each, and none of other images, for UNIMO-2."""
    from unimo.rewriting.prepare import Counts, rewrites

    folder = world.with_name(f"{world.name}-prepared") / "rewrites"
    counts = Counts(positives=0, sentences=0, phrases=12, words=4)
    rewrites(str(world / "pairs"), out=folder, counts=counts, candidates=1, say=say)
    return str(folder)


def prepare_world(world: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The world's exact regions, rewritten captions and neighbours, in a folder beside it; settings of `Data`."""
    from unimo.neighbours.prepare import neighbours
    from unimo.regions.prepare import prepare_regions
    from unimo.rewriting.prepare import Counts, rewrites

    folder = world.with_name(f"{world.name}-prepared")
    regions = folder / "regions"
    shown: dict[str, Kind] = {"pairs": "pairs", "heldout": "pairs", "compositional": "pairs", "images": "images"}
    for part, kind in {**shown, "classes": "images"}.items():
        prepare_regions(kind, str(world / part), "truth", out=regions, say=say)
    counts = Counts(sentences=30, phrases=35, words=35)  # of a world whose every combination reads like its captions
    rewrites(str(world / "pairs"), out=folder / "rewrites", counts=counts, candidates=1, say=say)
    neighbours(str(world / "pairs"), str(world / "images"), str(world / "texts"), folder / "neighbours", say=say)
    return {
        "regions": (str(regions),),
        "rewrites": str(folder / "rewrites"),
        "neighbours": str(folder / "neighbours"),
    }
