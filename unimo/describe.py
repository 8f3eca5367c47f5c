"""What a model is made of: parts, parameter counts, arithmetic per sample (`unimo describe`)."""

from __future__ import annotations

from unimo.model.build import ModelSettings, build, shapes_only
from unimo.model.flops import REGIONS, sample_costs
from unimo.model.unified import Unified

PARTS = {
    "image tower": ("patches", "image_encoder"),
    "text tower": ("words", "text_encoder"),
    "regions": ("regions",),
    "grounded dictionary": ("dictionary", "ground_norm"),
    "Grounded Transformer": ("grounded_encoder",),
    "Transformer": ("encoder",),
    "poolers": ("text_pooler", "image_pooler"),
    "matching head": ("matching",),
    "language-model head": ("language_model",),
    "masked-grounding head": ("masked_grounding",),
    "region heads": ("region_features", "region_classes"),
    "task head": ("head",),
    "contrastive": ("contrastive_temperature", "image_temperature", "contrastive_projection"),
}


def describe(settings: ModelSettings, *, caption: int = 20, passage: int = 128) -> list[str]:
    """Lines for the terminal. Built without memory for weights, so that any size can be described anywhere."""
    with shapes_only():
        model = build(settings)
    counts = part_counts(model)
    total = sum(counts.values())
    sees_pixels = settings.member == "unimo-2"
    images = f"of {settings.pixels or settings.image_size} px" if sees_pixels else f"as {REGIONS} regions"
    lines = [f"{settings.member.upper()}, width {model.width}, images {images}", ""]
    lines += [f"  {name:<24}{count:>15,}" for name, count in counts.items() if count]
    lines += [f"  {'parameters':<24}{total:>15,}", "", "  arithmetic of a forward pass (training: x 3)"]
    for name, cost in sample_costs(model, caption, passage).items():
        lines.append(f"  {name:<24}{cost / 1e9:>12.2f} GFLOP")
    return [*lines, "", f"  {'weights':<24}{4 * total / 2**20:>12.0f} MiB (float32); of training: unimo plan RECIPE"]


def part_counts(model: Unified) -> dict[str, int]:
    """Parameters of each part; together they are all of the model's."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = next(part for part, modules in PARTS.items() if name.split(".")[0] in modules)
        counts[part] += parameter.numel()
    return counts
