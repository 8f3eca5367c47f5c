"""Cross-modal contrastive learning of UNIMO-2: image and caption of a pair find each other (spec unimo2 §4.3).

    n local pairs · N pairs of all ranks · k rewritten captions · D width

Computed on the unimodal [CLS] states, before anything is fused: which of N captions belongs to this image, and which
of N images to this caption. Every rank scores its own rows against the gathered columns, n x N instead of N x N.

Captions that were rewritten to be false (`unimo prepare rewrites`) are further columns of their own image's row: hard
negatives, each for a pass of the text tower (UNIMO's, spec unimo §3.2; in this place as in NegCLIP, Yuksekgonul et al.
2023). Other images do not meet them, for they may be true there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimo import distributed
from unimo.batch import Batch
from unimo.config import setting
from unimo.data.batch_builder import BatchBuilder
from unimo.data.sample import BINDING
from unimo.model.unified import Fused, Request, Towers
from unimo.model.unimo2 import UNIMO2
from unimo.objectives.objective import NEGATIVES, Part, pair_features, same


@dataclass(frozen=True)
class CrossModalContrastive:
    members = ("unimo-2",)
    trains = ("contrastive_temperature", "contrastive_projection")
    parts = ("cmcl", "cmcl.accuracy", "cmcl.rewritten.accuracy")
    weight: float = setting(
        1.0, "weight of the contrastive loss; 0 switches the objective off", at_least=0, at_most=1e6
    )
    normalise: Literal["both", "image", "none"] = setting(
        "both", "L2-normalised sides: both (ours), image (released, one process) or none (released, many processes)"
    )
    pairs: int = setting(64, "pairs per step whose image meets rewritten captions, if any", at_least=0)
    negatives: int = setting(0, "rewritten captions of each of them that are not true", at_least=0)
    binding: float = setting(
        0.0, "fraction of them whose rewritten captions only exchange words, or a relation", at_least=0, at_most=1
    )

    def corrupt(self, builder: BatchBuilder) -> None:
        builder.read_captions()
        owners: list[int] = []
        for i in builder.first_pairs(self.pairs) if self.negatives else ():
            pair = builder.pairs[i]
            if pair.side_inputs is not None:
                only = BINDING if pair.rng("cmcl binding").random() < self.binding else ()
                _, wrong = pair.side_inputs.rewritten(0, self.negatives, pair.rng("cmcl"), only)
                for ids in wrong:
                    builder.add_text(NEGATIVES, builder.framed(ids))
                owners += [i] * len(wrong)
        if owners:
            builder.extra["cmcl.negatives"] = np.array(owners, np.int64)

    def requests(self, model: UNIMO2, batch: Batch, towers: Towers) -> dict[str, Request]:
        return {}

    def loss(self, model: UNIMO2, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        if "pairs.clean" not in batch.text_groups:
            return {}
        image, text = pair_features(model, batch, towers, self.normalise)
        identities = torch.stack([batch.extra["pairs.image"], batch.extra["pairs.caption"]])
        hard = self.hard_scores(model, batch, towers, image)
        total, right = contrastive(image, text, identities, model.contrastive_temperature, hard)
        parts = {"cmcl": Part(total, len(image), self.weight), "cmcl.accuracy": Part(right, len(image), 0.0)}
        if hard is not None:
            own = model.contrastive_temperature((image * text).sum(-1))
            met = batch.host.extra["cmcl.negatives"].unique().to(image.device, non_blocking=True)
            found = (own > hard.amax(-1))[met].sum()
            parts["cmcl.rewritten.accuracy"] = Part(found, len(met), 0.0)
        return parts

    def hard_scores(self, model: UNIMO2, batch: Batch, towers: Towers, image: Tensor) -> Tensor | None:
        """(n, most of one image) scores of each image with its rewritten captions, -inf where it has fewer."""
        owner = batch.host.extra.get("cmcl.negatives")
        if owner is None:
            return None
        text = model.contrastive_feature(towers.text_cls(batch.texts_of(NEGATIVES)), "text")
        if self.normalise == "both":
            text = F.normalize(text, dim=-1)
        place = torch.arange(len(owner)) - torch.searchsorted(owner, owner)  # among its image's
        most = int(place.max()) + 1
        at = tuple(x.to(image.device, non_blocking=True) for x in (owner, place))
        scores = model.contrastive_temperature((image[at[0]] * text).sum(-1))
        return scores.new_full((len(image), most), float("-inf")).index_put(at, scores)


def contrastive(
    image: Tensor, text: Tensor, identities: Tensor, temperature, hard: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum over local rows of the mean of both cross-entropies, and how many rows both directions got right.

    identities: (2, n) numbers of the image and of the caption's words; another pair with an equal number is not a
    negative (it would be called wrong for being right) and leaves the softmax. hard: (n, h) scores of further texts
    that are not true of each image.
    """
    first = distributed.rank() * len(image)
    target = first + torch.arange(len(image), device=image.device)
    everyone = distributed.gather(identities.T).T  # (2, N)
    duplicate = same(identities[0], everyone[0]) | same(identities[1], everyone[1])
    duplicate[target - first, target] = False
    total, right = image.new_zeros(()), torch.ones(len(image), dtype=torch.bool, device=image.device)
    for rows, columns, further in ((image, text, hard), (text, image, None)):
        logits = temperature(rows @ distributed.gather(columns).T).masked_fill(duplicate, float("-inf"))
        if further is not None:
            logits = torch.cat([logits, further], 1)
        total = total + 0.5 * F.cross_entropy(logits, target, reduction="sum")
        right &= logits.detach().argmax(-1) == target
    return total, right.sum()
