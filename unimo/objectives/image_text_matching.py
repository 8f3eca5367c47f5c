"""Image-text matching: does this caption belong to this image? (spec unimo2 §4.4)

    s local shards · n pairs of a shard · k of them matched

Computed on the product of both poolers. For each matched pair there are two negatives: its image with another caption
and its caption with another image of the same shard, drawn in proportion to exp(similarity / temperature) so that
the confusable ones come first. A negative recombines cached towers and votes: one fused sequence, nothing is encoded
again. Pairs with the same image or the same words are never negatives; without a candidate there is none.

Where CMCL encoded rewritten captions that are not true of an image (`objectives.cmcl.negatives`), the first of them
beside it is a third negative (`rewritten`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import Batch, read_back
from unimo.config import setting
from unimo.data.batch_builder import BatchBuilder
from unimo.model.unified import Fused, Request, Towers
from unimo.model.unimo2 import UNIMO2
from unimo.objectives.objective import MEMBERS, NEGATIVES, Part, pair_features

NEGATIVE = ("other_text", "other_image", "rewritten")


@dataclass(frozen=True)
class ImageTextMatching:
    members = MEMBERS
    trains = ("fused", "text_pooler", "image_pooler", "matching")
    parts = ("itm", "itm.accuracy")
    weight: float = setting(1.0, "weight of the matching loss; 0 switches the objective off", at_least=0, at_most=1e6)
    pairs: int = setting(16, "pairs per step that are matched, each with two negatives", at_least=0)
    hard: bool = setting(True, "draw negatives by similarity; false draws them uniformly")
    rewritten: bool = setting(True, "match rewritten captions too, where CMCL has encoded some")

    def corrupt(self, builder: BatchBuilder) -> None:
        builder.read_captions()
        chosen = builder.first_pairs(self.pairs)
        if not chosen:
            return
        builder.extra["itm.pairs"] = chosen
        candidates = len(builder.pairs) // builder.local_micro_batches
        builder.extra["itm.noise"] = np.array(
            [builder.pairs[i].rng("itm").gumbel(size=(2, candidates)) for i in chosen], dtype=np.float32
        ).reshape(builder.local_micro_batches, -1, 2, candidates)

    def requests(self, model: UNIMO2, batch: Batch, towers: Towers) -> dict[str, Request]:
        chosen = batch.host.extra.get("itm.pairs")
        if chosen is None:
            return {}
        text = batch.texts_of("pairs.clean")
        other_text, other_image, valid = self.negatives(model, batch, towers)
        requests = {"itm.match": Request(chosen, text[chosen])}
        if valid.any():
            chosen = chosen[valid]
            requests["itm.other_text"] = Request(chosen, text[other_text[valid]])
            requests["itm.other_image"] = Request(other_image[valid], text[chosen])
        if self.rewritten and "cmcl.negatives" in batch.extra:
            owner, matched = batch.host.extra["cmcl.negatives"], batch.host.extra["itm.pairs"]
            first = torch.searchsorted(owner, matched).clamp_max(len(owner) - 1)
            has = owner[first] == matched
            requests["itm.rewritten"] = Request(matched[has], batch.texts_of(NEGATIVES)[first[has]])
        return requests

    @torch.no_grad()
    def negatives(self, model: UNIMO2, batch: Batch, towers: Towers) -> tuple[Tensor, Tensor, Tensor]:
        """For each matched pair another caption, another image (pair numbers, (s * k,)), and if there is one.

        On the host: how long the fused sequences become depends on them.
        """
        drawn = batch if self.hard else batch.host
        noise = drawn.extra["itm.noise"]  # (s, k, 2, n), Gumbel: the largest score + noise is a draw from the softmax
        micro_batches, matched, _, n = noise.shape
        duplicate = torch.zeros(micro_batches, matched, n, dtype=torch.bool)
        for identity in (batch.host.extra["pairs.image"], batch.host.extra["pairs.caption"]):
            identity = identity.unflatten(0, (micro_batches, n))
            duplicate |= identity[:, :matched, None] == identity[:, None, :]
        near = [noise.new_zeros(())] * 2
        refused = duplicate.to(noise.device, non_blocking=True) if self.hard else duplicate
        if self.hard:
            image, text = (side.unflatten(0, (micro_batches, n)) for side in pair_features(model, batch, towers))
            sides = ((image, text), (text, image))
            near = [model.contrastive_temperature(rows[:, :matched] @ columns.mT) for rows, columns in sides]
        choices = []
        for side in range(2):
            score = (near[side] + noise[:, :, side]).masked_fill(refused, float("-inf"))
            choices.append(score.argmax(-1))
        chosen = read_back(torch.stack(choices)) + n * torch.arange(micro_batches)[:, None]
        return chosen[0].flatten(), chosen[1].flatten(), ~duplicate.all(-1).flatten()

    def loss(self, model: UNIMO2, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        names = [f"itm.{name}" for name in ("match", *NEGATIVE) if f"itm.{name}" in fused]
        if not names:
            return {}
        logits = torch.cat([model.match_logits(fused[name]) for name in names]).float()
        labels = torch.cat(
            [torch.full((len(fused[name].request),), int(name == "itm.match"), device=logits.device) for name in names]
        )
        total = F.cross_entropy(logits, labels, reduction="sum")
        right = (logits.detach().argmax(-1) == labels).sum()
        return {"itm": Part(total, len(labels), self.weight), "itm.accuracy": Part(right, len(labels), 0.0)}
