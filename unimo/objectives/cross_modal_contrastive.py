"""Cross-modal contrastive learning of UNIMO-2: image and caption of a pair find each other (spec unimo2 §4.3).

    n local pairs · N pairs of all ranks · D width

Computed on the unimodal [CLS] states, before anything is fused: which of N captions belongs to this image, and which
of N images to this caption. Every rank scores its own rows against the gathered columns, n x N instead of N x N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unimo import distributed
from unimo.batch import Batch
from unimo.config import setting
from unimo.data.batch_builder import BatchBuilder
from unimo.model.unified import Fused, Request, Towers
from unimo.model.unimo2 import UNIMO2
from unimo.objectives.objective import Part, pair_features, same


@dataclass(frozen=True)
class CrossModalContrastive:
    members = ("unimo-2",)
    parts = ("cmcl", "cmcl.accuracy")
    weight: float = setting(
        1.0, "weight of the contrastive loss; 0 switches the objective off", at_least=0, at_most=1e6
    )
    normalise: Literal["both", "image", "none"] = setting(
        "both", "L2-normalised sides: both (ours), image (released, one process) or none (released, many processes)"
    )

    def corrupt(self, builder: BatchBuilder) -> None:
        builder.read_captions()

    def requests(self, model: UNIMO2, batch: Batch, towers: Towers) -> dict[str, Request]:
        return {}

    def loss(self, model: UNIMO2, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        if "pairs.clean" not in batch.text_groups:
            return {}
        image, text = pair_features(model, batch, towers, self.normalise)
        identities = torch.stack([batch.extra["pairs.image"], batch.extra["pairs.caption"]])
        total, right = contrastive(image, text, identities, model.contrastive_temperature)
        return {"cmcl": Part(total, len(image), self.weight), "cmcl.accuracy": Part(right, len(image), 0.0)}


def contrastive(image: Tensor, text: Tensor, identities: Tensor, temperature) -> tuple[Tensor, Tensor]:
    """Sum over local rows of the mean of both cross-entropies, and how many rows both directions got right.

    identities: (2, n) numbers of the image and of the caption's words; another pair with an equal number is not a
    negative (it would be called wrong for being right) and leaves the softmax.
    """
    first = distributed.rank() * len(image)
    target = first + torch.arange(len(image), device=image.device)
    everyone = distributed.gather(identities.T).T  # (2, N)
    duplicate = same(identities[0], everyone[0]) | same(identities[1], everyone[1])
    duplicate[torch.arange(len(image)), target] = False
    total, right = image.new_zeros(()), torch.ones(len(image), dtype=torch.bool, device=image.device)
    for rows, columns in ((image, text), (text, image)):
        logits = temperature(rows @ distributed.gather(columns).T).masked_fill(duplicate, float("-inf"))
        total = total + 0.5 * F.cross_entropy(logits, target, reduction="sum")
        right &= logits.detach().argmax(-1) == target
    return total, right.sum()
