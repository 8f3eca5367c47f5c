"""Halves of a passage: how they are cut, what is compared with what, and that the text pooler hears of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_batches import sampled, small_tokenizer, tiny_batch, tiny_draft
from tiny_unimo2 import lively_model

from unimo.objectives import TextContrastive, step
from unimo.objectives.text_contrastive import HALVES, halves


def test_a_passage_is_cut_at_the_word_nearest_its_middle_and_nothing_of_it_is_lost():
    builder = tiny_draft(masked=4, fragments=3)
    builder.masked.append(sampled(1, 1))  # one word cannot be cut
    TextContrastive(weight=1.0).corrupt(builder)
    batch = builder.finish()
    texts, passages = batch.texts, [*builder.masked[:-1], *builder.fragments]
    assert [len(batch.texts_of(group)) for group in HALVES] == [len(passages)] * 2
    for i, one in enumerate(passages):
        parts = []
        for group in HALVES:
            number = batch.texts_of(group)[i]
            ids = texts.ids[texts.offsets[number] : texts.offsets[number + 1]]
            assert ids[0] == 0 and ids[-1] == 2
            parts.append(ids[1:-1].numpy())
        assert np.array_equal(np.concatenate(parts), one.ids)
        starts = np.flatnonzero(small_tokenizer().word_starts(one.ids) == 0)[1:]
        assert abs(len(parts[0]) - len(one.ids) / 2) == np.abs(starts - len(one.ids) / 2).min()
        assert len(parts[0]) in starts


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_each_half_by_itself(seed):
    """Two shards, a passage that comes twice, and one that is alone in its shard and asks nothing."""
    identity, shard = torch.tensor([1, 2, 1, 4, 5, 6]), torch.tensor([0, 0, 0, 1, 1, 2])
    features = F.normalize(torch.randn(12, 5, generator=torch.Generator().manual_seed(seed)), dim=-1)
    total, right, asked = 0.0, 0, 0
    for i in range(12):
        candidates = {(i + 6) % 12}
        candidates |= {j for j in range(12) if shard[j % 6] == shard[i % 6] and identity[j % 6] != identity[i % 6]}
        if len(candidates) == 1:
            continue
        scores = {j: float(features[i] @ features[j]) / 0.3 for j in candidates}
        total += math.log(sum(map(math.exp, scores.values()))) - scores[(i + 6) % 12]
        right += max(scores, key=scores.get) == (i + 6) % 12
        asked += 1
    found = halves(features, identity, shard, 0.3)
    assert [float(x) for x in found] == pytest.approx([total, right, asked], rel=1e-5)
    assert asked == 10


def test_the_text_pooler_has_a_gradient_and_the_image_pooler_none():
    model, objective = lively_model(), TextContrastive(weight=1.0)
    parts, _ = step(model, tiny_batch([objective], masked=3), {"text_contrastive": objective})
    parts["text_contrastive"].total.backward()
    assert model.text_pooler.linear.weight.grad.any() and model.words.word.weight.grad.any()
    assert model.image_pooler.linear.weight.grad is None


def test_it_is_off_unless_asked_for():
    assert not TextContrastive().weight
    parts, _ = step(
        lively_model(), tiny_batch([TextContrastive(weight=1.0)], pairs=2), {"a": TextContrastive(weight=1.0)}
    )
    assert not parts  # no passages
