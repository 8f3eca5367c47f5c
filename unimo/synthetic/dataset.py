"""`scenes`: a small generated world with known truth, written in the formats of real corpora.

    world.py      what is there: scenes by (seed, split, index), geometry, images
    language.py   the words, and the reader that checks captions against scenes
    captions.py   captions and texts
    tasks.py      foils, questions, entailment
    dataset.py    this file: all of it as folders (`write_world`)

`write_world(folder)` leaves

    world.json                                parameters, and size and SHA-256 of every file
    pairs/train-00000.tar                     KEY.png + KEY.json: captions, objects, boxes, relations
    pairs/alone-00000.tar                     the same of one thing, where they are wanted
    images/train-00000.tar                    KEY.png + KEY.json: images without texts
    texts/train.jsonl                         {"id", "text"}: texts without images
    heldout/heldout-00000.tar                 like pairs; every caption is full and fits one scene only
    compositional/compositional-00000.tar     like heldout; each scene has a reserved combination
    foils/foils.jsonl                         {"image": key in heldout, "positive", "negative", "kind"}
    classes/classes-00000.tar, classes.json   images of one thing: label, label_name
    qa/SPLIT.jsonl, entailment/SPLIT.jsonl    {"image": key in pairs or heldout, ...}
"""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from unimo.disk import locked
from unimo.errors import DataError, ResourceError, UsageError
from unimo.file_access import hash_file
from unimo.synthetic.captions import CaptionMix, captions, full_caption, texts
from unimo.synthetic.tasks import entailment, foils, questions
from unimo.synthetic.world import COMBINATIONS, RESERVED, Scene, boxes, class_scene, draw, lone_scene, relations, scene

VERSION = 2  # raise it when the same parameters give another world
IMAGES_FROM = 1_000_000_000  # index of the first image without text: beyond any number of pairs
COUNTS = ("pairs", "images", "texts", "heldout", "compositional", "classes")
Members = Iterable[tuple[str, bytes]]  # (name, content) of a tar


def write_world(
    folder: str | Path,
    *,
    seed: int = 0,
    pairs: int = 20_000,
    images: int = 10_000,
    texts: int = 20_000,
    heldout: int = 256,
    compositional: int = 256,
    classes: int = 512,
    size: int = 64,
    captions_per_image: int = 2,
    objects: tuple[int, int] = (2, 4),
    twins: float = 0.5,
    placed: float = CaptionMix.placed,
    places: float = CaptionMix.places,
    relations: float = CaptionMix.relations,
    alone: int = 0,
) -> dict:
    """Write the world into `folder`, or find it there; returns what `world.json` says.

    The numbers count images (texts: paragraphs); a part of size 0 is not written. size: image
    side in pixels. objects, twins: see `scene`. placed, places, relations: what captions to train on tell, see
    `CaptionMix`; alone: further images among the pairs, of one thing. Held-out captions and questions depend on none
    of these. The folder appears whole or not at all, and two processes that want it at once make it once. Raises
    UsageError when the folder holds something else, DataError when a file of this world was changed, ResourceError
    when the disk refuses.
    """
    counts = {"pairs": pairs, "images": images, "texts": texts, "heldout": heldout, "compositional": compositional}
    parameters: dict[str, Any] = {"seed": seed, **counts, "classes": classes, "size": size}
    parameters |= {"captions_per_image": captions_per_image, "objects": list(objects), "twins": twins}
    # Worlds written before these could be chosen do not name them.
    later = {"placed": placed, "places": places, "relations": relations, "alone": alone}
    usual = {**asdict(CaptionMix()), "alone": 0}
    parameters |= {name: value for name, value in later.items() if value != usual[name]}
    possible = min(*(parameters[name] for name in COUNTS), alone, places, relations) >= 0 and places + relations <= 1
    if not possible or captions_per_image < 1 or size < 16:
        expected = "counts >= 0, captions >= 1, size >= 16, places and relations two shares of the captions"
        raise UsageError("impossible world", got=parameters, expected=expected)
    folder = Path(folder).absolute()
    scene(seed, "train", 0, objects=objects, twins=twins)  # refuses the impossible before anything is written
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f".{folder.name}.lock"), wait=True):  # a second process then finds the world
            if folder.exists() and any(folder.iterdir()):
                return _check(folder, parameters)
            shutil.rmtree(partial, ignore_errors=True)  # a killed process left it: we hold the lock
            try:
                _fill(partial, parameters)
                files = {str(path.relative_to(partial)): _fingerprint(path) for path in _files(partial)}
                world = {"version": VERSION, "parameters": parameters, "files": files}
                _write_json(partial / "world.json", world)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            return world
    except OSError as error:
        what, do = "cannot write the generated world", "free space, or choose another folder"
        raise ResourceError(what, where=folder, got=error, do=do) from error


