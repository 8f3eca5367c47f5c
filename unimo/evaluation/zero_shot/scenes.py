"""What only a world with known truth can tell: are the things of a caption there, and is all of it true?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unimo.errors import DataError
from unimo.evaluation.zero_shot.context import EvalContext, Paths, Row, choose, digest, row
from unimo.json_files import load_json
from unimo.metrics.intervals import fraction_score, mean_of_sums, sums_score
from unimo.synthetic.captions import texts
from unimo.synthetic.language import caption_attributes, caption_is_true
from unimo.synthetic.world import Scene, Thing

MANIFEST = "world.json"


@dataclass(frozen=True)
class Checked:
    """Sentences (n) about n scenes."""

    sentences: list[str]
    scenes: list[Scene]


@dataclass(frozen=True)
class SceneTruth:
    """pairs: paths of images of the world, whose JSON names their objects; captions as of `Captioning`."""

    pairs: Paths
    title: str = "Captions against the scene"
    limit: int | None = 256
    max_length: int = 50
    seed: int = 0

    def predict(self, context: EvalContext) -> Checked:
        corpus = context.corpus("pairs", self.pairs)
        items = choose(len(corpus), self.limit, "pairs", self.seed)
        scenes = [scene_from_meta(corpus.meta(int(i)), where=corpus.where(int(i))) for i in items]
        return Checked(context.captions(corpus, items, self.max_length), scenes)

    def score(self, checked: Checked) -> list[Row]:
        """Fraction of objects whose colour, shape and named size are right; fraction of captions true throughout.

        Chance: the same captions, each held against another image.
        """
        n = len(checked.scenes)
        others = [checked.sentences[(i + n // 2) % n] for i in range(n)]
        right, by_chance = (_attributes(captions, checked.scenes) for captions in (checked.sentences, others))
        true, guessed = (
            [caption_is_true(text, scene) for text, scene in zip(captions, checked.scenes)]
            for captions in (checked.sentences, others)
        )
        chance = float(mean_of_sums(by_chance.sum(0, keepdims=True))[0])
        attributes = sums_score(right, mean_of_sums, chance=chance, seed=self.seed)
        throughout = fraction_score(true, chance=float(np.mean(guessed)), seed=self.seed)
        note, items = "chance: the same captions held against other images", digest(checked.scenes)
        counted = f"{int(right[:, 1].sum()):,} objects, mentioned or present; {note}"
        return [
            row(self.title, "objects with right attributes", attributes, "%", counted, items),
            row(self.title, "captions true throughout", throughout, "%", note, items),
        ]

    def show(self, checked: Checked) -> list[dict]:
        return []


def _attributes(sentences: Sequence[str], scenes: Sequence[Scene]) -> np.ndarray:
    """(n, 2) objects with right attributes, and objects."""
    return np.array([caption_attributes(text, scene) for text, scene in zip(sentences, scenes)], np.float64)


def scene_from_meta(meta: Mapping[str, Any], *, where: object = None) -> Scene:
    """The scene behind an image of the world, from the JSON written with it.

    Ground and texture are not kept there and come back as 0. DataError when the JSON describes no scene.
    """
    try:
        things = tuple(Thing(**thing) for thing in meta["objects"])
    except (KeyError, TypeError) as fault:
        raise DataError(
            "this image's JSON describes no scene",
            where=where,
            got=", ".join(meta) or "no JSON",
            expected="objects, each with " + ", ".join(Thing.__dataclass_fields__),
        ) from fault
    return Scene(things, ground=0, texture=0)


def find_world(paths: Sequence[str | Path]) -> Path | None:
    """The folder of the generated world that these paths lie in, or None."""
    for path in paths:
        for folder in (Path(path), *Path(path).absolute().parents[:2]):
            if (folder / MANIFEST).is_file():
                return folder
    return None


@dataclass(frozen=True)
class World:
    """What a world's folder holds for evaluation; a part that was not written is empty."""

    heldout: Paths
    compositional: Paths
    foils: str | None
    classes: Paths
    unseen_classes: tuple[str, ...]
    seed: int
    texts_written: int

    def new_texts(self, n: int) -> list[str]:
        """Texts of the same grammar that the world's folder does not hold."""
        return [texts(self.seed, self.texts_written + i) for i in range(n)]


def open_world(folder: str | Path) -> World:
    """Reads what `unimo.synthetic.dataset.write_world` left. DataError: no such file, or another one's."""
    folder = Path(folder)
    manifest = load_json(folder / MANIFEST)
    parts = {name: (str(folder / name),) if (folder / name).is_dir() else () for name in ("heldout", "compositional")}
    foils = folder / "foils" / "foils.jsonl"
    names = folder / "classes" / "classes.json"
    try:
        parameters = manifest["parameters"]
        return World(
            heldout=parts["heldout"],
            compositional=parts["compositional"],
            foils=str(foils) if foils.is_file() else None,
            classes=(str(names.parent),) if names.is_file() else (),
            unseen_classes=tuple(load_json(names)["reserved"]) if names.is_file() else (),
            seed=parameters["seed"],
            texts_written=parameters["texts"],
        )
    except (KeyError, TypeError) as fault:
        raise DataError(
            "not the manifest of a generated world", where=folder / MANIFEST, got=f"{fault} is missing"
        ) from fault
