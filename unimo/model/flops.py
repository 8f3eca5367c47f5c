"""How much arithmetic a sample costs, counted from the shapes alone (multiply and add are two operations).

Per layer and token 8 D^2 for attention's projections, 4 D F for the feed-forward part, and 4 D per key it looks at; the
last fused layer's output projection (2 D^2 of the 8) and feed-forward part only for the tokens that are read.
Useful tokens only: padding and recomputation are no work. Training is three times the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimo.batch import Batch
from unimo.model.unified import Request, Unified
from unimo.model.unimo import UNIMO
from unimo.model.unimo2 import UNIMO2

REGIONS = 36  # of an image, where nobody says how many


@dataclass(frozen=True)
class Shapes:
    """The numbers that decide: width D, feed-forward F, depths, image rows, chosen K, dictionary C, vocabulary V
    (of the words that may be predicted)."""

    width: int
    ffn: int
    image_depth: int
    text_depth: int
    fused_depth: int
    image_rows: int
    image_inputs: int
    chosen: int
    dictionary: int
    vocabulary: int

    @classmethod
    def of(cls, model: Unified) -> Shapes:
        words = model.words.word.num_embeddings if model.vocabulary_subset is None else len(model.vocabulary_subset)
        shared = {"width": model.width, "ffn": model.fuser.ffn, "vocabulary": words}
        if isinstance(model, UNIMO):
            inputs = model.regions.feature.in_features + model.regions.box.in_features
            return cls(
                **shared, image_depth=0, text_depth=0, fused_depth=len(model.encoder.layers), image_rows=1 + REGIONS,
                image_inputs=inputs, chosen=0, dictionary=0,
            )  # fmt: skip
        assert isinstance(model, UNIMO2)
        return cls(
            **shared,
            image_depth=len(model.image_encoder.layers),
            text_depth=len(model.text_encoder.layers),
            fused_depth=len(model.grounded_encoder.layers),
            image_rows=1 + (model.pixels // model.patches.patch) ** 2,
            image_inputs=model.patches.projection.weight[0].numel(),
            chosen=model.dictionary.chosen if model.dictionary is not None else 0,
            dictionary=len(model.dictionary.entries) if model.dictionary is not None else 0,
        )

    def layers(self, depth: int, tokens: float, keys: float | None = None) -> float:
        """`depth` layers over `tokens` tokens that each look at `keys` keys (default: at all of them)."""
        d, f = self.width, self.ffn
        return depth * tokens * (8 * d * d + 4 * d * f + 4 * d * (tokens if keys is None else keys))

    def after_attention(self) -> float:
        """What a layer does to one token once attention has seen all: the output projection and the feed-forward."""
        return 2 * self.width**2 + 4 * self.width * self.ffn

    def image_tower(self) -> float:
        embed = 2 * (self.image_rows - 1) * self.image_inputs * self.width
        return embed + self.layers(self.image_depth, self.image_rows) + self.votes(self.image_rows - 1)

    def text_tower(self, tokens: float) -> float:
        return self.layers(self.text_depth, tokens) + self.votes(tokens)

    def fused(self, image: bool, text: float, read: float) -> float:
        """One fused sequence of which `read` tokens are read from the last layer."""
        tokens = self.image_rows * image + self.chosen + text
        return self.layers(self.fused_depth, tokens) - (tokens - read) * self.after_attention()

    def votes(self, tokens: float) -> float:
        return 2 * tokens * self.dictionary * self.width

    def words(self, predicted: float) -> float:
        return predicted * (2 * self.width**2 + 2 * self.width * self.vocabulary)


def sample_costs(model: Unified, caption: int = 20, passage: int = 128) -> dict[str, float]:
    """Forward operations of one image, one text and one pair, with both [CLS] read and 15 % of the words asked."""
    s = Shapes.of(model)
    in_passage, in_caption = 0.15 * passage, 0.15 * caption
    return {
        "image": s.image_tower() + s.fused(True, 0, 1),
        f"text of {passage} tokens": s.text_tower(passage)
        + s.fused(False, passage, 1 + in_passage)
        + s.words(in_passage),
        f"pair with {caption} tokens": s.image_tower()
        + s.text_tower(caption)
        + s.fused(True, caption, 2 + in_caption)
        + s.words(in_caption),
        "pair, towers only": s.image_tower() + s.text_tower(caption),
    }


def batch_cost(model: Unified, batch: Batch, requests: dict[str, Request], read: int | None = None) -> float:
    """Forward operations of one step: every tower pass, fused sequence and asked word of this batch.

    read: fused rows for which the last layer was worked out (`States.read`); None: all.
    """
    s = Shapes.of(model)
    lengths = batch.texts.host.lengths.tolist()
    if batch.regions is None:
        rows = [s.image_rows] * len(batch.pixels)
        total = len(rows) * s.image_tower()
    else:
        rows = batch.regions.host.lengths.tolist()
        total = 2.0 * sum(rows) * s.image_inputs * s.width
    total += sum(s.text_tower(length) for length in lengths)
    fused = 0
    for request in requests.values():
        texts = [0] * len(request) if request.text is None else [lengths[t] for t in request.text.tolist()]
        images = [-1] * len(request) if request.image is None else request.image.tolist()
        before = -1
        for image, text in zip(images, texts):
            seen = rows[image] if image >= 0 else 0
            kept = request.share and image == before  # this image stands there already: only looked at
            tokens = (0 if kept else seen) + s.chosen + text
            total += s.layers(s.fused_depth, tokens, seen + s.chosen + text)
            fused += tokens
            before = image
    if read is not None:
        total -= (fused - read) * s.after_attention()
    return total + s.words(sum(len(target.rows) for target in batch.targets.values()))