def _fill(folder: Path, parameters: dict[str, Any]) -> None:
    seed, size = parameters["seed"], parameters["size"]
    options = {"objects": tuple(parameters["objects"]), "twins": parameters["twins"]}

    if parameters.get("alone"):
        lone = [lone_scene(seed, i) for i in range(parameters["alone"])]
        _write_tar(folder / "pairs/alone-00000.tar", _pair_members("alone", lone, parameters))

    for split, name in (("train", "pairs"), ("heldout", "heldout"), ("compositional", "compositional")):
        scenes = [scene(seed, split, i, **options) for i in range(parameters[name])]
        if not scenes:
            continue
        _write_tar(folder / name / f"{split}-00000.tar", _pair_members(split, scenes, parameters))
        if split != "compositional":
            _write_jsonl(folder / "qa" / f"{split}.jsonl", _tasks(seed, split, scenes, questions))
            _write_jsonl(folder / "entailment" / f"{split}.jsonl", _tasks(seed, split, scenes, entailment))
        if split == "heldout":
            _write_jsonl(folder / "foils/foils.jsonl", _tasks(seed, split, scenes, _foil_items))

    if parameters["images"]:
        alone = (scene(seed, "train", IMAGES_FROM + i, **options) for i in range(parameters["images"]))
        members = (member for i, one in enumerate(alone) for member in _image(f"image-{i:06d}", one, size, {}))
        _write_tar(folder / "images/train-00000.tar", members)

    if parameters["texts"]:
        lines = ({"id": f"text-{i:06d}", "text": texts(seed, i)} for i in range(parameters["texts"]))
        _write_jsonl(folder / "texts/train.jsonl", lines)

    if parameters["classes"]:
        _write_tar(folder / "classes/classes-00000.tar", _class_members(seed, parameters["classes"], size))
        names = {kind: " ".join(kind) for kind in COMBINATIONS}
        reserved = [name for kind, name in names.items() if kind in RESERVED]
        _write_json(folder / "classes/classes.json", {"names": list(names.values()), "reserved": reserved})


def _pair_members(split: str, scenes: list[Scene], parameters: dict[str, Any]) -> Members:
    seed, size, n = (parameters[name] for name in ("seed", "size", "captions_per_image"))
    holding = defaultdict(list)  # the scenes in which certain things are found, however arranged
    for one in scenes:
        for kinds in {some for n_things in (2, 3, 4) for some in combinations(_kinds(one), n_things)}:
            holding[kinds].append(one)
    for i, one in enumerate(scenes):
        rng = random.Random(f"captions/{seed}/{split}/{i}")
        if split in ("train", "alone"):
            mix = {name: parameters[name] for name in asdict(CaptionMix()) if name in parameters}
            written = captions(one, rng, n, CaptionMix(**mix))
        else:  # scores are only fair if a caption fits one image
            others = [other for other in holding[_kinds(one)] if other is not one]
            written = [full_caption(one, rng, unlike=others) for _ in range(n)]
        truth = {
            "captions": written,
            "objects": [asdict(thing) for thing in one.things],
            "boxes": boxes(one, size),
            "relations": relations(one),
        }
        yield from _image(f"{split}-{i:06d}", one, size, truth)


def _kinds(one: Scene) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(thing.kind for thing in one.things))


def _class_members(seed: int, count: int, size: int) -> Members:
    for i in range(count):
        one, label, label_name = class_scene(seed, i)
        yield from _image(f"class-{i:06d}", one, size, {"label": label, "label_name": label_name})


def _image(key: str, drawn: Scene, size: int, meta: dict) -> Members:
    png = io.BytesIO()
    draw(drawn, size).save(png, "PNG", compress_level=1)
    yield f"{key}.png", png.getvalue()
    yield f"{key}.json", json.dumps({"key": key, "width": size, "height": size, **meta}).encode()


def _tasks(
    seed: int, split: str, scenes: list[Scene], make: Callable[[Scene, random.Random], list[dict]]
) -> Iterator[dict]:
    for i, one in enumerate(scenes):
        rng = random.Random(f"{make.__name__}/{seed}/{split}/{i}")
        yield from ({"image": f"{split}-{i:06d}", **item} for item in make(one, rng))


def _foil_items(one: Scene, rng: random.Random) -> list[dict]:
    return [foil._asdict() for foil in foils(one, rng)]


def _write_tar(path: Path, members: Members) -> None:
    """A tar that depends on nothing but its members: no times, owners or host."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)  # mtime, uid and gid are 0 unless set
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def _write_jsonl(path: Path, lines: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _fingerprint(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def _check(folder: Path, parameters: dict) -> dict:
    """What `world.json` says, if it is this world and no file of it was changed."""
    manifest = folder / "world.json"
    elsewhere = "choose another folder, or delete this one"
    if not manifest.is_file():
        raise UsageError("the folder holds something else", where=folder, expected="world.json", do=elsewhere)
    try:
        world = json.loads(manifest.read_text(encoding="utf-8"))
        found = {"version": world["version"], "parameters": world["parameters"]}
        files = dict(world["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("unreadable manifest", where=manifest, got=error, do="delete the folder") from error
    wanted = {"version": VERSION, "parameters": parameters}
    if found != wanted:
        what = "the folder holds another world"
        raise UsageError(what, where=folder, got=found, expected=wanted, do=elsewhere)
    for name, expected in files.items():
        path = folder / name
        got = _fingerprint(path) if path.is_file() else "no file"
        if got != expected:
            what = "a file of the generated world was changed"
            raise DataError(what, where=path, got=got, expected=expected, do="delete the folder, run again")
    return world
