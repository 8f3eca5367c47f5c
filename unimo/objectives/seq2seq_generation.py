"""Sequence-to-sequence generation: captions from images, and fragments of a passage from the rest of it.

Asked: every next token of what is written. The image, or the source, is known and sees itself both ways; what is
written sees the known and what was written before (masks: spec unimo2 §2.5; fragments: spec unimo §2.2.2). Grounded
entries are chosen by what is known alone, or the answer would leak through the dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unimo.batch import KNOWN, WRITTEN, Batch
from unimo.config import setting
from unimo.data.batch_builder import BatchBuilder
from unimo.data.masking import cut_fragments
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.objectives.objective import MEMBERS, Part, predict_words


@dataclass(frozen=True)
class Seq2SeqGeneration:
    members = MEMBERS
    trains = ("fused", "language_model")
    parts = ("seq2seq.pairs", "seq2seq.pairs.accuracy", "seq2seq.texts", "seq2seq.texts.accuracy")
    weight: float = setting(1.0, "weight of written words; 0 switches the objective off", at_least=0, at_most=1e6)
    text_weight: float = setting(
        1.0, "weight of fragments of texts, as a fraction of `weight`, which captions have", at_least=0, at_most=1e6
    )
    pairs: int = setting(32, "pairs per step whose caption is written from its image", at_least=0)
    smoothing: float = setting(0.0, "label smoothing, uniform over the vocabulary", at_least=0, below=1)
    fragments: Literal["paper", "lineage", "released"] = setting(
        "lineage", "how passages are cut: lineage (released code) or paper (25 %, 4 to 32 tokens)"
    )

    def corrupt(self, builder: BatchBuilder) -> None:
        chosen = builder.last_pairs(self.pairs)
        builder.extra["seq2seq.pairs"] = chosen
        for i in chosen:
            ids = builder.framed(builder.pairs[i].ids)
            text = builder.add_text("pairs.written", ids, role=WRITTEN)
            builder.add_targets("seq2seq.pairs", "pairs.written", text, np.arange(len(ids) - 1), ids[1:])
        for sampled in builder.fragments:
            cut = cut_fragments(builder.framed(sampled.ids), sampled.rng("fragments"), variant=self.fragments)
            source = len(cut.source_ids)
            text = builder.add_text(
                "texts.written",
                np.concatenate([cut.source_ids, cut.target_ids]),
                role=np.repeat([KNOWN, WRITTEN], [source, len(cut.target_ids)]),
                positions=np.concatenate([cut.source_positions, cut.target_positions]),
            )
            places = np.asarray(cut.supervised)
            builder.add_targets("seq2seq.texts", "texts.written", text, source + places, cut.target_ids[places + 1])

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        requests = {}
        if "pairs.written" in batch.text_groups:
            requests["seq2seq.pairs"] = Request(batch.host.extra["seq2seq.pairs"], batch.texts_of("pairs.written"))
        if "texts.written" in batch.text_groups:
            requests["seq2seq.texts"] = Request(None, batch.texts_of("texts.written"))
        return requests

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        parts: dict[str, Part] = {}
        for name, weight in (("seq2seq.pairs", self.weight), ("seq2seq.texts", self.weight * self.text_weight)):
            if name in batch.targets:
                parts |= predict_words(model, fused[name], batch.targets[name], batch, name, weight, self.smoothing)
        return parts
