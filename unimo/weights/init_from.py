"""Models that start from other weights: from one of ours, or from the towers of RoBERTa and ViT."""

from __future__ import annotations

from pathlib import Path

import torch

from unimo.errors import UsageError, WeightsError
from unimo.model.build import ModelSettings, build
from unimo.model.unified import Unified
from unimo.weights import key_map
from unimo.weights.huggingface import start_from_roberta, start_from_vit
from unimo.weights.key_map import line
from unimo.weights.loading import load_model
from unimo.weights.saving import save_pretrained


def start_from(model: Unified, source: str | Path) -> key_map.LoadReport:
    """Puts the weights of another model into this one, where both have a parameter; what it lacks stays as it is.

    source: as of `load_model`. Raises WeightsError if it has a parameter that this model has not, or in another shape.
    """
    weights = {name: x.detach() for name, x in load_model(source)[0].named_parameters()}
    report = key_map.convert(model, key_map.by_name(model, weights), weights, where=source, strict=False)
    refuse_unfit(report, source)
    return report


def refuse_unfit(report: key_map.LoadReport, source: str | Path) -> None:
    """WeightsError if the other model has a parameter that this one has not, or in another shape."""
    if report.misshapen or report.extra:
        what, do = (
            "these weights do not fit the model to start from them",
            "give the model the same sizes (--set model....)",
        )
        expected = "every tensor of theirs in ours, of the same shape"
        raise WeightsError(what, where=source, got=report.problems(), expected=expected, do=do)


def init_from_pretrained(
    out: str | Path, settings: ModelSettings, *, roberta: str | None = None, vit: str | None = None, seed: int = 0
) -> list[str]:
    """A model started from other people's towers, saved; returns what became of every tensor, line by line."""
    if roberta is None and vit is None:
        raise UsageError("nothing to start from", where="--roberta, --vit", expected="at least one of them")
    torch.manual_seed(seed)
    model, lines = build(settings).eval(), []
    fresh = {name for name, _ in model.named_parameters()}
    for source, start in ((roberta, start_from_roberta), (vit, start_from_vit)):
        if source is not None:
            report = start(model, source)
            fresh -= set(report.loaded)
            lines += [f"from {source}", line("loaded", report.loaded), line("left over", report.extra)]
    facts = {"started from": [name for name in (roberta, vit) if name], "seed": seed}
    return [*lines, line("fresh", sorted(fresh)), f"saved {save_pretrained(model, out, settings, facts=facts)}"]
