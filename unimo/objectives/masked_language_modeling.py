"""Masked language modelling on captions beside their image and on passages of text (spec unimo2 §4.2).

Hidden: spans of whole words, 15 % of a text; predicted: every hidden token, from the fused sequence [ V | G | L ] of a
pair or [ G | L ] of a passage. The choice of grounded entries sees the text as masked, so the answer votes for nothing.

Where captions were rewritten their scene graph is known, and its nodes are hidden in place of random spans (`nodes`; as
in ERNIE-ViL, Yu et al. 2021; the paper does not tell, its published configuration has `scenegraph_mask_ratio`, spec
unimo §1.2): "a [MASK] ring" can only be answered by finding the ring in the image, which is what a model has to learn
first and what half a caption hidden at once seldom asks. In a fraction of them all relations are hidden (`relations`).
Hidden of a node are only the words by which it differs from what a rewrite puts in its place: "left" of "left of".

Beside other objectives all this is learnt slowly, so for the first part of a run it may be the only objective
(`alone_until`), the last of it of relations alone (`relations_from`): where a thing is has to be known before which of
two is left of the other (docs/lab-notebook.md, 2026-11-22 and 2026-11-29).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unimo.batch import Batch
from unimo.config import Contradiction, setting
from unimo.data.batch_builder import BatchBuilder, SampledExample
from unimo.data.masking import hide, mask_spans
from unimo.data.sample import NO_NODES, NODE_KINDS, Nodes
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.objectives.objective import MEMBERS, Part, predict_words


@dataclass(frozen=True)
class MaskedLanguageModeling:
    members = MEMBERS
    trains = ("fused", "language_model")
    parts = ("mlm.pairs", "mlm.pairs.accuracy", "mlm.texts", "mlm.texts.accuracy")
    weight: float = setting(1.0, "weight of masked words; 0 switches the objective off", at_least=0, at_most=1e6)
    text_weight: float = setting(
        1.0, "weight of texts without images, as a fraction of `weight`, which captions have", at_least=0, at_most=1e6
    )
    pairs: int = setting(32, "pairs per step whose caption is masked beside its image", at_least=0)
    ratio: float = setting(
        0.15, "fraction of a text's tokens that is masked (specials counted in its length)", above=0, at_most=1
    )
    geometric: float = setting(0.2, "p of the geometric span length in words", above=0, at_most=1)
    max_length: int = setting(10, "longest span in words", at_least=1)
    nodes: float = setting(
        0.0,
        "fraction of rewritten captions beside their image in which nodes of the scene graph are hidden, not spans",
        at_least=0,
        at_most=1,
    )
    node_ratio: float = setting(
        0.3, "fraction of a caption's nodes that is hidden there, at least one", at_least=0, at_most=1
    )
    relations: float = setting(
        0.0, "fraction of rewritten captions in which all relations are hidden instead", at_least=0, at_most=1
    )
    alone_until: float = setting(
        0.0,
        "fraction of the run's steps up to which hidden nodes and relations are all that is predicted, of every pair",
        at_least=0,
        at_most=1,
    )
    relations_from: float = setting(
        1.0, "fraction of the run's steps from which, up to `alone_until`, it is relations", at_least=0, at_most=1
    )

    def contradictions(self) -> Iterator[Contradiction]:
        if self.nodes + self.relations > 1:
            yield Contradiction(
                "more captions than there are",
                ("nodes", "relations"),
                got=f"{self.nodes} and {self.relations}",
                expected="two shares of the captions, at most 1 together",
            )

    def alone(self, progress: float) -> bool:
        """Whether all other objectives are silent (`unimo.data.loader.AsksAlone`)."""
        return progress < self.alone_until

    def shares(self, progress: float) -> tuple[float, float]:
        """Of the captions whose scene graph is known: in which share relations are hidden, in which any nodes."""
        if not self.alone(progress):
            return self.relations, self.nodes
        relations = 1.0 if progress >= self.relations_from else self.relations
        return relations, 1.0 - relations

    def corrupt(self, builder: BatchBuilder) -> None:
        alone = self.alone(builder.progress)
        chosen = list(range(len(builder.pairs))) if alone else builder.first_pairs(self.pairs)
        builder.extra["mlm.pairs"] = chosen
        for i in chosen:
            nodes = self._hidden_nodes(builder.pairs[i], *self.shares(builder.progress))
            self._mask(builder, builder.pairs[i], "pairs.masked", "mlm.pairs", nodes)
        for sampled in builder.masked:
            self._mask(builder, sampled, "texts.masked", "mlm.texts", NO_NODES)

    def _mask(self, builder: BatchBuilder, sampled: SampledExample, group: str, target: str, nodes: Nodes) -> None:
        """Hides `nodes`; random spans where there are none."""
        ids, tokenizer = builder.framed(sampled.ids), builder.tokenizer
        rng, vocab_size, mask_id = sampled.rng("mlm"), tokenizer.vocab_size, tokenizer.mask
        if len(nodes.places):
            places = 1 + nodes.places  # behind [CLS]
            masked = hide(ids, places, rng, vocab_size=vocab_size, mask_id=mask_id, instead=nodes.instead)
        else:
            masked, places = mask_spans(
                ids,
                tokenizer.word_starts(ids),
                rng,
                ratio=self.ratio,
                p=self.geometric,
                max_length=self.max_length,
                vocab_size=vocab_size,
                mask_id=mask_id,
            )
        builder.add_targets(target, group, builder.add_text(group, masked), places, ids[places])

    def _hidden_nodes(self, sampled: SampledExample, relations: float, nodes: float) -> Nodes:
        """All relations of a caption, or some nodes, if it is among the share whose turn it is; else none.

        relations, nodes: see `shares`. A caption that tells no relation has nodes hidden instead.
        """
        if sampled.side_inputs is None:
            return NO_NODES
        rng = sampled.rng("mlm nodes")
        draw = rng.random()
        if draw >= relations + nodes:
            return NO_NODES
        known = sampled.side_inputs.nodes()
        relational = known.at(known.kinds == NODE_KINDS.index("relation"))
        if draw < relations and len(relational.places):
            return relational
        numbers = np.unique(known.numbers)
        hidden = rng.random(len(numbers)) < self.node_ratio
        if len(numbers):
            hidden[rng.integers(len(numbers))] = True
        return known.at(np.isin(known.numbers, numbers[hidden]))

    def requests(self, model: Unified, batch: Batch, towers: Towers) -> dict[str, Request]:
        requests = {}
        if "pairs.masked" in batch.text_groups:
            requests["mlm.pairs"] = Request(batch.host.extra["mlm.pairs"], batch.texts_of("pairs.masked"))
        if "texts.masked" in batch.text_groups:
            requests["mlm.texts"] = Request(None, batch.texts_of("texts.masked"))
        return requests

    def loss(self, model: Unified, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]:
        parts: dict[str, Part] = {}
        for name, weight in (("mlm.pairs", self.weight), ("mlm.texts", self.weight * self.text_weight)):
            if name in batch.targets:
                parts |= predict_words(model, fused[name], batch.targets[name], batch, name, weight)
        return parts
