"""Which tasks an evaluation runs, and on which data.

What the user names goes first. Else a run on the generated world of `scenes` finds held-out scenes, unseen
combinations, foils, classes and new texts there; any other run has the validation data it was trained beside
(`data.val_pairs` and so on), or the samples it held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unimo.config import setting
from unimo.data.held_out import HeldOut
from unimo.errors import UsageError, did_you_mean
from unimo.evaluation.zero_shot import (
    TASKS,
    Captioning,
    Classification,
    DictionaryUse,
    Foils,
    MaskedWords,
    Retrieval,
    SceneTruth,
)
from unimo.evaluation.zero_shot.scenes import find_world, open_world
from unimo.paths import matches


@dataclass(frozen=True)
class EvaluationData:
    """The data of an evaluation, and how much of them is scored."""

    pairs: tuple[str, ...] = setting((), "images with captions, not trained on: folders, globs or files", filled=True)
    images: tuple[str, ...] = setting(
        (), "images whose JSON or folder names their class: folders or files", filled=True
    )
    texts: tuple[str, ...] = setting((), "texts without images, not trained on: folders, globs or files", filled=True)
    foils: str | None = setting(None, "a .jsonl of true and false captions of images among the pairs", filled=True)
    world: str | None = setting(
        None, "folder of the generated world; none: where the run found its own data", filled=True
    )
    tasks: tuple[str, ...] = setting((), "only these tasks; empty means all that the data allow")
    pairs_limit: int | None = setting(None, "images in retrieval at most; none takes all", at_least=1)
    captions: int | None = setting(
        None, "captions of each image in retrieval; none takes all (the world: one)", at_least=1
    )
    shortlist: int = setting(
        32, "candidates of each query that are read again by the fused model; 0 for none", at_least=0
    )
    rerank_queries: int | None = setting(
        256, "queries of each direction that the matching head re-ranks; none takes all", at_least=0
    )
    likelihood_queries: int | None = setting(
        128, "queries of each direction that the likelihood of captions re-ranks; none takes all", at_least=0
    )
    captioned: int | None = setting(256, "images to caption at most", at_least=0)
    baseline: int = setting(
        2000, "training images from which the copying baseline takes captions; 0 for none", at_least=0
    )
    random_weights: bool = setting(True, "the same model before training as a baseline, on the same data")
    images_limit: int | None = setting(2048, "images to classify at most", at_least=1)
    masked: int | None = setting(512, "captions, and texts, in which words are masked at most", at_least=0)
    columns: tuple[str, ...] = setting((), "part=column of tables with other names, as in training; default: as there")
    regions: tuple[str, ...] = setting((), "detected regions, if not beside the shards (UNIMO)", filled=True)
    index_dir: str | None = setting(
        None, "where shard indexes go when they should not lie beside the shards", filled=True
    )
    seed: int = setting(0, "random seed of samples, masks and intervals")


@dataclass(frozen=True)
class Planned:
    """One task to run, or the reason why it cannot: exactly one of both."""

    name: str
    task: Any = None
    reason: str = ""


@dataclass(frozen=True)
class Part:
    """Pairs to evaluate on. name: in the titles of the tasks. copies: the copying baseline is worth its time here."""

    pairs: tuple[str, ...]
    name: str = ""
    held_out: HeldOut | None = None
    copies: bool = True

    def title(self, task: str, alone: str | None = None) -> str:
        return f"{task}, {self.name}" if self.name else alone or task


NO_PAIRS = "no pairs (--pairs)"
REASONS = {
    "retrieval": NO_PAIRS,
    "captioning": NO_PAIRS,
    "dictionary": NO_PAIRS,
    "foils": "no foils with the pairs they belong to (--foils, --pairs)",
    "classification": "no images with class names (--images)",
    "masked_words": "no pairs and no texts (--pairs, --texts)",
    "scene_truth": "the run was not trained on the generated world, or other pairs were named",
}


def plan(
    data: EvaluationData,
    trained: Mapping[str, Any],
    *,
    held_out: Mapping[str, int] | None = None,
    has_dictionary: bool = True,
) -> list[Planned]:
    """Every task, with its data or the reason why it cannot run.

    trained: the run's data settings. held_out: how many samples of a kind it held out.
    """
    if data.world and data.pairs:
        raise UsageError("the world brings its own pairs", where="pairs, world", expected="one of both")
    for name in data.tasks:
        if name not in TASKS:
            expected, do = ", ".join(TASKS), did_you_mean(name, TASKS)
            raise UsageError("no such task", where="tasks", got=name, expected=expected, do=do)
    paths = [path for kind in ("pairs", "images", "texts") for path in trained.get(kind, ())]
    validated = any(trained.get(f"val_{kind}") for kind in ("pairs", "texts", "images"))
    folder = Path(data.world) if data.world else None if data.pairs or validated else find_world(paths)
    train_pairs = tuple(trained.get("pairs", ())) if data.baseline else ()
    gone = [path for path in train_pairs if not matches(path)]
    train_pairs = () if gone else train_pairs
    tasks = (
        _own_tasks(data, trained, held_out or {}, train_pairs)
        if folder is None
        else _world_tasks(data, folder, train_pairs)
    )
    none = {"captioning": data.captioned, "masked_words": data.masked, "dictionary": data.masked}
    reasons = {**REASONS, **{name: "its limit is 0" for name, limit in none.items() if limit == 0}}
    tasks = {name: some for name, some in tasks.items() if none.get(name) != 0}
    reasons |= {} if has_dictionary else {"dictionary": "the model has no dictionary"}
    found = [
        planned
        for name in TASKS
        for planned in [Planned(name, task) for task in tasks.get(name, ()) if has_dictionary or name != "dictionary"]
        or [Planned(name, reason=reasons[name])]
    ]
    if gone:
        found.append(
            Planned("captioning", reason=f"the baseline, which copies training captions: {gone[0]} is not here")
        )
    wanted = data.tasks or [name for name in TASKS if folder is not None or name != "scene_truth"]
    return [planned for planned in found if planned.name in wanted]


def _own_tasks(
    data: EvaluationData, trained: Mapping[str, Any], kept: Mapping[str, int], train_pairs: tuple[str, ...]
) -> dict[str, list[Any]]:
    """On what the user names, or on the run's validation data."""
    given = {
        kind: getattr(data, kind) or tuple(trained.get(f"val_{kind}", ())) for kind in ("pairs", "texts", "images")
    }
    held_out: dict[str, HeldOut | None] = dict.fromkeys(given)
    for kind in ("pairs", "texts"):
        own = tuple(trained.get(kind, ()))
        if not given[kind] and kept.get(kind) and trained["val_limit"] and all(map(matches, own)):
            given[kind], held_out[kind] = own, HeldOut(trained["val_fraction"], trained["val_limit"])
    parts = (
        [Part(given["pairs"], "held-out pairs" if held_out["pairs"] else "", held_out["pairs"])]
        if given["pairs"]
        else []
    )
    masked = None
    if given["pairs"] or given["texts"]:
        masked = MaskedWords(given["pairs"], given["texts"], (), "Masked words", held_out["pairs"], held_out["texts"])
    return _tasks(data, parts, train_pairs, masked, data.foils, given["images"])


