"""Image contrastive learning: two views of one unpaired image find each other (spec unimo2 §4.5).

    n local images · N images of all ranks

Asked of the image pooler on the visual [CLS] after the Grounded Transformer, in image-only mode [ V | G ]. The released
code has no such loss; this is the recommended one: two augmented views, cosine, a learned temperature, and all
other views of all ranks as negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unimo import distributed
from unimo.batch import Batch
from unimo.config import setting
from unimo.data.batch_builder import BatchBuilder
from unimo.model.unified import Fused, Request, Towers
from unimo.model.unimo2 import UNIMO2
from unimo.objectives.objective import Part, same


@dataclass(frozen=True)
class ImageContrastive:
    members = ("unimo-2",)
    trains = ("fused", "image_pooler", "image_temperature")
    parts = ("image_contrastive", "image_contrastive.accuracy")
    weight: float = setting(
        1.0, "weight of the image contrastive loss; 0 switches the objective off", at_least=0, at_most=1e6
    )

    def corrupt(self, builder: BatchBuilder) -> None:
        if builder.images:
            builder.extra["images.identity"] = [sampled.identity for sampled in builder.images]

    def requests(self, model: UNIMO2, batch: Batch, towers: Towers) -> dict[str, Request]:
        if "images.a" not in batch.image_groups:
            return {}
        both = torch.cat([batch.images_of("images.a"), batch.images_of("images.b")])
        return {"image_contrastive": Request(both, None)}

    def loss(self, model: UNIMO2, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        if "image_contrastive" not in fused:
            return {}
        features = F.normalize(model.image_pooler(fused["image_contrastive"].image_cls()).float(), dim=-1)
        a, b = features.chunk(2)
        total, right = two_views(a, b, batch.extra["images.identity"], model.image_temperature)
        count = len(features)
        return {
            "image_contrastive": Part(total, count, self.weight),
            "image_contrastive.accuracy": Part(right, count, 0.0),
        }


def two_views(a: Tensor, b: Tensor, identity: Tensor, temperature) -> tuple[Tensor, Tensor]:
    """Sum over the 2n local views of the cross-entropy of finding the other view, and how many found it.

    a, b: (n, D) L2-normalised; identity: (n,) image numbers. Candidates are all views of all ranks but oneself and
    further copies of the same image.
    """
    n, first = len(a), distributed.rank() * len(a)
    all_a, all_b = distributed.gather(a), distributed.gather(b)
    everyone = distributed.gather(identity)
    target = first + torch.arange(n, device=a.device)
    copy = same(identity, everyone)
    other_copy = copy.clone()
    other_copy[torch.arange(n, device=a.device), target] = False
    total, right = a.new_zeros(()), a.new_zeros((), dtype=torch.int64)
    for mine, theirs, own in ((a, all_b, all_a), (b, all_a, all_b)):
        logits = torch.cat(
            [
                temperature(mine @ theirs.T).masked_fill(other_copy, float("-inf")),
                temperature(mine @ own.T).masked_fill(copy, float("-inf")),
            ],
            dim=1,
        )
        total = total + F.cross_entropy(logits, target, reduction="sum")
        right = right + (logits.detach().argmax(-1) == target).sum()
    return total, right
