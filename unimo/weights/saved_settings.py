"""Settings of a saved folder or checkpoint, compared with its weights before anything is allocated.

A config.json may come from anyone. Its settings pass `unimo.config.check_settings`; then the model they describe is
compared with the names and shapes in the header of the weight file, so that a model is only ever built as large as the
file that fills it. All errors are WeightsError and name the key.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimo.config import from_dict
from unimo.errors import WeightsError
from unimo.model.build import ModelSettings, build, shapes_only

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


def check_shapes(settings: ModelSettings, shapes: Shapes, *, where: object, weights: Path) -> None:
    """Refuses settings that are not those of the weights. shapes: in the header of the file `weights`.

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
        own = {name: tuple(parameter.shape) for name, parameter in build(settings).named_parameters()}
    for key, tensor, axis in DECIDED:
        if _rows(own, tensor, axis) != _rows(shapes, tensor, axis):
            refuse(key, own.get(tensor, f"no {tensor}"), f"{tensor} is {shapes.get(tensor, 'missing')}")
    wrong = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
    if wrong:
        some = "; ".join(f"{name} {own.get(name, 'not there')} for {shapes.get(name, 'nothing')}" for name in wrong[:3])
        refuse("", f"{len(wrong)} tensors of another name or shape: {some}", "those")


def _rows(shapes: Shapes, tensor: str, axis: int | None) -> int | None:
    """Rows of a tensor along an axis; 0 where only its presence counts, None where it is missing."""
    if tensor not in shapes:
        return None
    return 0 if axis is None else dict(enumerate(shapes[tensor])).get(axis)
