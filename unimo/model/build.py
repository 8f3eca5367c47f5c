"""From settings to a model, and from a checkpoint back to the same model."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from unimo.config import setting
from unimo.errors import UsageError, WeightsError, nearest
from unimo.model.task_heads import HeadSettings, TaskHead
from unimo.model.unified import Unified
from unimo.model.unimo import FUSIONS, UNIMO
from unimo.model.unimo2 import UNIMO2, Released

# base and large: spec unimo §1.2, unimo2 §2.1; tiny and small are ours
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 192, "heads": 3, "depth": 6, "image_depth": 4, "text_depth": 3, "grounded_depth": 3},
    "small": {"width": 384, "heads": 6, "depth": 8, "image_depth": 8, "text_depth": 6, "grounded_depth": 6},
    "base": {"width": 768, "heads": 12, "depth": 12, "image_depth": 12, "text_depth": 12, "grounded_depth": 12},
    "large": {"width": 1024, "heads": 16, "depth": 24, "image_depth": 24, "text_depth": 24, "grounded_depth": 24},
}
DIMENSIONS = tuple(SIZES["base"])
MEMBERS = ("unimo-2", "unimo")
# Settings that only one member has.
ONLY_UNIMO = (
    "depth", "region_size", "region_classes", "region_heads", "fusion", "matching", "dialogue", "initial_waves",
    "initial_boxes",
)  # fmt: skip
ONLY_UNIMO2 = (
    "image_depth", "text_depth", "grounded_depth", "image_size", "pixels", "patch", "patch_padding", "dictionary",
    "chosen", "grounding_method", "grounding_projection", "grounding_positions", "contrastive_projection",
    "shared_projection", "masked_grounding", "image_contrastive", "image_dropout", "released",
)  # fmt: skip


@dataclass(frozen=True)
class ModelSettings:
    size: str = setting("base", "tiny, small, base or large; the dimensions below replace single entries of it")
    member: str = setting("unimo-2", "unimo-2 (pixels) or unimo (detected regions)")
    width: int | None = setting(None, "width D of all three towers")
    heads: int | None = setting(None, "attention heads")
    depth: int | None = setting(None, "layers of UNIMO's Transformer")
    image_depth: int | None = setting(None, "layers of the image tower")
    text_depth: int | None = setting(None, "layers of the text tower")
    grounded_depth: int | None = setting(None, "layers of the Grounded Transformer")
    image_size: int = setting(224, "side in pixels of the square pictures that the position table is made for")
    pixels: int | None = setting(None, "side of the pictures that are shown, such as 384; none: image_size")
    patch: int = setting(16, "side of a patch in pixels")
    patch_padding: int = setting(0, "zero rows before each side of a picture; released: (patch - 1) // 2")
    vocabulary: int = setting(50265, "rows of the word table")
    positions: int = setting(514, "rows of the text position table; positions start at 2")
    dictionary: int = setting(2048, "entries C of the grounded dictionary; 0 builds the baseline without it")
    chosen: int = setting(100, "entries K chosen for every sequence")
    grounding_method: str = setting("topk", "topk (released) or normal (nearest entry of every position)")
    grounding_projection: bool = setting(False, "separate projections of patches and words before they vote")
    grounding_positions: bool = setting(False, "add text positions 2 .. K + 1 to the grounded tokens")
    contrastive_projection: bool = setting(False, "ReLU projections before the contrastive score")
    shared_projection: bool = setting(False, "the contrastive score uses the grounding projections")
    masked_grounding: bool = setting(False, "build the masked-grounding head")
    image_contrastive: bool = setting(True, "learn a temperature for image contrastive learning")
    region_size: int = setting(2048, "features of a region (UNIMO)")
    region_classes: int = setting(1601, "classes of the detector (UNIMO)")
    region_heads: bool = setting(False, "build the two heads of masked region modelling (UNIMO)")
    fusion: str = setting("joint", "joint (the paper's) or prefix: pictures do not look at their texts (UNIMO)")
    matching: int = setting(0, "outputs of UNIMO's matching head: 0 none, 1 retrieval, 2 pre-training")
    dialogue: bool = setting(False, "build the tables of speakers and turns (UNIMO, CoQA)")
    matching_fusion: str = setting("product", "how the matching head joins both poolers: product or sum")
    dropout: float = setting(0.1, "dropout of the text tower, the Grounded Transformer and the matching head")
    attention_dropout: float = setting(0.1, "dropout of their attention weights")
    image_dropout: float = setting(0.0, "dropout of the image tower")
    initial_std: float = setting(
        0.02, "spread of initial weights; narrow models learn sooner with 0.02 sqrt(768 / width)"
    )
    initial_waves: float = setting(
        0.0, "text positions start as sines and cosines of this size, not at random (UNIMO); 0: at random, as published"
    )
    initial_boxes: float = setting(1.0, "initial weights of boxes, times this (UNIMO): five numbers beside F features")
    released: Released = setting(Released(), "slips of the published graph of UNIMO-2")
    head: HeadSettings | None = setting(None, "the head of a fine-tuned task, or none")


def as_released(settings: ModelSettings) -> ModelSettings:
    """The same model with every slip of the published graph: what released weights of UNIMO-2 were trained with."""
    return replace(
        settings, patch_padding=(settings.patch - 1) // 2, released=Released(*[True] * len(fields(Released)))
    )


def build(settings: ModelSettings) -> Unified:
    """A freshly initialised model (call torch.manual_seed before, for the same one again)."""
    if settings.member not in MEMBERS:
        raise UsageError(
            "unknown member of the family",
            where="model.member",
            got=settings.member,
            expected=" or ".join(MEMBERS),
        )
    if settings.size not in SIZES:
        raise UsageError(
            "unknown model size",
            where="model.size",
            got=settings.size,
            expected=", ".join(SIZES),
            do=f"did you mean {nearest(settings.size, SIZES)}?",
        )
    own = ("size", "member", "head")
    values = {name: getattr(settings, name) for name in settings.__dataclass_fields__ if name not in own}
    for name in DIMENSIONS:
        if values[name] is None:
            values[name] = SIZES[settings.size][name]
    for name in ("image_size", "pixels"):
        if (values[name] or 0) % values["patch"]:
            raise UsageError(
                "a picture is not a whole number of patches",
                where=f"model.{name}",
                got=f"{values[name]} px with patches of {values['patch']} px",
                expected="a multiple of model.patch",
            )
    if values["shared_projection"] and not (values["grounding_projection"] and values["dictionary"]):
        raise UsageError(
            "there is no grounding projection to share",
            where="model.shared_projection",
            expected="model.grounding_projection=true and a dictionary",
        )
    if values["width"] % values["heads"]:
        raise UsageError(
            "the width cannot be shared among the heads",
            where="model.heads",
            got=f"{values['heads']} heads at width {values['width']}",
            expected="a divisor of model.width",
        )
    if settings.member == "unimo":
        if settings.fusion not in FUSIONS:
            raise UsageError("unknown fusion", where="model.fusion", got=settings.fusion, expected=" or ".join(FUSIONS))
        model: Unified = UNIMO(**{name: value for name, value in values.items() if name not in ONLY_UNIMO2})
    else:
        model = UNIMO2(**{name: value for name, value in values.items() if name not in ONLY_UNIMO})
    if settings.head is not None:
        model.head = TaskHead(model.width, settings.head, settings.initial_std)
    return model


def fill(model: torch.nn.Module, tensors: dict[str, torch.Tensor], *, where: object) -> None:
    """Copies tensors into the parameters of the same names; every name and shape on both sides must agree."""
    own = dict(model.named_parameters())
    missing = sorted(own.keys() - tensors.keys())
    extra = sorted(tensors.keys() - own.keys())
    shapes = [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    if missing or extra or shapes:
        raise WeightsError(
            "the weights do not fit the model",
            where=where,
            got=f"missing {missing[:5]}, extra {extra[:5]}, of another shape {sorted(shapes)[:5]}",
            expected=f"{len(own)} tensors of the model's own names and shapes",
            do="load it with the settings it was trained with",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
