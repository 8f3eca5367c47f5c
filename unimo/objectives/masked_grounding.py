"""Masked grounding: grounded tokens are zeroed and their dictionary index is predicted (spec unimo2 §2.4, §4.6).

n pairs · K chosen · C dictionary
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F

from unimo.batch import Batch
from unimo.config import setting
from unimo.data.batch_builder import BatchBuilder
from unimo.errors import UsageError
from unimo.model.unified import Fused, Request, Towers
from unimo.model.unimo2 import UNIMO2
from unimo.objectives.objective import Part


@dataclass(frozen=True)
class MaskedGrounding:
    members = ("unimo-2",)
    trains = ("fused", "masked_grounding")
    parts = ("masked_grounding", "masked_grounding.accuracy")
    weight: float = setting(0.0, "weight of masked grounding; 0 switches the objective off", at_least=0, at_most=1e6)
    pairs: int = setting(16, "pairs per step whose grounded tokens are masked", at_least=0)
    ratio: float = setting(0.15, "chance of each grounded token to be zeroed", at_least=0, at_most=1)
    chosen: int = setting(100, "an upper bound of the grounded tokens of a sequence", at_least=1, at_most=100_000)

    def corrupt(self, builder: BatchBuilder) -> None:
        if not builder.pairs:
            return
        builder.read_captions()
        numbers = builder.first_pairs(self.pairs)
        builder.extra["masked_grounding.pairs"] = numbers
        noise = [builder.pairs[i].rng("masked grounding").random(self.chosen) for i in numbers]
        builder.extra["masked_grounding.noise"] = np.array(noise, dtype=np.float32).reshape(len(numbers), self.chosen)

    def requests(self, model: UNIMO2, batch: Batch, towers: Towers) -> dict[str, Request]:
        drawn = batch.host.extra
        numbers = drawn.get("masked_grounding.pairs")
        if numbers is None or len(numbers) == 0 or model.dictionary is None:
            return {}
        if model.dictionary.method != "topk" or model.dictionary.chosen > self.chosen:
            raise UsageError(
                "masked grounding cannot draw for every grounded token",
                where="objectives.masked_grounding.chosen",
                got=f"{self.chosen}, with {model.dictionary.chosen} tokens of method {model.dictionary.method}",
                expected="at least model.chosen, and model.grounding_method topk",
            )
        hidden = drawn["masked_grounding.noise"][:, : model.dictionary.chosen] < self.ratio
        return {"masked_grounding": Request(numbers, batch.texts_of("pairs.clean")[numbers], hidden)}

    def loss(self, model: UNIMO2, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        if "masked_grounding" not in fused:
            return {}
        answer = fused["masked_grounding"]
        assert model.masked_grounding is not None and model.dictionary is not None and answer.codes is not None
        assert answer.request.mask_ground is not None
        places = answer.request.mask_ground.flatten().nonzero()[:, 0].to(answer.codes.device, non_blocking=True)
        labels, states = answer.codes.flatten()[places], answer.ground().flatten(0, 1)[places]
        logits = model.masked_grounding(states, model.dictionary.entries).float()
        total = F.cross_entropy(logits, labels, reduction="sum")
        right = (logits.detach().argmax(-1) == labels).sum()
        return {
            "masked_grounding": Part(total, len(labels), self.weight),
            "masked_grounding.accuracy": Part(right, len(labels), 0.0),
        }
