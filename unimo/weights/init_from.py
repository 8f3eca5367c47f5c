"""Models that start from other weights: from one of ours, or from the towers of RoBERTa and ViT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unimo.config import override
from unimo.errors import UsageError
from unimo.model.build import ModelSettings, build, shapes_only
from unimo.model.unified import Unified
from unimo.weights import huggingface, key_map
from unimo.weights.key_map import line
from unimo.weights.loading import load_model
from unimo.weights.saving import save_pretrained


def start_from(model: Unified, source: str | Path, drop: tuple[str, ...] = ()) -> key_map.LoadReport:
    """Puts the weights of another model into this one, where both have a parameter; what it lacks stays as it is.

    source: as of `load_model`. drop: beginnings of names that stay as they are too. The head of a task is taken by a
    model with a head of the same task and shape alone: STS-B may start from MNLI's model, not from MNLI's answers.
    Raises WeightsError if `source` has a parameter that this model has not, or in another shape.
    """
    theirs = load_model(source)[0]
    same_head = theirs.head is not None and model.head is not None and theirs.head.settings == model.head.settings
    left_out = drop if same_head else (*drop, "head.")
    weights = {name: x.detach() for name, x in theirs.named_parameters() if not name.startswith(left_out)}
    report = key_map.convert(model, key_map.by_name(model, weights), weights, where=source, strict=False)
    key_map.refuse_unfit(report, source)
    return report


def init_from_pretrained(
    out: str | Path,
    settings: ModelSettings,
    *,
    roberta: str | None = None,
    vit: str | None = None,
    assignments: Sequence[str] = (),
    seed: int = 0,
) -> list[str]:
    """A model started from other people's towers, saved; returns what became of every tensor, line by line.

    Its sizes are theirs; whatever else it has is as in `settings`, and assignments (KEY=VALUE) replace any of it. What
    does not fit is refused before anything is built.
    """
    if roberta is None and vit is None:
        raise UsageError("nothing to start from", where="--roberta, --vit", expected="at least one of them")
    if Path(out).exists():
        raise UsageError("the folder exists", where=out, expected="a new one", do="choose another name")
    words, patches = (None if source is None else huggingface.find(source) for source in (roberta, vit))
    settings = override(replace(settings, **_sizes(settings.member, words, patches)), assignments)
    with shapes_only():
        shapes = build(settings)
    if words is not None:
        huggingface.check_roberta(shapes, words)
    if patches is not None:
        huggingface.check_vit(shapes, patches)
    torch.manual_seed(seed)
    model, lines = build(settings).eval(), []
    fresh = {name for name, _ in model.named_parameters()}
    for source, folder, start in (
        (roberta, words, huggingface.start_from_roberta),
        (vit, patches, huggingface.start_from_vit),
    ):
        if folder is not None:
            report = start(model, folder)
            fresh -= set(report.loaded)
            lines += [f"from {source}", line("loaded", report.loaded), line("left over", report.extra)]
    facts = {"started from": [name for name in (roberta, vit) if name], "seed": seed}
    return [*lines, line("fresh", sorted(fresh)), f"saved {save_pretrained(model, out, settings, facts=facts)}"]


# Field of a configuration -> our setting.
_OF_BOTH = {"hidden_size": "width", "num_attention_heads": "heads"}
_OF_ROBERTA = {"vocab_size": "vocabulary", "max_position_embeddings": "positions"}
_OF_VIT = {"num_hidden_layers": "image_depth", "image_size": "image_size", "patch_size": "patch"}


def _sizes(member: str, roberta: Path | None, vit: Path | None) -> dict[str, Any]:
    """Our settings as the configurations have them; those of RoBERTa where both say something."""
    depths = ("depth",) if member == "unimo" else ("text_depth", "grounded_depth")
    found: dict[str, Any] = {}
    for folder, own in ((vit, _OF_VIT), (roberta, _OF_ROBERTA)):
        config = {} if folder is None else huggingface.read_config(folder)
        named = [*_OF_BOTH.items(), *own.items()]
        named += [("num_hidden_layers", depth) for depth in depths] if own is _OF_ROBERTA else []
        found |= {ours: config[field] for field, ours in named if type(config.get(field)) is int}
    return found
