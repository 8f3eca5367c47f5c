"""From settings to a model, and from a checkpoint back to the same model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from unimo.config import Contradiction, check_settings, setting
from unimo.errors import ResourceError, WeightsError
from unimo.machine import free_memory
from unimo.model.task_heads import HeadSettings, TaskHead
from unimo.model.unified import Unified
from unimo.model.unimo import UNIMO
from unimo.model.unimo2 import UNIMO2, Released

Size = Literal["tiny", "small", "base", "large"]
# base and large: spec unimo §1.2, unimo2 §2.1; tiny and small are ours
SIZES: dict[Size, dict[str, int]] = {
    "tiny": {"width": 192, "heads": 3, "depth": 6, "image_depth": 4, "text_depth": 3, "grounded_depth": 3},
    "small": {"width": 384, "heads": 6, "depth": 8, "image_depth": 8, "text_depth": 6, "grounded_depth": 6},
    "base": {"width": 768, "heads": 12, "depth": 12, "image_depth": 12, "text_depth": 12, "grounded_depth": 12},
    "large": {"width": 1024, "heads": 16, "depth": 24, "image_depth": 24, "text_depth": 24, "grounded_depth": 24},
}
DIMENSIONS = tuple(SIZES["base"])
# Settings that only one member has.
ONLY_UNIMO = (
    "depth", "region_size", "region_classes", "region_heads", "fusion", "matching", "dialogue", "initial_waves",
    "initial_boxes",
)  # fmt: skip
ONLY_UNIMO2 = (
    "image_depth", "text_depth", "grounded_depth", "image_size", "pixels", "patch", "patch_padding", "dictionary",
    "chosen", "grounding_method", "grounding_projection", "grounding_positions", "contrastive_projection",
    "shared_projection", "masked_grounding", "image_contrastive", "image_dropout", "released",
    "initial_patch_positions",
)  # fmt: skip


@dataclass(frozen=True)
class ModelSettings:
    size: Size = setting("base", "tiny, small, base or large; the dimensions below replace single entries of it")
    member: Literal["unimo-2", "unimo"] = setting("unimo-2", "unimo-2 (pixels) or unimo (detected regions)")
    width: int | None = setting(None, "width D of all three towers", at_least=1, at_most=32768)
    heads: int | None = setting(None, "attention heads", at_least=1, at_most=1024)
    depth: int | None = setting(None, "layers of UNIMO's Transformer", at_least=1, at_most=512)
    image_depth: int | None = setting(None, "layers of the image tower", at_least=1, at_most=512)
    text_depth: int | None = setting(None, "layers of the text tower", at_least=1, at_most=512)
    grounded_depth: int | None = setting(None, "layers of the Grounded Transformer", at_least=1, at_most=512)
    image_size: int = setting(
        224, "side in pixels of the square images that the position table is made for", at_least=1, at_most=4096
    )
    pixels: int | None = setting(
        None, "side of the images that are shown, such as 384; none: image_size", at_least=1, at_most=4096
    )
    patch: int = setting(16, "side of a patch in pixels", at_least=1, at_most=4096)
    patch_padding: int = setting(
        0, "zero rows before each side of an image; released: (patch - 1) // 2", at_least=0, at_most=4095
    )
    hidden_act: Literal["gelu", "relu"] = setting(
        "gelu", "activation of every encoder layer and of the language-model head: gelu (exact) or relu"
    )
    tie_word_embeddings: bool = setting(True, "words are predicted with the word table; false: with a table of its own")
    vocabulary: int = setting(50265, "rows of the word table", at_least=1, at_most=2_000_000)
    positions: int = setting(
        514, "rows of the text position table; positions start at 2", at_least=3, at_most=1_000_000
    )
    dictionary: int = setting(
        2048,
        "entries C of the grounded dictionary; 0 builds the baseline without it",
        at_least=0,
        at_most=1_000_000,
    )
    chosen: int = setting(100, "entries K chosen for every sequence", at_least=1, at_most=1_000_000)
    grounding_method: Literal["topk", "normal"] = setting(
        "topk", "topk (released) or normal (nearest entry of every position)"
    )
    grounding_projection: bool = setting(False, "separate projections of patches and words before they vote")
    grounding_positions: bool = setting(False, "add text positions 2 .. K + 1 to the grounded tokens")
    contrastive_projection: bool = setting(False, "ReLU projections before the contrastive score")
    shared_projection: bool = setting(False, "the contrastive score uses the grounding projections")
    masked_grounding: bool = setting(False, "build the masked-grounding head")
    image_contrastive: bool = setting(True, "learn a temperature for image contrastive learning")
    region_size: int = setting(2048, "features of a region (UNIMO)", at_least=1, at_most=65536)
    region_classes: int = setting(1601, "classes of the detector (UNIMO)", at_least=1, at_most=1_000_000)
    region_heads: bool = setting(False, "build the two heads of masked region modelling (UNIMO)")
    fusion: Literal["joint", "prefix"] = setting(
        "joint", "joint (the paper's) or prefix: images do not look at their texts (UNIMO)"
    )
    matching: int = setting(
        0, "outputs of UNIMO's matching head: 0 none, 1 retrieval, 2 pre-training", at_least=0, at_most=2
    )
    dialogue: bool = setting(False, "build the tables of speakers and turns (UNIMO, CoQA)")
    matching_fusion: Literal["product", "sum"] = setting(
        "product", "how the matching head joins both poolers: product or sum"
    )
    dropout: float = setting(
        0.1, "dropout of the text tower, the Grounded Transformer and the matching head", at_least=0, below=1
    )
    attention_dropout: float = setting(0.1, "dropout of their attention weights", at_least=0, below=1)
    image_dropout: float = setting(0.0, "dropout of the image tower", at_least=0, below=1)
    initial_std: float = setting(
        0.02,
        "spread of initial weights; narrow models learn sooner with 0.02 sqrt(768 / width)",
        above=0,
        at_most=10,
    )
    initial_waves: float = setting(
        0.0,
        "text positions start as sines and cosines of this size, not at random (UNIMO); 0: at random, as published",
        at_least=0,
        at_most=100,
    )
    initial_patch_positions: float = setting(
        0.0,
        "spread of patch positions at the start: sums of a random row and a random column; 0: as published, at random",
        at_least=0,
        at_most=100,
    )
    initial_boxes: float = setting(
        1.0,
        "initial weights of boxes, times this (UNIMO): five numbers beside F features",
        at_least=0,
        at_most=10_000,
    )
    released: Released = setting(Released(), "quirks of the published graph of UNIMO-2")
    head: HeadSettings | None = setting(None, "the head of a fine-tuned task, or none")

    def dimension(self, name: str) -> int:
        """width, heads or one of the depths: as set, or that of `size`."""
        given = getattr(self, name)
        return SIZES[self.size][name] if given is None else given

    def contradictions(self) -> Iterator[Contradiction]:
        for name in ("image_size", "pixels"):
            side = getattr(self, name)
            if side is not None and side % self.patch:
                yield Contradiction(
                    "an image is not a whole number of patches",
                    (name, "patch"),
                    got=f"{side} px with patches of {self.patch} px",
                    expected="a multiple of model.patch",
                )
        if self.patch_padding >= self.patch:
            yield Contradiction(
                "a patch of nothing but padding",
                ("patch_padding", "patch"),
                got=self.patch_padding,
                expected=f"less than model.patch, {self.patch}",
            )
        if self.shared_projection and not (self.grounding_projection and self.dictionary):
            yield Contradiction(
                "there is no grounding projection to share",
                ("shared_projection", "grounding_projection", "dictionary"),
                expected="model.grounding_projection=true and a dictionary",
            )
        width, heads = self.dimension("width"), self.dimension("heads")
        if width % heads:
            yield Contradiction(
                "the width cannot be shared among the heads",
                ("heads", "width", "size"),
                got=f"{heads} heads at width {width}",
                expected="a divisor of model.width",
            )


def as_released(settings: ModelSettings) -> ModelSettings:
    """The same model with every slip of the published graph: what released weights of UNIMO-2 were trained with."""
    return replace(
        settings, patch_padding=(settings.patch - 1) // 2, released=Released(*[True] * len(fields(Released)))
    )


def build(settings: ModelSettings) -> Unified:
    """A freshly initialised model (call torch.manual_seed before, for the same one again).

    Raises UsageError for settings that cannot be, ResourceError for a model that does not fit into memory: both before
    anything is allocated.
    """
    check_settings(settings, "model", cls=ModelSettings)
    if torch.get_default_device().type != "meta":
        check_memory(settings)
    own = ("size", "member", "head")
    values = {name: getattr(settings, name) for name in settings.__dataclass_fields__ if name not in own}
    values |= {name: settings.dimension(name) for name in DIMENSIONS}
    if settings.member == "unimo":
        model: Unified = UNIMO(**{name: value for name, value in values.items() if name not in ONLY_UNIMO2})
    else:
        model = UNIMO2(**{name: value for name, value in values.items() if name not in ONLY_UNIMO})
    if settings.head is not None:
        model.head = TaskHead(model.width, settings.head, settings.initial_std)
    return model


class _NoInitialization(TorchFunctionMode):
    """Initializers do nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Modules built inside have names and shapes, but no memory, and draw no random numbers."""
    # Drawn without memory, numbers would make torch import its compiler first: seconds for nothing.
    with torch.device("meta"), _NoInitialization():
        yield


def layers_of(settings: ModelSettings) -> int:
    """Of all towers."""
    towers = ("depth",) if settings.member == "unimo" else ("image_depth", "text_depth", "grounded_depth")
    return sum(settings.dimension(tower) for tower in towers)


def rough_parameters(settings: ModelSettings) -> int:
    """About how many parameters the model will have: its layers and its tables."""
    width, layers = settings.dimension("width"), layers_of(settings)
    if settings.member == "unimo":
        tables = settings.region_size * (1 + settings.region_heads) + settings.region_classes * settings.region_heads
    else:
        tables = settings.dictionary + (settings.image_size // settings.patch) ** 2 + 3 * settings.patch**2
    if settings.head is not None:
        tables += settings.head.hidden + (0 if settings.head.hidden else len(settings.head.labels))
    words = settings.vocabulary * (1 if settings.tie_word_embeddings else 2)
    return width * (layers * (12 * width + 13) + words + settings.positions + tables)


def check_memory(settings: ModelSettings) -> None:
    """ResourceError for a model that does not fit into memory."""
    needed, free = 4 * rough_parameters(settings), free_memory()
    if free is not None and needed > free:
        raise ResourceError(
            "the model does not fit into memory",
            where="model.width, model.vocabulary, the depths and tables of the model",
            got=f"about {needed / 2**30:.1f} GiB of weights",
            expected=f"at most {free / 2**30:.1f} GiB, which are free",
            do="a smaller model, or a larger machine; `unimo describe` tells what needs the memory",
        )


def fill(model: torch.nn.Module, tensors: dict[str, torch.Tensor], *, where: object) -> None:
    """Copies tensors into the parameters of the same names; every name and shape on both sides must agree.

    A model without memory (`shapes_only`) takes the tensors over instead of copies.
    """
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
    if all(parameter.is_meta for parameter in own.values()):
        model.load_state_dict({name: tensors[name].to(own[name].dtype) for name in own}, assign=True)
        return
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
