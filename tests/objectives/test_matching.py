"""Matching draws its negatives from the same shard, by similarity, and never calls a copy wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_batches import tiny_batch, tiny_draft
from tiny_unimo2 import lively_model

from unimo.objectives import ImageTextMatching, step
from unimo.objectives.objective import pair_features


def drawn_negatives(objective: ImageTextMatching, rounds: int, **what) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Other captions and images of every matched pair, (rounds, k), and whether there are any, (k,)."""
    model, batch = lively_model(), tiny_batch([objective], **what)
    towers = model.towers(batch)
    noise = batch.extra["itm.noise"]
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(rounds):
        uniform = torch.rand(noise.shape, generator=generator, dtype=torch.float64).clamp_min(1e-12)
        batch.extra["itm.noise"] = (-(-uniform.log()).log()).float()
        other_text, other_image, valid = objective.negatives(model, batch, towers)
        found.append((other_text.numpy(), other_image.numpy()))
    return *(np.stack(side) for side in zip(*found)), valid.numpy()


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("micro_batches", [1, 2, 3])
def test_never_itself_never_a_copy_and_from_the_same_shard(micro_batches, hard):
    copies = {"same_image": {2: 0, 11: 6}, "same_words": {1: 0, 9: 8}}
    texts, images, valid = drawn_negatives(
        ImageTextMatching(pairs=12, hard=hard), 200, pairs=12, micro_batches=micro_batches, **copies
    )
    batch = tiny_batch([ImageTextMatching(pairs=12)], pairs=12, micro_batches=micro_batches, **copies)
    image, words = batch.extra["pairs.image"].numpy(), batch.extra["pairs.caption"].numpy()
    size = 12 // micro_batches
    assert valid.all()
    for other in (texts, images):
        for i in range(12):
            seen = set(other[:, i].tolist())
            allowed = {j for j in range(12) if j // size == i // size and image[j] != image[i] and words[j] != words[i]}
            assert seen <= allowed
            assert hard or seen == allowed  # uniformly drawn, 200 rounds show every one


def test_draws_follow_the_softmax_of_similarity():
    rounds = 4000
    objective = ImageTextMatching(pairs=6)
    texts, images, _ = drawn_negatives(objective, rounds, pairs=6, same_image={3: 1})
    model, batch = lively_model(), tiny_batch([objective], pairs=6, same_image={3: 1})
    with torch.no_grad():
        similarity = torch.einsum("id,jd->ij", *pair_features(model, batch, model.towers(batch))) / 0.07
    left_out = torch.eye(6, dtype=torch.bool)
    left_out[1, 3] = left_out[3, 1] = True
    for sampled, scores in ((texts, similarity), (images, similarity.T)):
        expected = scores.masked_fill(left_out, float("-inf")).softmax(-1)
        for i in range(6):
            share = torch.from_numpy(np.bincount(sampled[:, i], minlength=6) / rounds).float()
            deviation = 4.5 * (expected[i] * (1 - expected[i]) / rounds).sqrt() + 1e-3
            assert ((share - expected[i]).abs() <= deviation).all()
    assert expected.max() > 2 / 6  # far from uniform, or this would show little


def test_uniform_draws_ignore_similarity():
    texts, _, _ = drawn_negatives(ImageTextMatching(pairs=5, hard=False), 2000, pairs=5)
    for i in range(5):
        share = np.bincount(texts[:, i], minlength=5) / 2000
        np.testing.assert_allclose(share, np.where(np.arange(5) == i, 0, 0.25), atol=0.05)


def test_a_samples_luck_is_its_own():
    """Gumbel noise by name: the same pair in the same epoch draws the same, whatever else is in the step."""
    one = tiny_batch([ImageTextMatching(pairs=4)], pairs=4).extra["itm.noise"]
    again = tiny_batch([ImageTextMatching(pairs=4)], pairs=4, masked=3, images=2).extra["itm.noise"]
    assert one.shape == (1, 4, 2, 4) and torch.equal(one, again)
    large = tiny_batch([ImageTextMatching(pairs=300)], pairs=300).extra["itm.noise"].flatten().double()
    assert large.mean().item() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert large.var().item() == pytest.approx(np.pi**2 / 6, rel=0.02)


@pytest.mark.parametrize(
    "what, matched, negatives",
    [
        ({"pairs": 1}, 1, 0),
        ({"pairs": 3, "same_image": {1: 0, 2: 0}}, 3, 0),
        ({"pairs": 3, "same_words": {1: 0, 2: 0}}, 3, 0),
        ({"pairs": 4, "micro_batches": 4}, 4, 0),
        ({"pairs": 4, "same_image": {1: 0}, "micro_batches": 2}, 4, 2),
        ({"pairs": 5}, 5, 5),
        ({}, 0, 0),
    ],
    ids=str,
)
def test_without_candidates_there_is_no_negative(what, matched, negatives):
    objectives = {"itm": ImageTextMatching(pairs=8)}
    model, batch = lively_model(), tiny_batch(objectives.values(), **what)
    parts, fused = step(model, batch, objectives)
    requests = {name: one.request for name, one in fused.items()}
    asked = {name: len(request) for name, request in requests.items()}
    assert asked.get("itm.match", 0) == matched
    assert asked.get("itm.other_text", 0) == asked.get("itm.other_image", 0) == negatives
    if matched:
        assert parts["itm"].count == matched + 2 * negatives and parts["itm"].total.isfinite()
        parts["itm"].total.backward()
    else:
        assert not parts


@pytest.mark.parametrize(
    "micro_batches, pairs, chosen", [(1, 3, [0, 1, 2]), (2, 4, [0, 1, 4, 5]), (4, 4, [0, 2, 4, 6]), (1, 0, [])]
)
def test_matched_pairs_are_the_first_of_every_shard(micro_batches, pairs, chosen):
    builder = tiny_draft(pairs=8, micro_batches=micro_batches)
    ImageTextMatching(pairs=pairs).corrupt(builder)
    assert builder.extra.get("itm.pairs", []) == chosen


@torch.no_grad()
def test_loss_is_the_cross_entropy_of_all_three_kinds():
    objective = ImageTextMatching(pairs=4)
    model, batch = lively_model(), tiny_batch([objective], pairs=4)
    towers = model.towers(batch)
    requests = objective.requests(model, batch, towers)
    match, other_text, other_image = (requests[f"itm.{name}"] for name in ("match", "other_text", "other_image"))
    assert torch.equal(match.image, other_text.image) and torch.equal(match.text, other_image.text)
    assert (match.text != other_text.text).all() and (match.image != other_image.image).all()
    fused = model.fuse(towers, requests)
    ours = objective.loss(model, batch, towers, fused)
    expected, right = 0.0, 0
    for name, label in (("match", 1), ("other_text", 0), ("other_image", 0)):
        logits = model.match_logits(fused[f"itm.{name}"])
        expected += -F.log_softmax(logits, -1)[:, label].sum()
        right += int((logits.argmax(-1) == label).sum())
    torch.testing.assert_close(ours["itm"].total, expected)
    assert ours["itm"].count == 12 and int(ours["itm.accuracy"].total) == right
