"""Loader of every model we can open: a run, one of its checkpoints, a saved folder, a name in the cache or on the hub.

A config.json may come from anyone. Its settings pass `unimo.config.check_settings`; then the model they describe is
compared with the names and shapes in the header of the weight file, so that a model is only ever built as large as the
file that fills it. All errors are WeightsError and name the key.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimo.checkpoint import STATE, Checkpoint, latest
from unimo.checkpoint import load as load_checkpoint
from unimo.config import from_dict
from unimo.errors import WeightsError
from unimo.file_access import hash_file
from unimo.json_files import json_bytes, load_json
from unimo.model.build import ModelSettings, build, check_memory, fill, shapes_only
from unimo.model.unified import Unified
from unimo.paths import user_path
from unimo.safetensors_files import read_safetensors, shapes

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # of a saved folder, see `unimo.weights.saving`
Shapes = Mapping[str, tuple[int, ...]]
# Setting, the tensor it decides about, and along which axis; None: whether the tensor is there.
DECIDED: tuple[tuple[str, str, int | None], ...] = (
    ("vocabulary", "words.word.weight", 0), ("width", "words.word.weight", 1),
    ("positions", "words.position.weight", 0), ("tie_word_embeddings", "language_model.table.weight", None),
    ("dialogue", "words.speaker.weight", None), ("patch", "patches.projection.weight", 2),
    ("region_size", "regions.feature.weight", 1), ("region_heads", "region_classes.weight", None),
    ("region_classes", "region_classes.weight", 0), ("matching", "matching.linear.weight", 0),
    ("image_size", "patches.positions", 1),
    ("dictionary", "dictionary.entries", 0), ("grounding_projection", "dictionary.project.image.weight", None),
    ("masked_grounding", "masked_grounding.bias", None), ("image_contrastive", "image_temperature.value", None),
    ("contrastive_projection", "contrastive_projection.image.weight", None), ("head", "head.output.weight", None),
    ("head.labels", "head.output.weight", 0), ("head.hidden", "head.between.weight", 0),
)  # fmt: skip


def load_model(
    source: str | Path, *, device: str | torch.device = "cpu", revision: str | None = None
) -> tuple[Unified, Checkpoint]:
    """The model in eval mode, and where it comes from (step, path, and the state it was saved with).

    source: a run's folder (the checkpoint its dev split chose, else its newest good one), a checkpoint, a folder of
    `save_pretrained`, or a name on the hub. Averaged weights are preferred where the run kept them. WeightsError:
    nothing there, damaged, another shape.
    """
    place = newest(source)
    if place is None:
        model, config = from_pretrained(source, revision=revision)
        own = {key: config.get(key) for key in ("settings", "known_words")}  # whatever its run has noted
        state = {**config, **config["facts"], **own}
        step = state.get("step", 0)
        return model.to(device), Checkpoint(step if type(step) is int else 0, {}, state, user_path(source, "model"))
    saved = load_checkpoint(place, groups=[])
    group = "ema" if saved.state.get("ema") else "model"
    model, known = _empty(saved.state, saved.path / STATE, saved.path / f"{group}.safetensors")
    saved = load_checkpoint(saved.path, groups=[group])
    return _filled(model, known, saved.tensors[group], saved.path).to(device), saved


def from_pretrained(source: str | Path, *, revision: str | None = None) -> tuple[Unified, dict[str, Any]]:
    """The model of a folder, or of a name on the hub, in eval mode on the CPU; and its config.json.

    Raises WeightsError: not such a folder, damaged, of another shape than it says, or not what was saved.
    """
    folder = Path(source)
    if not folder.is_dir():
        from unimo.weights.hub import fetch

        folder = fetch(source, (CONFIG, WEIGHTS), revision=revision)
    if not is_pretrained(folder):
        raise WeightsError("not a saved model", where=folder, expected=f"a folder with {CONFIG} and {WEIGHTS}")
    place, weights = folder / CONFIG, folder / WEIGHTS
    config = load_json(place, error=WeightsError)
    model, known = _empty(config, place, weights)
    if not isinstance(config.setdefault("facts", {}), dict):
        got = type(config["facts"]).__name__
        raise WeightsError("facts that are none", where=f"{place}: facts", got=got, expected="an object, or nothing")
    if "sha256" in config and config["sha256"] != (found := seal(config, weights)):
        what, where = "settings or weights have changed since they were saved", f"{place}: sha256; {weights}"
        do = "fetch both again; or, where the change is meant, remove sha256 from the configuration"
        raise WeightsError(what, where=where, got=found, expected=config["sha256"], do=do)
    return _filled(model, known, read_safetensors(weights), weights), config


def is_pretrained(path: str | Path) -> bool:
    """Whether a folder has the files of a saved model (no run or checkpoint has)."""
    return all((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS))


def seal(config: Mapping[str, Any], weights: Path) -> str:
    """Of settings and weights together: heads or activation, which no shape tells, cannot change unnoticed either."""
    return hashlib.sha256(json_bytes([config["settings"]["model"], hash_file(weights)])).hexdigest()


def newest(source: str | Path) -> Path | None:
    """Where the checkpoints of a run are, those its dev split chose if there are any. None: not a run or checkpoint."""
    path = user_path(source, "model")
    if is_pretrained(path) or not path.exists():
        return None
    if (path / "best").is_dir() and latest(path / "best") is not None:
        return path / "best"
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def settings_and_words(source: str | Path) -> tuple[ModelSettings, Tensor | None]:
    """The settings a saved model was built with, and the ids it predicts; sources as of `load_model`.

    Nothing is built where the source is a run or a checkpoint.
    """
    place = newest(source)
    if place is None:
        state, where = load_model(source)[1].state, Path(source) / CONFIG
    else:
        saved = load_checkpoint(place, groups=[])
        state, where = saved.state, saved.path / STATE
    settings = model_settings(state, where)
    return settings, vocabulary_subset(state, settings, where)


# ---- settings compared with their weights


def _empty(state: Any, where: Path, weights: Path) -> tuple[Unified, Tensor | None]:
    """The model that saved settings describe, once they fit the header of their weights, without memory; and the ids
    it may predict."""
    settings = model_settings(state, where)
    known = vocabulary_subset(state, settings, where)
    model = check_shapes(settings, shapes(weights), where=f"{where}: settings.model", weights=weights)
    check_memory(settings)
    return model, known


def _filled(model: Unified, known: Tensor | None, tensors: dict[str, Tensor], where: Path) -> Unified:
    """The same model with these weights, which it takes over, in eval mode."""
    fill(model, tensors, where=where)
    if known is not None:
        model.know_words(known)
    return model.eval()


def model_settings(state: Any, where: object) -> ModelSettings:
    """The settings under settings.model of a config.json or state.json."""
    settings = state.get("settings") if isinstance(state, Mapping) else None
    values = settings.get("model") if isinstance(settings, Mapping) else None
    if not isinstance(values, Mapping):
        got = type(values).__name__
        raise WeightsError("no settings of a model", where=f"{where}: settings.model", got=got, expected="an object")
    return from_dict(ModelSettings, values, where=f"{where}: settings.model", error=WeightsError)


def vocabulary_subset(state: Mapping[str, Any], settings: ModelSettings, where: object) -> Tensor | None:
    """The ids that the model may predict, (k,) int64 ascending, or None for all."""
    ids = state.get("known_words")
    if ids is None:
        return None
    whole = isinstance(ids, list) and bool(ids) and all(type(i) is int for i in ids)
    if not whole or not all(a < b for a, b in itertools.pairwise([-1, *ids, settings.vocabulary])):
        what, expected = "not a list of known words", f"ascending whole numbers below {settings.vocabulary}, or null"
        raise WeightsError(what, where=f"{where}: known_words", got=str(ids)[:80], expected=expected)
    return torch.tensor(ids)


def check_shapes(settings: ModelSettings, shapes: Shapes, *, where: object, weights: Path) -> Unified:
    """The model without memory; refuses settings that are not those of the weights. shapes: in the header of `weights`.

    where: the file of the settings and their key in it. The setting that is wrong is named where one tensor tells it.
    """

    def refuse(key: str, got: object, found: str) -> None:
        raise WeightsError(
            "the settings are not those of the weights",
            where=f"{where}.{key}" if key else where,
            got=got,
            expected=f"what fits: {found} in {weights.name}",
            do="restore the configuration that was saved with these weights",
        )

    unimo = settings.member == "unimo"
    if unimo is not ("regions.feature.weight" in shapes):
        refuse("member", settings.member, "the embedding of " + ("patches" if unimo else "regions"))
    # Depths first: they bound how many layers are built, though without memory.
    for tower in ("encoder",) if unimo else ("image_encoder", "text_encoder", "grounded_encoder"):
        key = "depth" if unimo else tower.replace("encoder", "depth")
        layers = {name.split(".")[2] for name in shapes if name.startswith(f"{tower}.layers.") and name.count(".") > 2}
        if len(layers) != (depth := settings.dimension(key)):
            refuse(key, f"{depth}, that is up to {tower}.layers.{depth - 1}", f"{len(layers)} layers of {tower}")
    with shapes_only():
        model = build(settings)
    own = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for key, tensor, axis in DECIDED:
        if _rows(own, tensor, axis) != _rows(shapes, tensor, axis):
            refuse(key, own.get(tensor, f"no {tensor}"), f"{tensor} is {shapes.get(tensor, 'missing')}")
    wrong = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
    if wrong:
        some = "; ".join(f"{name} {own.get(name, 'not there')} for {shapes.get(name, 'nothing')}" for name in wrong[:3])
        refuse("", f"{len(wrong)} tensors of another name or shape: {some}", "those")
    return model


def _rows(shapes: Shapes, tensor: str, axis: int | None) -> int | None:
    """Rows of a tensor along an axis; 0 where only its presence counts, None where it is missing."""
    if tensor not in shapes:
        return None
    return 0 if axis is None else dict(enumerate(shapes[tensor])).get(axis)
