"""Both contrastive losses: the gathered form is the plain one, copies are nobody's negatives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_batches import tiny_batch
from tiny_unimo2 import lively_model
from torch import Tensor

from unimo import distributed
from unimo.model.heads import Temperature
from unimo.objectives import CrossModalContrastive, ImageContrastive
from unimo.objectives.cross_modal_contrastive import contrastive
from unimo.objectives.image_contrastive import two_views
from unimo.objectives.objective import pair_features


def features(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(F.normalize(torch.randn(n, 6, generator=generator), dim=-1).requires_grad_() for _ in range(2))


def plain_contrastive(image: Tensor, text: Tensor, identities: Tensor, tau: float) -> list[Tensor]:
    """One number for each row, from the N x N matrix, a pair at a time; copies are left out of the sums."""
    logits = image @ text.T / tau
    rows = []
    for i in range(len(image)):
        fits = [j for j in range(len(image)) if j == i or all(int(x[i]) != int(x[j]) for x in identities)]
        across = torch.logsumexp(logits[i, fits], 0) - logits[i, i]
        down = torch.logsumexp(logits[fits, i], 0) - logits[i, i]
        rows.append((across + down) / 2)
    return rows


IDENTITIES = {
    "all different": ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
    "one image twice": ([0, 1, 0, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
    "one caption twice": ([0, 1, 2, 3, 4, 5], [9, 1, 2, 3, 4, 9]),
    "both": ([0, 1, 0, 3, 4, 5], [9, 1, 2, 3, 2, 9]),
    "all the same": ([7] * 6, [7] * 6),
}


@pytest.mark.parametrize("kind", IDENTITIES)
def test_equals_the_plain_form_in_value_and_gradient(kind):
    identities, temperature = torch.tensor(IDENTITIES[kind]), Temperature()
    ours, plain = features(6), features(6)
    total, _ = contrastive(*ours, identities, temperature)
    total.backward()
    tau = torch.tensor(0.07, requires_grad=True)
    expected = sum(plain_contrastive(*plain, identities, tau))
    expected.backward()
    torch.testing.assert_close(total, expected)
    for mine, theirs in zip((*ours, temperature.value), (*plain, tau)):
        torch.testing.assert_close(mine.grad.squeeze(), theirs.grad, rtol=1e-4, atol=1e-5)
    if kind == "all the same":
        assert total.item() == pytest.approx(0, abs=1e-5)  # nobody left to be confused with


def as_rank(monkeypatch, rank: int, world: int, everything: list[list[Tensor]]) -> None:
    """Plays one of many processes: what this one gathers is replaced by what all would have sent."""
    monkeypatch.setattr(distributed, "rank", lambda: rank)

    def gather(mine: Tensor) -> Tensor:
        for sent in everything:
            if sent[rank].shape == mine.shape and torch.equal(sent[rank], mine):
                return torch.cat([mine if i == rank else x.detach() for i, x in enumerate(sent)])
        raise AssertionError("gathered something nobody sent")

    monkeypatch.setattr(distributed, "gather", gather)


@pytest.mark.parametrize("kind", IDENTITIES)
def test_ranks_add_up_to_one_process(monkeypatch, kind):
    """n local rows against N gathered columns, summed over 3 ranks, is the N x N loss of one process."""
    image, text = (x.detach() for x in features(6))
    identities, temperature = torch.tensor(IDENTITIES[kind]), Temperature()
    whole, right = contrastive(image, text, identities, temperature)
    sent = [list(x.split(2)) for x in (image, text, identities.T)]
    total, found = 0.0, 0
    for rank in range(3):
        as_rank(monkeypatch, rank, 3, sent)
        mine = slice(2 * rank, 2 * rank + 2)
        part, correct = contrastive(image[mine], text[mine], identities[:, mine], temperature)
        total, found = total + part, found + correct
    torch.testing.assert_close(total, whole)
    assert found == right


@torch.no_grad()
def test_normalisation_options():
    model = lively_model()
    batch = tiny_batch([CrossModalContrastive()], pairs=3)
    towers = model.towers(batch)
    image, text = towers.images[:, 0], towers.words[towers.texts.offsets[:-1]]
    unit_image, unit_text = image / image.norm(dim=-1, keepdim=True), text / text.norm(dim=-1, keepdim=True)
    expected = {"both": (unit_image, unit_text), "image": (unit_image, text), "none": (image, text)}
    for normalise, pair in expected.items():
        ours = pair_features(model, batch, towers, normalise)
        for mine, theirs in zip(ours, pair):
            torch.testing.assert_close(mine, theirs)
        objective = CrossModalContrastive(normalise=normalise)
        part = objective.loss(model, batch, towers, {})["cmcl"]
        rows = plain_contrastive(*pair, torch.arange(3).expand(2, 3), 0.07)
        torch.testing.assert_close(part.total / part.count, sum(rows) / 3)


@torch.no_grad()
def test_temperature_is_clamped_where_it_is_used():
    temperature = Temperature()
    for stored, used in ((0.07, 0.07), (1e-9, 0.001), (-3.0, 0.001), (9.0, 0.5)):
        temperature.value.fill_(stored)
        torch.testing.assert_close(temperature(torch.tensor([1.0])), torch.tensor([1 / used]))


# ---- two views of an image ----


def plain_two_views(a: Tensor, b: Tensor, identity: list[int], tau: float) -> Tensor:
    """Each of 2n views looks for its other view among all but itself and copies of its image."""
    views, n, total = torch.cat([a, b]), len(a), torch.zeros(())
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        fits = [j for j in range(2 * n) if j == partner or identity[j % n] != identity[i % n]]
        total = total + torch.logsumexp(views[fits] @ views[i] / tau, 0) - views[partner] @ views[i] / tau
    return total


@pytest.mark.parametrize("identity", [[0, 1, 2, 3], [0, 1, 0, 3], [5, 5, 5, 5]], ids=str)
def test_two_views_equal_the_plain_form(monkeypatch, identity):
    ours, plain = features(4), features(4)
    total, _ = two_views(*ours, torch.tensor(identity), Temperature())
    expected = plain_two_views(*plain, identity, 0.07)
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected)
    for mine, theirs in zip(ours, plain):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)

    a, b = (x.detach() for x in ours)
    sent = [list(x.split(2)) for x in (a, b, torch.tensor(identity))]
    parts = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2, sent)
        mine = slice(2 * rank, 2 * rank + 2)
        parts.append(two_views(a[mine], b[mine], torch.tensor(identity)[mine], Temperature())[0])
    torch.testing.assert_close(sum(parts), total.detach())


def test_chance_of_two_views_is_one_in_all_others():
    same = torch.ones(5, 6)
    total, _ = two_views(same, same, torch.arange(5), Temperature())
    assert total.item() / 10 == pytest.approx(math.log(9))


@torch.no_grad()
def test_image_contrastive_reads_the_pooler_after_image_only_fusion():
    model = lively_model()
    objective = ImageContrastive()
    batch = tiny_batch([objective], images=3)
    towers = model.towers(batch)
    requests = objective.requests(model, batch, towers)
    (request,) = requests.values()
    assert request.text is None and request.image.tolist() == [0, 1, 2, 3, 4, 5]
    fused = model.fuse(towers, requests)
    part = objective.loss(model, batch, towers, fused)["image_contrastive"]
    pooled = (fused["image_contrastive"].image_cls() @ model.image_pooler.linear.weight.T).add(
        model.image_pooler.linear.bias
    )
    unit = pooled.clamp_min(0) / pooled.clamp_min(0).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(part.total, plain_two_views(unit[:3], unit[3:], [0, 1, 2], 0.07), rtol=1e-4, atol=1e-4)
    assert part.count == 6
