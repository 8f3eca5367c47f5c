"""Masked language modelling on captions beside their picture and on passages of text (spec unimo2 §4.2).

Hidden: spans of whole words, 15 % of a text; asked: every hidden token, from the fused sequence [ V | G | L ] of a
pair or [ G | L ] of a passage. The choice of grounded entries sees the text as masked, so the answer votes for nothing.

Of a share of the captions all relations of the scene graph are hidden instead (`relations`; as in ERNIE-ViL, Yu et al.
2021, not in the papers), and of these only the words by which they differ from what a rewrite puts in their place:
"left" of "left of". Which of two things is left of the other is learnt from that word within minutes; from the contrast
with the same caption turned round, or with all of "left of" hidden, not at all; and beside other objectives slowly, so
that for a part of a run it may be all that is asked (`alone_from`, `alone_until`; docs/lab-notebook.md, 2026-11-22).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimo.batch import Batch
from unimo.config import setting
from unimo.data.corruption import hide, mask_spans
from unimo.data.pack import Draft, Drawn
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.objectives.objective import Part, predict_words


@dataclass(frozen=True)
class MaskedLanguageModeling:
    parts = ("mlm.pairs", "mlm.pairs.accuracy", "mlm.texts", "mlm.texts.accuracy")
    weight: float = setting(1.0, "weight of masked words; 0 switches the objective off")
    text_weight: float = setting(1.0, "weight of texts without pictures, as a share of `weight`, which captions have")
    pairs: int = setting(32, "pairs per step whose caption is masked beside its picture")
    ratio: float = setting(0.15, "share of a text's tokens that is asked (specials counted in its length)")
    geometric: float = setting(0.2, "p of the geometric span length in words")
    longest: int = setting(10, "longest span in words")
    relations: float = setting(
        0.0, "share of rewritten captions beside their picture in which relations are hidden, in place of random spans"
    )
    alone_from: float = setting(0.0, "share of the run's steps after which hidden relations are all that is asked ...")
    alone_until: float = setting(0.0, "... and up to which, of every pair of a step")

    def alone(self, progress: float) -> bool:
        return self.alone_from <= progress < self.alone_until

    def corrupt(self, draft: Draft) -> None:
        alone = self.alone(draft.progress)
        chosen = list(range(len(draft.pairs))) if alone else draft.first_pairs(self.pairs)
        draft.extra["mlm.pairs"] = chosen
        for i in chosen:
            self._mask(draft, draft.pairs[i], "pairs.masked", "mlm.pairs", 1.0 if alone else self.relations)
        for drawn in draft.masked:
            self._mask(draft, drawn, "texts.masked", "mlm.texts")

    def _mask(self, draft: Draft, drawn: Drawn, group: str, asked: str, relations: float = 0.0) -> None:
        ids, tokenizer = draft.framed(drawn.ids), draft.tokenizer
        rng, vocab_size, mask_id = drawn.rng("mlm"), tokenizer.vocab_size, tokenizer.mask
        places = _relations(drawn, relations)
        if len(places):
            masked = hide(ids, places, rng, vocab_size=vocab_size, mask_id=mask_id)
        else:
            masked, places = mask_spans(
                ids,
                tokenizer.word_starts(ids),
                rng,
                ratio=self.ratio,
                p=self.geometric,
                longest=self.longest,
                vocab_size=vocab_size,
                mask_id=mask_id,
            )
        draft.ask(asked, group, draft.add_text(group, masked), places, ids[places])

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        asked = {}
        if "pairs.masked" in batch.text_groups:
            asked["mlm.pairs"] = Request(batch.extra["mlm.pairs"], batch.texts_of("pairs.masked"))
        if "texts.masked" in batch.text_groups:
            asked["mlm.texts"] = Request(None, batch.texts_of("texts.masked"))
        return asked

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        parts: dict[str, Part] = {}
        for name, weight in (("mlm.pairs", self.weight), ("mlm.texts", self.weight * self.text_weight)):
            if name in batch.targets:
                parts |= predict_words(model, fused[name], batch.targets[name], batch, name, weight)
        return parts


def _relations(drawn: Drawn, share: float) -> np.ndarray:
    """Places of the relations of a framed caption, if it is among the share of captions whose turn it is; else none."""
    if drawn.beside is None or drawn.rng("mlm relations").random() >= share:
        return np.zeros(0, np.int64)
    return 1 + drawn.beside.relations()  # behind [CLS]
