"""Cross-modal contrastive learning with text rewriting and retrieved neighbours: CMCL of UNIMO (spec unimo §3).

    n anchor pairs (V, W) · k texts beside one picture · D width

Nothing is hidden. Beside each picture stand its caption, captions that say the same (rewritten, positive) and captions
that are almost right (rewritten, negative; and captions of other pictures of the batch). A related picture and a
related sentence are further positives: each is encoded alone, and meets the caption, or the picture, encoded alone.
Asked:

    - log  sum over positives exp(d / tau)  /  sum over positives and negatives exp(d / tau)

one value per anchor, the positives' sum inside the logarithm (§3.4). d is, by choice, a score of both pooled vectors
(joint: the matching head on their product) or their cosine (§3.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import Batch
from unimo.config import setting
from unimo.data.pack import Draft
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.objectives.objective import Part

TEXTS, RELATED = "pairs.rewritten", "texts.related"


@dataclass(frozen=True)
class RewritingContrastive:
    parts = ("rewriting", "rewriting.accuracy")
    weight: float = setting(1.0, "weight of the contrastive loss with rewriting; 0 switches the objective off")
    pairs: int = setting(16, "pairs per step that are anchors")
    positives: int = setting(1, "rewritten captions per anchor that say the same")
    negatives: int = setting(8, "rewritten captions per anchor that are not true")
    others: int = setting(4, "captions of other pictures of the batch per anchor, not true either")
    related_images: int = setting(1, "related pictures per anchor, encoded alone")
    related_texts: int = setting(1, "related sentences per anchor, encoded alone")
    scorer: Literal["joint", "cosine"] = setting(
        "joint", "d: the matching head on both pooled vectors, or their cosine"
    )
    temperature: float = setting(1.0, "tau; about 0.07 for cosines")

    def corrupt(self, draft: Draft) -> None:
        chosen = draft.first_pairs(self.pairs)
        if not chosen:
            return
        seen_in, right, who = [], [], []  # of every text: its picture, whether it is a positive, its anchor
        for anchor, i in enumerate(chosen):
            pair = draft.pairs[i]
            rng = pair.rng("rewriting")
            said, wrong = [pair.ids], self._of_others(draft, i, rng)
            if pair.beside is not None:
                same, not_true = pair.beside.rewritten(self.positives, self.negatives, rng)
                said, wrong = said + same, not_true + wrong
            for ids in [*said, *wrong]:
                draft.add_text(TEXTS, draft.framed(ids))
            seen_in += [i] * len(said + wrong)
            right += [True] * len(said) + [False] * len(wrong)
            who += [anchor] * len(said + wrong)
        draft.extra |= {"rewriting.image": seen_in, "rewriting.right": right, "rewriting.anchor": who}
        draft.extra["rewriting.pairs"] = chosen
        self._add_related(draft, chosen)

    def _of_others(self, draft: Draft, i: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Captions of other pictures of the same shard, none of them equal to this one's."""
        mine, per_shard = draft.pairs[i], len(draft.pairs) // draft.local_shards
        shard = draft.pairs[i // per_shard * per_shard :][:per_shard]
        others = [one.ids for one in shard if one.names[1] != mine.names[1] and one.identity != mine.identity]
        return [others[i] for i in rng.permutation(len(others))[: self.others]]

    def _add_related(self, draft: Draft, chosen: list[int]) -> None:
        images, texts = [], []
        for anchor, i in enumerate(chosen):
            beside, rng = draft.pairs[i].beside, draft.pairs[i].rng("related")
            if beside is None:
                continue
            for picture in beside.related_images(self.related_images, rng):
                draft.regions.setdefault("pairs.related", []).append(picture)
                images.append(anchor)
            for ids in beside.related_texts(self.related_texts, rng):
                draft.add_text(RELATED, draft.framed(ids))
                texts.append(anchor)
        draft.extra |= {"related.image.anchor": images, "related.text.anchor": texts}

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        if TEXTS not in batch.text_groups:
            return {}
        pictures = batch.images_of("pairs")
        texts, anchor = batch.texts_of(TEXTS), batch.extra["rewriting.anchor"]
        asked = {"rewriting.together": Request(pictures[batch.extra["rewriting.image"]], texts, share=model.can_share)}
        if "pairs.related" in batch.image_groups:  # a related picture beside the caption: each alone
            of = batch.extra["related.image.anchor"]
            captions = texts[torch.searchsorted(anchor, of)]  # the first text of an anchor is its caption
            asked["related.image"] = Request(batch.images_of("pairs.related"), None)
            asked["related.caption"] = Request(None, captions)
        if RELATED in batch.text_groups:
            asked["related.text"] = Request(None, batch.texts_of(RELATED))
            of = batch.extra["rewriting.pairs"][batch.extra["related.text.anchor"]]
            asked["related.picture"] = Request(pictures[of], None)
        return asked

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        if "rewriting.together" not in fused:
            return {}
        scores = [self.score(model, fused["rewriting.together"], fused["rewriting.together"])]
        right, anchor = [batch.extra["rewriting.right"]], [batch.extra["rewriting.anchor"]]
        for image, text, of in (
            ("related.image", "related.caption", "related.image.anchor"),
            ("related.picture", "related.text", "related.text.anchor"),
        ):
            if image in fused:
                scores.append(self.score(model, fused[image], fused[text]))
                anchor.append(batch.extra[of])
                right.append(torch.ones_like(batch.extra[of], dtype=torch.bool))
        n = len(batch.extra["rewriting.pairs"])
        losses = multiple_positives(torch.cat(scores) / self.temperature, torch.cat(right), torch.cat(anchor), n)
        first = scores[0].detach()
        best = first.new_full((n,), float("-inf")).scatter_reduce(0, anchor[0], first, "amax")
        found = torch.zeros(n, dtype=torch.bool, device=first.device)
        found[anchor[0][right[0] & (first == best[anchor[0]])]] = True
        return {"rewriting": Part(losses.sum(), n, self.weight), "rewriting.accuracy": Part(found.sum(), n, 0.0)}

    def score(self, model: Unified, image: Fused, text: Fused) -> Tensor:
        """(k,) d of the pooled picture of one request with the pooled text of the other, row by row."""
        pooled_image, pooled_text = model.image_pooler(image.image_cls()), model.text_pooler(text.text_cls())
        if self.scorer == "cosine":
            return F.cosine_similarity(pooled_image.float(), pooled_text.float(), dim=-1)
        assert model.matching is not None, "the joint scorer needs a matching head"
        logits = model.matching(pooled_image, pooled_text).float()
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def multiple_positives(scores: Tensor, right: Tensor, anchor: Tensor, n: int) -> Tensor:
    """-log of the positives' share of each anchor's softmax, (n,). scores, right, anchor: (k,), none without."""
    return _log_sum(scores, anchor, n) - _log_sum(scores[right], anchor[right], n)


def _log_sum(scores: Tensor, anchor: Tensor, n: int) -> Tensor:
    """log of the sum of exp(scores) of each of n anchors."""
    with torch.no_grad():
        largest = scores.new_full((n,), float("-inf")).scatter_reduce(0, anchor, scores, "amax")
    return largest + scores.new_zeros(n).index_add(0, anchor, (scores - largest[anchor]).exp()).log()
