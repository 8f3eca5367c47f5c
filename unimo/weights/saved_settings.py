"""What a saved folder or checkpoint says of its model, compared with its weights before anything is allocated.

A config.json may come from anyone. Its settings pass `unimo.config.check_settings`; then the sizes they imply are
compared with the names and shapes in the header of the weight file, so that a model is only ever built as large as the
file that fills it. All errors are WeightsError and name the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unimo.config import from_dict
from unimo.errors import WeightsError
from unimo.model.build import ModelSettings, build

Shapes = Mapping[str, tuple[int, ...]]


def settings_of(values: Any, where: object) -> ModelSettings:
    """The settings in a saved JSON value. where: the file, and the key of the value in it."""
    if not isinstance(values, Mapping):
        got = "nothing" if values is None else type(values).__name__
        raise WeightsError("no settings of a model", where=where, got=got, expected="an object of settings")
    return from_dict(ModelSettings, values, where=str(where), error=WeightsError)


def model_settings(state: Any, where: object) -> ModelSettings:
    """Those under settings.model of a config.json or state.json."""
    settings = state.get("settings") if isinstance(state, Mapping) else None
    if not isinstance(settings, Mapping):
        raise WeightsError("no settings of a model", where=where, expected="settings.model")
    return settings_of(settings.get("model"), f"{where}: settings.model")


def vocabulary_subset(state: Mapping[str, Any], settings: ModelSettings, where: object) -> Tensor | None:
    """The ids that the model may predict, (k,) int64 ascending, or None for all."""
    value, key = state.get("known_words"), f"{where}: known_words"
    if value is None:
        return None
    expected = f"whole numbers from 0 to {settings.vocabulary - 1}, ascending, each once; or null for all words"
    if not isinstance(value, list) or not value:
        got = "an empty list" if value == [] else type(value).__name__
        raise WeightsError("not a list of known words", where=key, got=got, expected=expected)
    before = -1
    for place, word in enumerate(value):
        if type(word) is not int or not before < word < settings.vocabulary:
            raise WeightsError("not a list of known words", where=f"{key}[{place}]", got=word, expected=expected)
        before = word
    return torch.tensor(value)


class Implied(NamedTuple):
    """What a setting says about a tensor: how many rows it has along an axis, or whether it is there."""

    key: str
    value: Any
    tensor: str
    axis: int | None = None
    rows: int = 0
    there: bool = True


def check_shapes(settings: ModelSettings, shapes: Shapes, *, where: object, weights: Path) -> None:
    """Refuses settings of which the weights are not. shapes: in the header of the file `weights`.

    where: the file of the settings and their key in it. First every setting that decides a size is compared by itself,
    so that the one that is wrong is named; then the names and shapes of the whole model, which has no memory yet.
    """
    for said in _implied(settings):
        shape = shapes.get(said.tensor)
        if said.axis is None:
            if (shape is not None) is not said.there:
                found = f"{weights.name} has {'no' if shape is None else 'a'} {said.tensor}"
                _refuse(f"{where}.{said.key}", said.value, found)
        elif shape is None or len(shape) <= said.axis or shape[said.axis] != said.rows:
            found = f"{said.tensor} in {weights.name} is {'missing' if shape is None else shape}"
            _refuse(f"{where}.{said.key}", said.value, found)
    for key, tower in _towers(settings):
        depth = settings.dimension(key)
        layers = {name.split(".")[2] for name in shapes if name.startswith(f"{tower}.layers.") and name.count(".") > 2}
        if len(layers) != depth:
            got = f"{depth}, that is up to {tower}.layers.{depth - 1}"
            _refuse(f"{where}.{key}", got, f"{len(layers)} layers of {tower} in {weights.name}")
    with torch.device("meta"):
        own = {name: tuple(parameter.shape) for name, parameter in build(settings).named_parameters()}
    wrong = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
    if wrong:
        some = "; ".join(f"{name} {own.get(name, 'not there')} for {shapes.get(name, 'nothing')}" for name in wrong[:3])
        _refuse(where, f"{len(wrong)} tensors of another name or shape: {some}", f"those of {weights.name}")


def _refuse(where: object, got: object, found: str) -> None:
    raise WeightsError(
        "the settings are not those of the weights",
        where=where,
        got=got,
        expected=f"what fits: {found}",
        do="restore the configuration that was saved with these weights",
    )


def _towers(settings: ModelSettings) -> tuple[tuple[str, str], ...]:
    if settings.member == "unimo":
        return (("depth", "encoder"),)
    return tuple((f"{tower}_depth", f"{tower}_encoder") for tower in ("image", "text", "grounded"))


def _implied(settings: ModelSettings) -> Iterator[Implied]:
    def rows(key: str, tensor: str, axis: int, count: int | None = None) -> Implied:
        value = settings.dimension(key) if key == "width" else getattr(settings, key)
        return Implied(key, value, tensor, axis, value if count is None else count)

    def there(key: str, tensor: str, wanted: bool) -> Implied:
        return Implied(key, getattr(settings, key), tensor, there=wanted)

    unimo = settings.member == "unimo"
    yield there("member", "regions.feature.weight" if unimo else "patches.cls", True)
    yield rows("vocabulary", "words.word.weight", 0)
    yield rows("width", "words.word.weight", 1)
    yield rows("positions", "words.position.weight", 0)
    yield there("tie_word_embeddings", "language_model.table.weight", not settings.tie_word_embeddings)
    if unimo:
        yield rows("region_size", "regions.feature.weight", 1)
        yield there("region_heads", "region_classes.weight", settings.region_heads)
        if settings.region_heads:
            yield rows("region_classes", "region_classes.weight", 0)
        yield there("dialogue", "words.speaker.weight", settings.dialogue)
        yield there("matching", "matching.linear.weight", bool(settings.matching))
        if settings.matching:
            yield rows("matching", "matching.linear.weight", 0)
    else:
        yield rows("patch", "patches.projection.weight", 2)
        yield rows("image_size", "patches.positions", 1, 1 + (settings.image_size // settings.patch) ** 2)
        yield there("dictionary", "dictionary.entries", bool(settings.dictionary))
        if settings.dictionary:
            yield rows("dictionary", "dictionary.entries", 0)
            yield there("grounding_projection", "dictionary.project.image.weight", settings.grounding_projection)
            yield there("masked_grounding", "masked_grounding.bias", settings.masked_grounding)
        own = settings.contrastive_projection and not settings.shared_projection
        yield there("contrastive_projection", "contrastive_projection.image.weight", own)
        yield there("image_contrastive", "image_temperature.value", settings.image_contrastive)
    head = settings.head
    yield Implied("head", "none" if head is None else head.task, "head.output.weight", there=head is not None)
    if head is not None:
        outputs = 1 if head.kind == "number" else len(head.labels)
        yield Implied("head.labels", f"{outputs} outputs", "head.output.weight", 0, outputs)
        yield Implied("head.hidden", head.hidden, "head.between.weight", there=bool(head.hidden))
        if head.hidden:
            yield Implied("head.hidden", head.hidden, "head.between.weight", 0, head.hidden)
