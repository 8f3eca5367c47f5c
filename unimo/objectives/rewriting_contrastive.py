"""Cross-modal contrastive learning with text rewriting and retrieved neighbours: CMCL of UNIMO (spec unimo §3).

    n anchor pairs (V, W) · k texts beside one image · P images and T texts encoded alone · D width

Nothing is hidden. Beside each image stand its caption, captions that say the same (rewritten, positive) and captions
that are almost right (rewritten, negative; and captions of other images of the batch). A related image and a
related sentence are further positives: each is encoded alone, and meets the caption, or the image, encoded alone.
Asked:

    - log  sum over positives exp(d / tau)  /  sum over positives and negatives exp(d / tau)

one value per anchor, the positives' sum inside the logarithm (§3.4). d is, by choice, a score of both pooled vectors
(joint: the matching head on their product) or their cosine (§3.5).

An image and the texts beside it are encoded together, or (`encode`: alone) each of them once and alone, as in a
search. UNIMO-2 has towers for that: its cosines are those of their contrastive features, nothing is fused, and one more
rewritten caption costs a pass of the text tower (ours; its paper rewrites nothing).

Where do the related ones stand in that sum? *inside*, as the paper writes it, they are positives among negatives that
are all encoded together with an image. Nothing then holds back the score of what is encoded alone: the model raises
it without limit, the loss is zero and teaches nothing (docs/lab-notebook.md, 2026-11-22). *apart*, what is encoded
alone has a sum of its own, in which the images and texts of other anchors are the negatives. Its d is the cosine
by which a search finds them (`Unified.embed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import Batch
from unimo.config import Contradiction, setting
from unimo.data.batch_builder import BatchBuilder
from unimo.data.sample import RELATIONS
from unimo.errors import UsageError
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.model.unimo2 import UNIMO2
from unimo.objectives.objective import MEMBERS, Part, same

TEXTS, IMAGES, SENTENCES = "pairs.rewritten", "pairs.related", "texts.related"


@dataclass(frozen=True)
class RewritingContrastive:
    members = MEMBERS
    trains = (
        "fused", "text_pooler", "image_pooler", "matching", "contrastive_temperature", "contrastive_projection",
    )  # fmt: skip
    parts = ("rewriting", "rewriting.accuracy", "rewriting.alone")
    weight: float = setting(
        1.0, "weight of the contrastive loss with rewriting; 0 switches the objective off", at_least=0, at_most=1e6
    )
    begins: float = setting(
        0.0, "fraction of the run's steps after which captions are contrasted", at_least=0, at_most=1
    )
    pairs: int = setting(16, "pairs per step that are anchors", at_least=0)
    positives: int = setting(1, "rewritten captions per anchor that say the same", at_least=0)
    negatives: int = setting(8, "rewritten captions per anchor that are not true", at_least=0)
    others: int = setting(4, "captions of other images of the batch per anchor, not true either", at_least=0)
    relations: float = setting(
        0.0,
        "fraction of anchors whose rewritten captions keep all things and only exchange who is where",
        at_least=0,
        at_most=1,
    )
    related_images: int = setting(1, "related images per anchor, encoded alone", at_least=0)
    related_texts: int = setting(1, "related sentences per anchor, encoded alone", at_least=0)
    related: Literal["apart", "inside"] = setting(
        "apart", "what is encoded alone: a sum of its own, or inside that of the rewritten captions as published"
    )
    alone_weight: float = setting(1.0, "weight of that sum of its own, relative to the other", at_least=0, at_most=1e6)
    alone_temperature: float = setting(
        0.07, "tau of that sum, which compares by cosine whatever the scorer, as a search", above=0, at_most=1e6
    )
    scorer: Literal["joint", "cosine"] = setting(
        "joint", "d: the matching head on both pooled vectors, or their cosine"
    )
    encode: Literal["together", "alone"] = setting(
        "together", "an image and its texts: in one row, or each alone; UNIMO-2's cosines always compare its towers"
    )
    temperature: float | None = setting(
        1.0, "tau; about 0.07 for cosines; none: the learned one of UNIMO-2's cosines", above=0, at_most=1e6
    )

    def contradictions(self) -> Iterator[Contradiction]:
        if self.temperature is None and self.scorer != "cosine":
            yield Contradiction(
                "no temperature to divide by",
                ("temperature", "scorer"),
                got="none with the joint scorer",
                expected="a number, or the cosine scorer",
            )

    def corrupt(self, builder: BatchBuilder) -> None:
        chosen = builder.first_pairs(self.pairs) if builder.progress >= self.begins else []
        if not chosen:
            return
        seen_in, right, who = [], [], []  # of every text: its image, whether it is a positive, its anchor
        for anchor, i in enumerate(chosen):
            pair = builder.pairs[i]
            rng = pair.rng("rewriting")
            fitting, wrong = [pair.ids], self._of_others(builder, i, rng)
            if pair.side_inputs is not None:
                only = RELATIONS if pair.rng("rewriting relations").random() < self.relations else ()
                true, not_true = pair.side_inputs.rewritten(self.positives, self.negatives, rng, only)
                fitting, wrong = fitting + true, not_true + wrong
            for ids in [*fitting, *wrong]:
                builder.add_text(TEXTS, builder.framed(ids))
            seen_in += [i] * len(fitting + wrong)
            right += [True] * len(fitting) + [False] * len(wrong)
            who += [anchor] * len(fitting + wrong)
        builder.extra |= {"rewriting.image": seen_in, "rewriting.right": right, "rewriting.anchor": who}
        builder.extra["rewriting.pairs"] = chosen
        self._add_related(builder, chosen)

    def _of_others(self, builder: BatchBuilder, i: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Captions of other images of the same shard, none of them equal to this one's."""
        mine, per_shard = builder.pairs[i], len(builder.pairs) // builder.local_micro_batches
        shard = builder.pairs[i // per_shard * per_shard :][:per_shard]
        others = [one.ids for one in shard if one.names[1] != mine.names[1] and one.identity != mine.identity]
        return [others[i] for i in rng.permutation(len(others))[: self.others]]

    def _add_related(self, builder: BatchBuilder, chosen: list[int]) -> None:
        images, texts = [], []
        for anchor, i in enumerate(chosen):
            side_inputs, rng = builder.pairs[i].side_inputs, builder.pairs[i].rng("related")
            if side_inputs is None:
                continue
            for image in side_inputs.related_images(self.related_images, rng):
                builder.add_image(IMAGES, image)
                images.append(anchor)
            for ids in side_inputs.related_texts(self.related_texts, rng):
                builder.add_text(SENTENCES, builder.framed(ids))
                texts.append(anchor)
        builder.extra |= {  # arrays: an empty list would have no type
            "related.image.anchor": np.array(images, np.int64),
            "related.text.anchor": np.array(texts, np.int64),
        }

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        if TEXTS not in batch.text_groups or self.in_towers(model):
            return {}
        images, texts, alone = _numbers(batch)
        if self.encode == "alone":
            return {"rewriting.images": Request(images, None), "rewriting.sentences": Request(None, texts)}
        anchor = batch.host.extra["rewriting.anchor"]
        together = Request(images[anchor], texts[: len(anchor)], share=model.can_share)
        if not self.compares_alone(batch):
            return {"rewriting.together": together}
        return {
            "rewriting.together": together,
            "rewriting.images": Request(images, None),
            "rewriting.sentences": Request(None, texts[alone]),
        }

    def in_towers(self, model: Unified) -> bool:
        """Whether scores come from the towers, and nothing is fused."""
        return self.scorer == "cosine" and isinstance(model, UNIMO2)

    def compares_alone(self, batch: Batch) -> bool:
        """Whether images and texts that are encoded alone are compared with each other."""
        if self.related == "apart":
            return self.alone_weight > 0
        return IMAGES in batch.image_groups or SENTENCES in batch.text_groups

    def vectors(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> tuple[Tensor, ...]:
        """What scores compare: the image and the text of every comparison, (k, D) each; and, where asked, what is
        encoded alone, (P, D) and (T, D)."""
        anchor = batch.extra["rewriting.anchor"]
        images, texts, alone = _numbers(batch)
        if self.encode == "together" and not self.in_towers(model):
            both = fused["rewriting.together"]
            side_inputs = model.image_pooler(both.image_cls()), model.text_pooler(both.text_cls())
            if not self.compares_alone(batch):
                return side_inputs
            image, text = fused["rewriting.images"].image_cls(), fused["rewriting.sentences"].text_cls()
            return *side_inputs, model.image_pooler(image), model.text_pooler(text)
        if self.in_towers(model):
            assert isinstance(model, UNIMO2)
            image = model.contrastive_feature(towers.image_cls(images), "image")
            text = model.contrastive_feature(towers.text_cls(texts), "text")
        else:
            image = model.image_pooler(fused["rewriting.images"].image_cls())
            text = model.text_pooler(fused["rewriting.sentences"].text_cls())
        side_inputs = image[anchor], text[: len(anchor)]
        alone = alone.to(text.device, non_blocking=True)
        return (*side_inputs, image, text[alone]) if self.compares_alone(batch) else side_inputs

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        if TEXTS not in batch.text_groups:
            return {}
        image, text, *encoded_alone = self.vectors(model, batch, towers, fused)
        scores = self.score(model, image, text)
        right, anchor = batch.extra["rewriting.right"], batch.extra["rewriting.anchor"]
        places = batch.host.extra["rewriting.right"].nonzero()[:, 0].to(scores.device, non_blocking=True)
        n, parts = len(batch.extra["rewriting.pairs"]), {}
        best = scores.detach().new_full((n,), float("-inf")).scatter_reduce(0, anchor, scores.detach(), "amax")
        best_is_right = (right & (scores == best[anchor])).float()
        found = best_is_right.new_zeros(n).scatter_reduce(0, anchor, best_is_right, "amax")
        if encoded_alone:
            seen, read = encoded_alone
            alone = self.score_alone(model, seen, read)
            on_host = belong(batch.host)
            positive, compared = (x.to(scores.device, non_blocking=True) for x in on_host)
            if self.related == "apart":
                of_images = positives_in_rows(alone, positive, compared).mean()
                of_texts = positives_in_rows(alone.T, positive.T, compared.T).mean()
                total = (of_images + of_texts) / 2
                parts["rewriting.alone"] = Part(total * n, n, self.weight * self.alone_weight)
            else:
                on_host[0][:n, :n] = False  # the anchor itself is there already, encoded together
                of_image, of_text = (x.to(scores.device, non_blocking=True) for x in on_host[0].nonzero().T)
                scores = torch.cat([scores, alone[of_image, of_text]])
                anchor = torch.cat([anchor, _image_anchor(batch)[of_image]])
                places = torch.cat([places, torch.arange(len(right), len(scores), device=places.device)])
        losses = multiple_positives(scores, places, anchor, n)
        accuracy = Part(found.sum(), n, 0.0)
        return {"rewriting": Part(losses.sum(), n, self.weight), "rewriting.accuracy": accuracy, **parts}

    def score_alone(self, model: Unified, image: Tensor, text: Tensor) -> Tensor:
        """d / tau of every image with every text: (P, D), (T, D) -> (P, T)."""
        if self.related == "inside" or self.scorer == "cosine":
            return self.score(model, image[:, None], text[None])
        return F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T / self.alone_temperature

    def score(self, model: Unified, image: Tensor, text: Tensor) -> Tensor:
        """d / tau of the vectors of images and texts, (..., D) each, which must broadcast: (...)."""
        if self.scorer == "cosine":
            cosine = F.cosine_similarity(image.float(), text.float(), dim=-1)
            if self.temperature is not None:
                return cosine / self.temperature
            if not isinstance(model, UNIMO2):
                raise UsageError(
                    "only UNIMO-2 has a learned temperature",
                    where="objectives.rewriting.temperature",
                    got="none",
                    expected="a number, about 0.07 for cosines",
                )
            return model.contrastive_temperature(cosine)
        assert self.temperature is not None
        assert model.matching is not None, "the joint scorer needs a matching head"
        logits = model.matching(image, text).float()
        return (logits[..., 0] if logits.shape[-1] == 1 else logits[..., 1] - logits[..., 0]) / self.temperature


def _numbers(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What is encoded: (P,) images, the anchors' own and then related ones; texts, the k beside the anchors' images
    and then related sentences; and (T,) which of these texts meet images alone, the captions and then the related."""
    anchor = batch.host.extra["rewriting.anchor"]
    images = batch.images_of("pairs")[batch.host.extra["rewriting.pairs"]]
    texts = batch.texts_of(TEXTS)
    if IMAGES in batch.image_groups:
        images = torch.cat([images, batch.images_of(IMAGES)])
    if SENTENCES in batch.text_groups:
        texts = torch.cat([texts, batch.texts_of(SENTENCES)])
    related = torch.arange(len(anchor), len(texts))
    return images, texts, torch.cat([_first_of(anchor), related])


def _first_of(anchor: Tensor) -> Tensor:
    """(k,) ascending numbers, each from 0 on there -> (n,) where each is met first."""
    return torch.searchsorted(anchor, torch.arange(int(anchor[-1]) + 1))


def _image_anchor(batch: Batch) -> Tensor:
    """(P,) the anchor of every image that is encoded alone: the anchors' own, then the related ones."""
    pairs = batch.extra["rewriting.pairs"]
    return torch.cat([torch.arange(len(pairs), device=pairs.device), batch.extra["related.image.anchor"]])


def belong(batch: Batch) -> tuple[Tensor, Tensor]:
    """(P, T) bool twice: which images and texts, encoded alone, are positives, and which are compared at all.

    Positives are the caption with its image and related images, and the image with related sentences. A related
    image says nothing of a related sentence; and anchors that share an image or a caption are not negatives.
    """
    pairs = batch.extra["rewriting.pairs"]
    number = torch.arange(len(pairs), device=pairs.device)
    image, text = _image_anchor(batch), torch.cat([number, batch.extra["related.text.anchor"]])
    own = (torch.arange(len(image), device=pairs.device) < len(pairs))[:, None]
    own = own | (torch.arange(len(text), device=pairs.device) < len(pairs))[None]
    mine = image[:, None] == text[None]
    items, captions = batch.extra["pairs.image"][pairs], batch.extra["pairs.caption"][pairs]
    alike = same(items, items) | same(captions, captions)
    return mine & own, (mine & own) | ~alike[image][:, text]


def positives_in_rows(scores: Tensor, positive: Tensor, compared: Tensor) -> Tensor:
    """-log of the positives' share of the softmax over what is compared, row by row: (P, T) each -> (P,)."""
    nothing = float("-inf")
    above = scores.masked_fill(~positive, nothing).logsumexp(1)
    return scores.masked_fill(~compared, nothing).logsumexp(1) - above


def multiple_positives(scores: Tensor, right: Tensor, anchor: Tensor, n: int) -> Tensor:
    """-log of the positives' share of each anchor's softmax, (n,). scores, anchor: (k,); right: which of them are
    positives, by number or as (k,) bool; no anchor without."""
    return _log_sum(scores, anchor, n) - _log_sum(scores[right], anchor[right], n)


def _log_sum(scores: Tensor, anchor: Tensor, n: int) -> Tensor:
    """log of the sum of exp(scores) of each of n anchors."""
    with torch.no_grad():
        largest = scores.new_full((n,), float("-inf")).scatter_reduce(0, anchor, scores, "amax")
    return largest + scores.new_zeros(n).index_add(0, anchor, (scores - largest[anchor]).exp()).log()
