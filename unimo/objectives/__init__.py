"""All objectives by the name they have in recipes; one file each. `step` lets them take their turns."""

from __future__ import annotations

from collections.abc import Mapping

from unimo.batch import Batch
from unimo.model.unified import Fused, Request, Unified
from unimo.objectives.cross_modal_contrastive import CrossModalContrastive
from unimo.objectives.grounded_dictionary import GroundedDictionaryLoss
from unimo.objectives.image_contrastive import ImageContrastive
from unimo.objectives.image_text_matching import ImageTextMatching
from unimo.objectives.masked_grounding import MaskedGrounding
from unimo.objectives.masked_language_modeling import MaskedLanguageModeling
from unimo.objectives.masked_region_modeling import MaskedRegionModeling
from unimo.objectives.objective import Objective, Part
from unimo.objectives.rewriting_contrastive import RewritingContrastive
from unimo.objectives.seq2seq_generation import Seq2SeqGeneration
from unimo.objectives.text_contrastive import TextContrastive

OBJECTIVES = {
    "mlm": MaskedLanguageModeling,
    "seq2seq": Seq2SeqGeneration,
    "cmcl": CrossModalContrastive,
    "itm": ImageTextMatching,
    "image_contrastive": ImageContrastive,
    "dictionary": GroundedDictionaryLoss,
    "masked_grounding": MaskedGrounding,
    "mrm": MaskedRegionModeling,
    "rewriting": RewritingContrastive,
    "text_contrastive": TextContrastive,
}


def step(model: Unified, batch: Batch, objectives: Mapping[str, Objective]) -> tuple[dict[str, Part], dict[str, Fused]]:
    """One forward pass for all objectives: towers once, one fused row, then everyone's loss.

    Returns the losses by name and what was fused (to count its cost).
    """
    towers = model.towers(batch)
    requests: dict[str, Request] = {}
    for objective in objectives.values():
        requests |= objective.requests(model, batch, towers)
    requests = {name: request for name, request in requests.items() if len(request)}
    fused = model.fuse(towers, requests) if requests else {}
    parts: dict[str, Part] = {}
    for objective in objectives.values():
        parts |= objective.loss(model, batch, towers, fused)
    return parts, fused


__all__ = [
    "OBJECTIVES",
    "CrossModalContrastive",
    "GroundedDictionaryLoss",
    "ImageContrastive",
    "ImageTextMatching",
    "MaskedGrounding",
    "MaskedLanguageModeling",
    "MaskedRegionModeling",
    "Objective",
    "Part",
    "RewritingContrastive",
    "Seq2SeqGeneration",
    "TextContrastive",
    "step",
]
