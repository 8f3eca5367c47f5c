"""Captioning: one greedy sentence per image, marked against what people (or the world's grammar) wrote."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.evaluation.zero_shot.context import EvalContext, Paths, choose, in_blocks, references
from unimo.metrics.captions import caption_report

METRICS = {"CIDEr-D": ("", "0 to 10; published x 100"), "BLEU-4": ("%", ""), "ROUGE-L": ("%", "")}


@dataclass(frozen=True)
class Captions:
    """n sentences and the references of each; nearest: caption of the nearest training image, or None."""

    corpus: Corpus
    items: np.ndarray
    sentences: list[str]
    references: list[list[str]]
    nearest: list[str] | None


@dataclass(frozen=True)
class Captioning:
    """train_pairs: paths of what the model was trained on, for the baseline that copies the first caption of
    the training image with the nearest embedding, among `train_limit` of them. max_length: pieces written."""

    pairs: Paths
    train_pairs: Paths = ()
    title: str = "Captions, greedy"
    limit: int | None = 256
    train_limit: int | None = 2000
    max_length: int = 50
    seed: int = 0

    def predict(self, context: EvalContext) -> Captions:
        corpus = context.corpus("pairs", self.pairs)
        items = choose(len(corpus), self.limit, "pairs", self.seed)
        sentences = context.captions(corpus, items, self.max_length)
        return Captions(
            corpus,
            items,
            sentences,
            [references(corpus, int(i)) for i in items],
            self._nearest(context, corpus, items),
        )

    def _nearest(self, context: EvalContext, corpus: Corpus, items: np.ndarray) -> list[str] | None:
        if not self.train_pairs:
            return None
        train = context.corpus("pairs", self.train_pairs)
        kept = choose(len(train), self.train_limit, "training pairs", self.seed)
        asking = context.images(corpus, items).embedding.cpu().numpy()
        best, near = np.full(len(items), -np.inf, np.float32), np.zeros(len(items), np.int64)
        for block in in_blocks(len(kept), 256):  # a training image's states are needed once: they are not kept
            some = context.pipeline.encode_images(context.shown(train, kept[block]), batch_size=context.batch_size)
            cosine = asking @ some.embedding.cpu().numpy().T
            nearer = cosine.max(1) > best
            near[nearer] = kept[block][cosine.argmax(1)[nearer]]
            best = np.maximum(best, cosine.max(1))
        return [train.text(int(i)) for i in near]

    def score(self, captions: Captions) -> list[dict]:
        """CIDEr-D, BLEU-4 and ROUGE-L of what the model wrote, and of the copied captions."""
        copied = f"caption of the nearest of {self.train_limit or 'all'} training images"
        rows = []
        for sentences, suffix, extra in (
            (captions.sentences, "", ""),
            (captions.nearest, ", copied from the nearest training image", copied),
        ):
            if sentences is None:
                continue
            scores = caption_report(sentences, captions.references, seed=self.seed)
            for name, (unit, note) in METRICS.items():
                notes = "; ".join(part for part in (note, extra) if part)
                rows.append(
                    {
                        "task": self.title,
                        "metric": name + suffix,
                        "score": scores[name],
                        "unit": unit,
                        "note": notes,
                        **({"baseline": True} if suffix else {}),
                    }
                )
        return rows

    def show(self, captions: Captions, most: int = 12) -> list[dict]:
        """The first images, what was written about them and the first references."""
        shown = [
            {
                "image": captions.corpus.image_bytes(int(item)),
                "title": sentence or "(nothing)",
                "lines": [f"reference: {text}" for text in wanted[:2]],
            }
            for item, sentence, wanted in list(zip(captions.items, captions.sentences, captions.references))[:most]
        ]
        return [{"title": f"{self.title}: beside references", "items": shown}]
