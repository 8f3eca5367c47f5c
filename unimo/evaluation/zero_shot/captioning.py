"""Captioning: one greedy sentence per image, scored against what people (or the world's grammar) wrote."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.data.held_out import HeldOut
from unimo.evaluation.zero_shot.context import (
    EvalContext,
    Paths,
    Row,
    choose,
    chosen,
    digest,
    in_blocks,
    row,
)
from unimo.metrics.captions import caption_report
from unimo.nearest import nearest

METRICS = {"CIDEr-D": ("", "0 to 10; published x 100"), "BLEU-4": ("%", ""), "ROUGE-L": ("%", "")}
COPIED = ", copied from the nearest training image"


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
    the training image with the nearest embedding, among `train_limit` of them; images that were held out are none.
    max_length: pieces written."""

    pairs: Paths
    train_pairs: Paths = ()
    title: str = "Captions, greedy"
    held_out: HeldOut | None = None
    limit: int | None = 256
    train_limit: int | None = 2000
    max_length: int = 50
    seed: int = 0

    def predict(self, context: EvalContext) -> Captions:
        corpus = context.corpus("pairs", self.pairs)
        items = chosen(corpus, self.held_out, self.limit, "pairs", self.seed)
        sentences = context.captions(corpus, items, self.max_length)
        wanted = [corpus.captions(int(i)) for i in items]
        return Captions(corpus, items, sentences, wanted, self._nearest(context, corpus, items))

    def _nearest(self, context: EvalContext, corpus: Corpus, items: np.ndarray) -> list[str] | None:
        if not self.train_pairs:
            return None
        train = context.corpus("pairs", self.train_pairs)
        trained = np.flatnonzero(~train.validation)
        trained = np.setdiff1d(trained, self.held_out.items(train) if self.held_out else ())
        kept = trained[choose(len(trained), self.train_limit, "training pairs", self.seed)]
        queries = context.images(corpus, items).embedding.cpu().numpy()

        def embedded(some: np.ndarray) -> np.ndarray:  # states of a training image are needed once: they are not kept
            shown = context.shown(train, some)
            return context.pipeline.encode_images(shown, batch_size=context.batch_size).embedding.cpu().numpy()

        blocks = (embedded(kept[block]) for block in in_blocks(len(kept), 256))
        return [train.text(int(kept[found[0]])) for found, _ in nearest(queries, blocks, 1)]

    def score(self, captions: Captions) -> list[Row]:
        """CIDEr-D, BLEU-4 and ROUGE-L of what the model wrote, and of the copied captions."""
        items = digest([captions.corpus.keys[int(i)] for i in captions.items], *captions.references)
        copied = f"caption of the nearest of {self.train_limit or 'all'} training images"
        rows = []
        for sentences, suffix, extra, more in (
            (captions.sentences, "", "", {}),
            (captions.nearest, COPIED, copied, {"baseline": True}),
        ):
            scores = caption_report(sentences, captions.references, seed=self.seed) if sentences is not None else {}
            for name in METRICS if scores else ():
                unit, note = METRICS[name]
                notes = "; ".join(part for part in (note, extra) if part)
                rows.append(row(self.title, name + suffix, scores[name], unit, notes, items, **more))
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
