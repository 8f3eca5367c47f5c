"""All objectives, one file each. A new one is its file and a row in `Objectives`. `step` computes all their losses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from unimo.config import setting
from unimo.objectives.cross_modal_contrastive import CrossModalContrastive
from unimo.objectives.grounded_dictionary import GroundedDictionaryLoss
from unimo.objectives.image_contrastive import ImageContrastive
from unimo.objectives.image_text_matching import ImageTextMatching
from unimo.objectives.masked_grounding import MaskedGrounding
from unimo.objectives.masked_language_modeling import MaskedLanguageModeling
from unimo.objectives.masked_region_modeling import MaskedRegionModeling
from unimo.objectives.objective import Objective, Part, step
from unimo.objectives.rewriting_contrastive import RewritingContrastive
from unimo.objectives.seq2seq_generation import Seq2SeqGeneration
from unimo.objectives.text_contrastive import TextContrastive


@dataclass(frozen=True)
class Objectives:
    """The settings of every objective by its name in recipes; with weight 0 it is off."""

    mlm: MaskedLanguageModeling = setting(MaskedLanguageModeling(), "masked words")
    seq2seq: Seq2SeqGeneration = setting(Seq2SeqGeneration(), "written captions and fragments")
    cmcl: CrossModalContrastive = setting(CrossModalContrastive(), "images and captions that find each other")
    itm: ImageTextMatching = setting(ImageTextMatching(), "does the caption belong to the image")
    image_contrastive: ImageContrastive = setting(ImageContrastive(), "two views of an image that find each other")
    dictionary: GroundedDictionaryLoss = setting(GroundedDictionaryLoss(), "entries and their voters move together")
    masked_grounding: MaskedGrounding = setting(MaskedGrounding(), "masked grounded tokens")
    mrm: MaskedRegionModeling = setting(MaskedRegionModeling(weight=0.0), "masked regions (UNIMO)")
    rewriting: RewritingContrastive = setting(RewritingContrastive(weight=0.0), "captions and their rewritings")
    text_contrastive: TextContrastive = setting(TextContrastive(), "halves of a passage that find each other")

    def active(self) -> dict[str, Objective]:
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: objective for name, objective in named.items() if objective.weight}


OBJECTIVES: dict[str, Any] = {field.name: type(field.default) for field in fields(Objectives)}


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
    "Objectives",
    "Part",
    "RewritingContrastive",
    "Seq2SeqGeneration",
    "TextContrastive",
    "step",
]
