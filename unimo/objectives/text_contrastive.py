"""Text contrastive learning: the two halves of an unpaired passage find each other.

    n passages · D width

Not of the papers, and off by default: a signal for the text pooler, which in UNIMO-2's pre-training is heard only in a
product with an image's (spec unimo2 §2.6) and so comes to a task of texts half dead. That two crops of one passage
belong together is Contriever's (Izacard et al. 2022, §3.1), and needs no dropout; the loss and its temperature are
SimCSE's (Gao et al. 2021).

Compared are the outputs of the text pooler's linear map, before its ReLU, on the [CLS] after the Transformer, without
an image. Negatives are the halves of the other passages of the same micro-batch, so that one process and many compute
the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import Batch
from unimo.config import setting
from unimo.data.batch_builder import BatchBuilder
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.objectives.objective import MEMBERS, Part, same

HALVES = ("texts.first_half", "texts.second_half")


@dataclass(frozen=True)
class TextContrastive:
    members = MEMBERS
    trains = ("fused", "text_pooler")
    parts = ("text_contrastive", "text_contrastive.accuracy")
    weight: float = setting(
        0.0, "weight of the text contrastive loss; 0 switches the objective off", at_least=0, at_most=1e6
    )
    temperature: float = setting(0.05, "divides cosines", at_least=0.001, at_most=100)

    def corrupt(self, builder: BatchBuilder) -> None:
        passages = []
        for sampled in (*builder.masked, *builder.fragments):
            starts = np.flatnonzero(builder.tokenizer.word_starts(sampled.ids) == 0)
            starts = starts[starts > 0]
            if not len(starts):  # one word
                continue
            cut = int(starts[np.abs(starts - len(sampled.ids) / 2).argmin()])
            for group, ids in zip(HALVES, (sampled.ids[:cut], sampled.ids[cut:])):
                builder.add_text(group, builder.framed(ids))
            passages.append((sampled.identity, sampled.shard))
        if passages:
            builder.extra["text_contrastive.passages"] = passages

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        if HALVES[0] not in batch.text_groups:
            return {}
        return {"text_contrastive": Request(None, torch.cat([batch.texts_of(group) for group in HALVES]))}

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        if "text_contrastive" not in fused:
            return {}
        states = model.text_pooler.linear(fused["text_contrastive"].text_cls())
        features = F.normalize(
            states.float(), dim=-1
        )  # before the ReLU: a half whose units all die would learn no more
        identity, shard = batch.extra["text_contrastive.passages"].T
        total, right, count = halves(features, identity, shard, self.temperature)
        return {
            "text_contrastive": Part(total, count, self.weight),
            "text_contrastive.accuracy": Part(right, count, 0.0),
        }


def halves(features: Tensor, identity: Tensor, shard: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over halves of the cross-entropy of finding the other one, how many found it, and of how many was asked.

    features: (2n, D) L2-normalised, all first halves before all second ones; identity, shard: (n,) of the passages. Not
    compared are halves of other shards, and further copies of the same passage; a half without a negative is not asked.
    """
    n = len(identity)
    number, place = torch.arange(2 * n, device=features.device), torch.arange(n, device=features.device).repeat(2)
    target = (number + n) % (2 * n)
    negative = same(shard[place], shard[place]) & ~same(identity[place], identity[place])
    compared = negative | (number[None, :] == target[:, None])
    logits = (features @ features.T / temperature).masked_fill(~compared, float("-inf"))
    counted = negative.any(1)
    losses = F.cross_entropy(logits, target, reduction="none")
    right = (logits.detach().argmax(-1) == target) & counted
    return (losses * counted).sum(), right.sum(), counted.sum()
