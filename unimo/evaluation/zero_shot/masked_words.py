"""Masked words: what stood there? Read beside the image, in the caption alone, in texts without images.

Hidden as in pre-training (`unimo.data.masking.mask_spans`: spans of whole words, 15 % of the pieces),
always the same ones, so that two models, or one with and without the image, answer the same questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimo.data.masking import mask_spans
from unimo.errors import DataError
from unimo.evaluation.zero_shot.context import EvalContext, Paths, choose, references
from unimo.metrics.intervals import fraction_score, mean_score
from unimo.rng import generator

BESIDE, ALONE = "captions beside their images", "captions alone"


@dataclass(frozen=True)
class Filled:
    """What was hidden at each place (k,), what was said there, and which row the place belongs to."""

    labels: np.ndarray
    said: np.ndarray
    group: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        return self.said == self.labels


@dataclass(frozen=True)
class MaskedWords:
    """pairs: paths of images with captions, of which the first is taken. texts: paths of documents, of
    which the beginning is taken; passages: texts as they are. max_length: pieces of a row, specials included."""

    pairs: Paths = ()
    texts: Paths = ()
    passages: Sequence[str] = ()
    title: str = "Masked words"
    ratio: float = 0.15
    max_length: int = 96
    limit: int | None = 512
    seed: int = 0

    def predict(self, context: EvalContext) -> dict[str, Filled]:
        filled = {}
        if self.pairs:
            corpus = context.corpus("pairs", self.pairs)
            items = choose(len(corpus), self.limit, "pairs", self.seed)
            rows = [references(corpus, int(i), 1)[0] for i in items]
            for name, images in ((BESIDE, context.images(corpus, items)), (ALONE, None)):
                filled[name] = self._fill(context, rows, images)
        if self.texts:
            corpus = context.corpus("texts", self.texts)
            items = choose(len(corpus), self.limit, "masked texts", self.seed)
            filled["texts"] = self._fill(context, [corpus.text(int(i)) for i in items])
        if self.passages:
            filled["texts not read in training"] = self._fill(context, list(self.passages)[: self.limit])
        return filled

    def _fill(self, context: EvalContext, strings: Sequence[str], images=None) -> Filled:
        pipeline, rows, places, labels = context.pipeline, [], [], []
        for number, text in enumerate(strings):
            ids = pipeline.encoder.frame(text)
            if len(ids) > self.max_length:
                ids = np.append(ids[: self.max_length - 1], pipeline.tokenizer.sep)
            hidden_row, hidden = mask_spans(
                ids,
                pipeline.tokenizer.word_starts(ids),
                generator(self.seed, "masked words", number, text),
                ratio=self.ratio,
                vocab_size=pipeline.tokenizer.vocab_size,
                mask_id=pipeline.tokenizer.mask,
            )
            rows.append(hidden_row)
            places.append(hidden)
            labels.append(ids[hidden])
        if not any(map(len, labels)):
            raise DataError("no word to hide", where=self.title, got=f"{len(rows)} texts, all empty")
        group = np.repeat(np.arange(len(rows)), [len(hidden) for hidden in places])
        return Filled(
            np.concatenate(labels), pipeline.mask_filler.best(rows, places, images, context.batch_size), group
        )

    def score(self, filled: dict[str, Filled]) -> list[dict]:
        """Share of hidden pieces named exactly; chance is always saying the piece hidden most often."""
        rows = []
        for name, some in filled.items():
            commonest = Counter(some.labels.tolist()).most_common(1)[0][1] / len(some.labels)
            score = fraction_score(some.hits, groups=some.group, chance=commonest, seed=self.seed)
            note = f"{self.ratio:.0%} hidden in spans of whole words; chance: the piece hidden most often"
            rows.append({"task": self.title, "metric": name, "score": score, "unit": "%", "note": note})
        if BESIDE in filled:
            gain = filled[BESIDE].hits.astype(float) - filled[ALONE].hits
            score = mean_score(gain, groups=filled[BESIDE].group, chance=0.0, seed=self.seed)
            gained = {"task": self.title, "metric": "gain from the image", "score": score, "unit": "%"}
            rows.append({**gained, "note": "the first row minus the second, paired"})
        return rows

    def show(self, filled: dict[str, Filled]) -> list[dict]:
        return []
