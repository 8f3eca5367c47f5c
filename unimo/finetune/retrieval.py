"""Retrieval: which caption belongs to an image, and which image to a caption (spec unimo §6.6, unimo2 §6.1).

    N images · M captions · g captions of a step · k negatives of each side

circle   as released: every caption of a step meets its image, k other images, and its image meets k captions of
         others, drawn at random from the whole training split: 1 + 2k pairs, and a circle loss on either side
hard     ours: the captions and images of a step are each other's negatives: contrast of embeddings and matching of
         the hardest (UNIMO-2), or a softmax of joint scores (UNIMO)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder, SampledExample
from unimo.data.segments import joined
from unimo.finetune.batches import IMAGES, SampledRow, TaskBatchBuilder, TaskRows
from unimo.finetune.example import Example
from unimo.finetune.generation import targets_of
from unimo.finetune.settings import Ranking
from unimo.finetune.task_type import ReportRow, TaskType, check_rows, report_row, task_builder
from unimo.metrics import retrieval_report
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.model.unimo2 import UNIMO2
from unimo.objectives.circle_loss import two_sided
from unimo.objectives.objective import Part
from unimo.rng import number

if TYPE_CHECKING:
    from unimo.finetune.split import Examples
    from unimo.inference.model import Pipeline

TEXTS, REQUEST = "rank.texts", "rank"
KS = (1, 5, 10)
TRIES = 50  # draws for each negative before it is taken for granted that there are no more
MATCHED = 64  # pairs fused at once, at least: there are N x M of them


@dataclass(frozen=True)
class RankedRow:
    """One image. scores: (M,) of all captions of the split, -inf where not shortlisted; captions: these M."""

    scores: np.ndarray
    captions: list[str]


@dataclass(frozen=True)
class Retrieval(TaskType):
    """member: unimo or unimo-2. matches: whether the model has a matching head."""

    task: str
    settings: Ranking
    member: str
    matches: bool = True
    metrics: tuple[str, ...] = ("retrieval",)
    weight: float = 1.0
    sees: bool = True
    each_target: ClassVar[bool] = True

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.settings.loss == "circle":
            return ("circle", "circle.accuracy")
        return tuple(name for objective in self.objectives for name in objective.parts)

    @property
    def objectives(self) -> list[Any]:
        """What "hard" consists of: objectives of pre-training, over these pairs."""
        from unimo.objectives import CrossModalContrastive, ImageTextMatching, RewritingContrastive

        if self.member == "unimo-2":
            return [CrossModalContrastive(), ImageTextMatching(pairs=self.settings.matched)]
        scorer: dict[str, Any] = {} if self.matches else {"scorer": "cosine", "temperature": 0.07}
        nothing: dict[str, Any] = {"positives": 0, "negatives": 0, "related_images": 0, "related_texts": 0}
        return [RewritingContrastive(pairs=1 << 30, others=self.settings.negatives, **nothing, **scorer)]

    def check(self, examples: Examples) -> None:
        check_rows(examples, texts=False, images=True, what=self.task)

    def corrupt(self, builder: BatchBuilder) -> None:
        builder = task_builder(builder)
        if self.settings.loss == "circle":
            self._against_random(builder)
        else:
            self._against_each_other(builder)

    def _against_random(self, builder: TaskBatchBuilder) -> None:
        """Texts and images of each caption: itself, then k of others."""
        rows, max_length = builder.rows, self.settings.max_length
        assert rows is not None
        images, texts = [], []
        for one in builder.examples:
            others_of_image, others_of_caption = self._others(rows, one)
            own = [one.image]
            for row in others_of_image:
                key = rows.examples.rows[row].image
                assert key is not None
                own.append(rows.show(builder, key, (*one.names, row)))
            images.append(own)
            captions = [captions_of(one.example)[one.target]]
            rng = one.rng("captions of others")
            for row in others_of_caption:
                choices = captions_of(rows.examples.rows[row])
                captions.append(choices[int(rng.integers(len(choices)))])
            ids = [joined([builder.ids(caption, max_length)], max_length) for caption in captions]
            texts.append([builder.add_text(TEXTS, each) for each in ids])
        builder.extra["rank.images"] = np.array(images, np.int64)  # (g, 1 + k)
        builder.extra["rank.texts"] = np.array(texts, np.int64)

    def _others(self, rows: TaskRows, one: SampledRow) -> list[list[int]]:
        """For either side k distinct rows of other images, drawn uniformly; of too few some come twice."""
        rng, k = one.rng("negatives"), self.settings.negatives
        sides = []
        for _ in range(2):
            found: dict[int, None] = {}
            for _ in range(TRIES * k):
                i = int(rng.integers(len(rows)))
                other = rows.examples.rows[i]
                if other.image != one.example.image and captions_of(other):
                    found[i] = None
                    if len(found) == k:
                        break
            chosen = list(found) or [one.row]
            sides.append([chosen[j % len(chosen)] for j in range(k)])
        return sides

    def _against_each_other(self, builder: TaskBatchBuilder) -> None:
        """The rows as pairs of pre-training, whose objectives then add what they need."""
        per_shard = len(builder.examples) // builder.local_micro_batches
        kept = builder.regions if builder.regions else builder.pixels
        shown: Any = kept.pop(IMAGES, [])
        max_length = self.settings.max_length
        for i, one in enumerate(builder.examples):
            ids = builder.ids(captions_of(one.example)[one.target], max_length)[: max_length - 2]
            identity = number("caption", ids.tobytes().hex())
            names = (*one.names[:1], one.row, *one.names[1:])
            builder.pairs.append(SampledExample(one.example.id, identity, ids, names, i % per_shard))
            kept.setdefault("pairs", []).append(shown[one.image])
        builder.extra["pairs.image"] = [number("picture", one.example.image or "") for one in builder.examples]
        builder.extra["pairs.caption"] = [one.identity for one in builder.pairs]
        for objective in self.objectives:
            objective.corrupt(builder)

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        if self.settings.loss == "hard":
            found: dict[str, Request] = {}
            for objective in self.objectives:
                found |= objective.requests(model, batch, towers)
            return found
        images = batch.images_of(IMAGES)[batch.host.extra["rank.images"]]
        texts = batch.texts_of(TEXTS)[batch.host.extra["rank.texts"]]
        k = images.shape[1] - 1
        image = torch.cat([images, images[:, :1].expand(-1, k)], 1)  # right, k other images, k other captions
        text = torch.cat([texts[:, :1].expand(-1, 1 + k), texts[:, 1:]], 1)
        return {REQUEST: Request(image.flatten(), text.flatten())}

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        if self.settings.loss == "hard":
            parts: dict[str, Part] = {}
            for objective in self.objectives:
                parts |= objective.loss(model, batch, towers, fused)
            return parts
        scores = self.scores(model, towers, fused[REQUEST]).unflatten(0, (len(batch.extra["rank.texts"]), -1))
        losses = two_sided(scores, margin=self.settings.margin, scale=self.settings.scale)
        first = (scores.detach().argmax(1) == 0).sum()
        n = len(losses)
        return {"circle": Part(losses.sum(), n, self.weight), "circle.accuracy": Part(first, n, 0.0)}

    def scores(self, model: Unified, towers: Towers, fused: Fused) -> Tensor:
        """(n,) of the pairs of a request, as `Pipeline.match` gives them with the same weight of the cosine."""
        logits = model.match_logits(fused).float()
        score = logits[:, -1]
        if logits.shape[1] == 2 and not (isinstance(model, UNIMO2) and model.released.raw_text_score):
            score = score - logits[:, 0]
        if self.cosine_weight:
            image, text = fused.request.image, fused.request.text
            assert image is not None and text is not None
            cosine = (model.embed(towers, "image")[image] * model.embed(towers, "text")[text]).sum(-1)
            score = score + self.cosine_weight * cosine
        return score

    @property
    def cosine_weight(self) -> float | None:
        """None: the score by which "hard" trains, see `Pipeline.match`."""
        if self.settings.loss == "hard":
            return None
        return self.settings.cosine if self.member == "unimo-2" else 0.0

    @torch.inference_mode()
    def predict(self, pipeline: Pipeline, rows: TaskRows, batch_size: int | None = None) -> list[RankedRow]:
        captions = [text for row in rows.examples.rows for text in captions_of(row)]
        if not captions:
            return [RankedRow(np.zeros(0, np.float32), []) for _ in range(len(rows))]
        size = pairs_per_pass(batch_size)
        images = pipeline.encode_images((rows.seen(i) for i in range(len(rows))), batch_size=size)
        texts = pipeline.encode_texts(captions, batch_size=size)
        pairs = self._candidates(images.embedding.cpu().numpy() @ texts.embedding.cpu().numpy().T)
        found = pipeline.match(images, texts, pairs, cosine_weight=self.cosine_weight, batch_size=size)
        scores = np.full((len(rows), len(captions)), -np.inf, np.float32)
        scores[pairs[:, 0], pairs[:, 1]] = found
        return [RankedRow(row, captions) for row in scores]

    def _candidates(self, cosine: np.ndarray) -> np.ndarray:
        """(k, 2) pairs that are fused: all, or the best by cosine of every image and of every caption."""
        k = self.settings.shortlist
        chosen = np.full(cosine.shape, not k)
        if k:
            np.put_along_axis(chosen, np.argsort(-cosine, 1, kind="stable")[:, :k], True, 1)
            np.put_along_axis(chosen, np.argsort(-cosine, 0, kind="stable")[:k], True, 0)
        return np.argwhere(chosen)

    def written(self, prediction: RankedRow) -> dict[str, Any]:
        best = np.argsort(-prediction.scores, kind="stable")[:5]
        best = best[np.isfinite(prediction.scores[best])]  # what was not shortlisted was not ranked
        return {"prediction": [prediction.captions[i] for i in best], "scores": prediction.scores[best].tolist()}

    def score(self, predictions: Sequence[RankedRow], examples: Examples, seed: int = 0) -> list[ReportRow]:
        """R@1, 5, 10 of both directions, over images that have a caption."""
        numbers = [i for i, row in enumerate(examples.rows) if captions_of(row)]
        owner = np.repeat(np.arange(len(numbers)), [len(captions_of(examples.rows[i])) for i in numbers])
        scores = np.stack([predictions[i].scores for i in numbers])
        found = retrieval_report(scores, owner, KS, seed=seed)
        fused = int(np.isfinite(scores).sum())
        note = f"{len(numbers):,} images, {len(owner):,} captions, {fused:,} fused passes"
        return [
            report_row(self.task, f"{way.replace('_', ' ')} {name}", score, "%", note)
            for way in ("image_to_text", "text_to_image")
            for name, score in found[way].items()
            if isinstance(name, str) and name.startswith("R@")
        ]


def pairs_per_pass(batch_size: int | None) -> int:
    """Pairs that are fused at once: of N x M many, unless each is to be read alone."""
    return 1 if batch_size == 1 else max(batch_size or 0, MATCHED)


def captions_of(example: Example) -> list[str]:
    """The captions of an image: the targets of its row, else its texts."""
    return list(targets_of(example)) or list(example.texts)
