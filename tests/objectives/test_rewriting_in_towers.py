"""Contrast with rewriting where nothing is encoded together: UNIMO-2's towers, and UNIMO one side at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from objectives.test_rewriting_contrastive import SideInputs, batch, tiny
from tiny_batches import random_images, tiny_draft
from tiny_unimo2 import lively_model, pack

from unimo.batch import Batch
from unimo.config import check_settings
from unimo.errors import UsageError
from unimo.objectives import step
from unimo.objectives.rewriting_contrastive import RewritingContrastive

SETTINGS = {"pairs": 3, "negatives": 4, "others": 1, "scorer": "cosine", "temperature": 0.2}


class Seen(SideInputs):
    """As `SideInputs`, with an image in pixels."""

    def related_images(self, count, rng):
        return random_images(1, seed=100 + self.i)[:count]


def shown(**options) -> Batch:
    builder = tiny_draft(pairs=4)
    for i, pair in enumerate(builder.pairs):
        object.__setattr__(pair, "side_inputs", Seen(i))
    RewritingContrastive(**options).corrupt(builder)
    return builder.finish()


def by_definition(made: Batch, see, read, related: str, temperature: float) -> tuple[float, float]:
    """(sum over anchors of the loss with rewriting, mean of the loss of what stands alone), from single vectors.

    see, read: number of an image, or of a text, of the batch -> its vector.
    """
    extra = made.extra
    n = len(extra["rewriting.pairs"])

    def e(image: int, text: int) -> float:
        return math.exp(F.cosine_similarity(see(image), read(text), dim=0).item() / temperature)

    texts, first_related = made.texts_of("pairs.rewritten").tolist(), made.images_of("pairs.related").tolist()
    sentences = made.texts_of("texts.related").tolist()
    own = [made.images_of("pairs").tolist()[i] for i in extra["rewriting.pairs"].tolist()]
    owners = extra["rewriting.anchor"].tolist()
    captions = [texts[owners.index(a)] for a in range(n)]
    assert len(first_related) == len(sentences) == n  # one of each for every anchor, in order
    total = 0.0
    for a in range(n):
        mine = [(e(own[a], t), bool(r)) for t, r, o in zip(texts, extra["rewriting.right"], owners) if o == a]
        if related == "inside":
            mine += [(e(first_related[a], captions[a]), True), (e(own[a], sentences[a]), True)]
        total -= math.log(sum(x for x, good in mine if good) / sum(x for x, _ in mine))
    rows, columns = [*own, *first_related], [*captions, *sentences]
    shares = []
    for lines, across, value in ((rows, columns, e), (columns, rows, lambda t, v: e(v, t))):
        for i, line in enumerate(lines):
            compared = [
                (value(line, other), i % n == j % n)
                for j, other in enumerate(across)
                if i < n or j < n or i % n != j % n  # a related image says nothing of the related sentence
            ]
            shares.append(-math.log(sum(x for x, good in compared if good) / sum(x for x, _ in compared)))
    return total, float(np.mean(shares))


@torch.no_grad()
@pytest.mark.parametrize("related", ["apart", "inside"])
@pytest.mark.parametrize("options", [{}, {"contrastive_projection": True}, {"dictionary": 0}])
def test_cosines_of_unimo2_are_those_of_its_towers_and_nothing_is_fused(related, options):
    model = lively_model(**options)
    model.fuse = None  # it would be called, not looked at
    made, asked = shown(**SETTINGS, related=related), RewritingContrastive(**SETTINGS, related=related)
    parts, fused = step(model, made, {"rewriting": asked})
    requests = {name: one.request for name, one in fused.items()}
    assert requests == {}

    def see(i: int):
        return model.contrastive_feature(model.encode_images(made.pixels[i : i + 1])[:, 0], "image")[0]

    def read(t: int):
        ids = made.texts.ids[made.texts.offsets[t] : made.texts.offsets[t + 1]]
        return model.contrastive_feature(model.encode_texts(pack([ids]))[:1], "text")[0]

    total, alone = by_definition(made, see, read, related, 0.2)
    assert float(parts["rewriting"].total) == pytest.approx(total, rel=1e-4)
    assert ("rewriting.alone" in parts) == (related == "apart")
    if related == "apart":
        assert float(parts["rewriting.alone"].total) / 3 == pytest.approx(alone, rel=1e-4)


def test_both_towers_and_the_temperature_learn_and_the_grounded_transformer_does_not():
    model, options = lively_model(), {**SETTINGS, "temperature": None}
    parts, _ = step(model, shown(**options), {"rewriting": RewritingContrastive(**options)})
    sum(part.total for part in parts.values() if part.weight).backward()
    grown = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    for part in ("patches.", "image_encoder.", "words.", "text_encoder.", "contrastive_temperature."):
        assert any(name.startswith(part) for name in grown), part
    assert not any(name.startswith(("grounded_encoder.", "matching.", "image_pooler.")) for name in grown)


@torch.no_grad()
def test_the_learned_temperature_divides():
    model = lively_model()
    losses = []
    for value in (0.2, None):
        options = {**SETTINGS, "temperature": value}
        model.contrastive_temperature.value.fill_(0.2)
        losses.append(step(model, shown(**options), {"rewriting": RewritingContrastive(**options)})[0])
    assert losses[0]["rewriting"].total == pytest.approx(losses[1]["rewriting"].total.item(), rel=1e-6)
    with pytest.raises(UsageError, match="no temperature"):
        check_settings(RewritingContrastive(temperature=None))
    options = {**SETTINGS, "temperature": None}
    with pytest.raises(UsageError, match="only UNIMO-2 has a learned temperature"):
        step(tiny(), batch(**options), {"rewriting": RewritingContrastive(**options)})


@torch.no_grad()
def test_the_joint_scorer_still_fuses():
    options = {**SETTINGS, "scorer": "joint"}
    parts, fused = step(lively_model(), shown(**options), {"rewriting": RewritingContrastive(**options)})
    requests = {name: one.request for name, one in fused.items()}
    assert len(requests["rewriting.together"]) == len(shown(**options).extra["rewriting.anchor"])
    assert len(requests["rewriting.images"]) == 6 and math.isfinite(parts["rewriting"].total)


@torch.no_grad()
@pytest.mark.parametrize("related", ["apart", "inside"])
@pytest.mark.parametrize("fusion", ["joint", "prefix"])
def test_alone_each_image_and_text_of_unimo_is_encoded_once(fusion, related):
    """Then scores are the cosines that a search computes (`Unified.embed`)."""
    options = {**SETTINGS, "encode": "alone", "related": related}
    model, made = tiny(fusion=fusion).eval(), batch(**options)
    parts, fused = step(model, made, {"rewriting": RewritingContrastive(**options)})
    requests = {name: one.request for name, one in fused.items()}
    assert set(requests) == {"rewriting.images", "rewriting.sentences"}
    for request in requests.values():
        numbers = request.image if request.text is None else request.text
        assert len(numbers.unique()) == len(numbers)
    assert len(requests["rewriting.images"]) == 3 + 3
    assert len(requests["rewriting.sentences"]) == len(made.extra["rewriting.anchor"]) + 3
    towers = model.towers(made)
    image, text = model.embed(towers, "image"), model.embed(towers, "text")
    total, alone = by_definition(made, image.__getitem__, text.__getitem__, related, 0.2)
    assert float(parts["rewriting"].total) == pytest.approx(total, rel=1e-4)
    if related == "apart":
        assert float(parts["rewriting.alone"].total) / 3 == pytest.approx(alone, rel=1e-4)


@torch.no_grad()
def test_alone_without_anything_related():
    """A second sum that is switched off asks for nothing more; the first one is the same."""
    options = {**SETTINGS, "encode": "alone"}
    model, bare = tiny().eval(), batch(rewritten=False, **options)
    totals = []
    for weight in (1.0, 0.0):
        asked = RewritingContrastive(**options, alone_weight=weight)
        parts, fused = step(model, bare, {"rewriting": asked})
        requests = {name: one.request for name, one in fused.items()}
        assert ("rewriting.alone" in parts) == bool(weight) and len(requests["rewriting.images"]) == 3
        totals.append(float(parts["rewriting"].total))
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)