def _world_tasks(data: EvaluationData, folder: Path, train_pairs: tuple[str, ...]) -> dict[str, list[Any]]:
    """On the generated world. Paths the user names go before what the world holds."""
    world = open_world(folder)
    parts = [
        Part(world.heldout, "held-out scenes"),
        Part(world.compositional, "unseen combinations", copies=False),
    ]
    passages = [] if data.texts or not world.heldout else world.new_texts(data.masked or 512)
    masked = MaskedWords(world.heldout, data.texts, passages) if world.heldout or data.texts else None
    images, unseen = (data.images, ()) if data.images else (world.classes, world.unseen_classes)
    foils = data.foils or world.foils if world.heldout else None
    one = replace(data, captions=data.captions or 1)
    tasks = _tasks(one, [p for p in parts if p.pairs], train_pairs, masked, foils, images, unseen)
    tasks["scene_truth"] = [
        SceneTruth(part.pairs, part.title("Captions against the scene"), limit=data.captioned, seed=data.seed)
        for part in parts
        if part.pairs
    ]
    return tasks


def _tasks(
    data: EvaluationData,
    parts: list[Part],
    train_pairs: tuple[str, ...],
    masked: MaskedWords | None,
    foils: str | None,
    images: tuple[str, ...],
    unseen: tuple[str, ...] = (),
) -> dict[str, list[Any]]:
    """Tasks by name. masked: with its data, and no limit yet."""
    seed = data.seed
    limits: dict[str, Any] = {"captions": data.captions, "limit": data.pairs_limit, "shortlist": data.shortlist}
    limits |= {"rerank_queries": data.rerank_queries, "likelihood_queries": data.likelihood_queries}
    found: dict[str, list[Any]] = {}
    for part in parts:
        own: dict[str, Any] = {"held_out": part.held_out, "seed": seed}
        recall = Retrieval(part.pairs, part.title("Retrieval"), **limits, **own)
        found.setdefault("retrieval", []).append(recall)
        written: dict[str, Any] = {"limit": data.captioned, "train_limit": data.baseline, **own}
        copied = train_pairs if part.copies else ()
        captioning = Captioning(part.pairs, copied, part.title("Captions", "Captions, greedy"), **written)
        found.setdefault("captioning", []).append(captioning)
    if parts:
        held_out = parts[0].held_out
        found["dictionary"] = [DictionaryUse(parts[0].pairs, held_out=held_out, limit=data.masked, seed=seed)]
        found["foils"] = [Foils(parts[0].pairs, foils, seed=seed)] if foils else []
    if masked is not None:
        found["masked_words"] = [replace(masked, limit=data.masked, seed=seed)]
    if images:
        found["classification"] = [Classification(images, limit=data.images_limit, unseen=unseen, seed=seed)]
    return found
