"""Masked words: which word stood there? Read beside the image, in the caption alone, in texts without images.

Masked as in pre-training (`unimo.data.masking.mask_spans`: spans of whole words, 15 % of the pieces),
always the same ones, so that two models, or one with and without the image, predict the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimo.data.held_out import HeldOut
from unimo.data.masking import mask_spans
from unimo.errors import DataError
from unimo.evaluation.zero_shot.context import EvalContext, Paths, Row, chosen, digest, row
from unimo.metrics.intervals import fraction_score, mean_score, perplexity_score
from unimo.rng import generator

BESIDE, ALONE, TEXTS = "captions beside their images", "captions alone", "texts"


@dataclass(frozen=True)
class Filled:
    """k masked pieces: the true ones, the predicted ones, the log-probability of the true ones, and which row each
    belongs to."""

    labels: np.ndarray
    predicted: np.ndarray
    log_probability: np.ndarray
    group: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        return self.predicted == self.labels

    @property
    def perplexity(self) -> float:
        return float(np.exp(-self.log_probability.mean()))


@dataclass(frozen=True)
class MaskedWords:
    """pairs: paths of images with captions, of which the first is taken. texts: paths of documents, of
    which the beginning is taken; passages: texts as they are. held_out: only pairs that were held out of training;
    texts_held_out: likewise of the texts. max_length: pieces of a row, specials included."""

    pairs: Paths = ()
    texts: Paths = ()
    passages: Sequence[str] = ()
    title: str = "Masked words"
    held_out: HeldOut | None = None
    texts_held_out: HeldOut | None = None
    ratio: float = 0.15
    max_length: int = 96
    limit: int | None = 512
    seed: int = 0

    def predict(self, context: EvalContext) -> dict[str, Filled]:
        filled = {}
        if self.pairs:
            corpus = context.corpus("pairs", self.pairs)
            items = chosen(corpus, self.held_out, self.limit, "pairs", self.seed)
            rows = [corpus.text(int(i)) for i in items]
            for name, images in ((BESIDE, context.images(corpus, items)), (ALONE, None)):
                filled[name] = self._fill(context, rows, images)
        if self.texts:
            corpus = context.corpus("texts", self.texts)
            items = chosen(corpus, self.texts_held_out, self.limit, "masked texts", self.seed)
            filled[TEXTS] = self._fill(context, [corpus.text(int(i)) for i in items])
        if self.passages:
            filled["texts not read in training"] = self._fill(context, list(self.passages)[: self.limit])
        return filled

    def _fill(self, context: EvalContext, strings: Sequence[str], images=None) -> Filled:
        pipeline, rows, places, labels = context.pipeline, [], [], []
        for number, text in enumerate(strings):
            ids = pipeline.encoder.frame(text)
            if len(ids) > self.max_length:
                ids = np.append(ids[: self.max_length - 1], pipeline.tokenizer.sep)
            masked_row, masked = mask_spans(
                ids,
                pipeline.tokenizer.word_starts(ids),
                generator(self.seed, "masked words", number, text),
                ratio=self.ratio,
                vocab_size=pipeline.tokenizer.vocab_size,
                mask_id=pipeline.tokenizer.mask,
            )
            rows.append(masked_row)
            places.append(masked)
            labels.append(ids[masked])
        if not any(map(len, labels)):
            raise DataError("no word to mask", where=self.title, got=f"{len(rows)} texts, all empty")
        group, true = np.repeat(np.arange(len(rows)), [len(masked) for masked in places]), np.concatenate(labels)
        best, logs = pipeline.mask_filler.best(rows, places, true, images, context.batch_size)
        return Filled(true, best, logs, group)

    def score(self, filled: dict[str, Filled]) -> list[Row]:
        """Fraction of masked pieces named exactly, where chance always says the commonest; perplexity, where chance
        knows how often each piece was masked."""
        rows = []
        note = f"{self.ratio:.0%} masked in spans of whole words"
        for name, some in filled.items():
            frequency = np.array(list(Counter(some.labels.tolist()).values())) / len(some.labels)
            hits = fraction_score(some.hits, groups=some.group, chance=float(frequency.max()), seed=self.seed)
            unigram = float(np.exp(-(frequency * np.log(frequency)).sum()))
            perplexity = perplexity_score(some.log_probability, groups=some.group, chance=unigram, seed=self.seed)
            items = digest(some.labels, some.group)
            rows.append(row(self.title, name, hits, "%", f"{note}; chance: the commonest piece", items))
            compared = f"{note}; chance: their frequencies alone"
            rows.append(row(self.title, f"perplexity, {name}", perplexity, "", compared, items))
        if BESIDE in filled:
            gain = filled[BESIDE].hits.astype(float) - filled[ALONE].hits
            score = mean_score(gain, groups=filled[BESIDE].group, chance=0.0, seed=self.seed)
            note = "with the image minus without, paired"
            rows.append(row(self.title, "gain from the image", score, "%", note, digest(filled[BESIDE].labels)))
        return rows

    def show(self, filled: dict[str, Filled]) -> list[dict]:
        return []
