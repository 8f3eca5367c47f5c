"""Adversarial deltas: their start, their bounds, and that they do what they are for."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_unimo import lively_unimo, random_regions
from tiny_unimo2 import pack, random_rows
from torch import Tensor

from unimo.batch import KNOWN, WRITTEN, Batch, Regions, Texts
from unimo.finetune.adversarial import AdversarialTrainStep
from unimo.finetune.task_types import Classification
from unimo.model.task_heads import HeadSettings, TaskHead
from unimo.objectives.adversarial import Adversarial, adversarial_losses, ascend, initial_deltas, owners

WIDTH = 6


def batch() -> Batch:
    """Two samples: three words (one known before) beside two regions, two words beside four."""
    ids = torch.arange(5)
    roles = torch.tensor([KNOWN, WRITTEN, WRITTEN, WRITTEN, WRITTEN])
    texts = Texts(ids, ids, roles, torch.tensor([0, 3, 5]))
    regions = Regions(torch.randn(2, 4, 3), torch.rand(2, 4, 5), torch.tensor([2, 4]))
    return Batch(0, torch.zeros(0, 3, 1, 1), texts, {}, {}, {}, regions=regions)


def size_of_samples(delta: Tensor, owner: Tensor, norm: float = 2.0) -> list[float]:
    rows = delta.flatten(0, -2)
    return [float(torch.linalg.vector_norm(rows[owner == i], norm)) for i in range(2)]


def test_initial_deltas_are_small_and_leave_known_words_and_missing_regions_alone():
    settings = Adversarial(initial_norm=0.4)
    deltas = initial_deltas(batch(), WIDTH, settings, torch.Generator().manual_seed(0))
    assert deltas["text"].shape == (5, WIDTH) and deltas["image"].shape == (2, 4, 3)
    assert not deltas["text"][0].any() and deltas["text"][1:].all()
    assert not deltas["image"][0, 2:].any() and deltas["image"][0, :2].all() and deltas["image"][1].all()
    for side, delta in deltas.items():
        expected = 0.4 * math.sqrt(1 / 3)  # of uniform(-1, 1) numbers over the root of their count
        assert size_of_samples(delta, owners(batch(), side)) == pytest.approx([expected] * 2, rel=0.5)
    unit = initial_deltas(batch(), WIDTH, Adversarial(norm="inf", initial_norm=0.1), torch.Generator().manual_seed(0))
    assert 0.08 < unit["text"].abs().max() <= 0.1
    assert not initial_deltas(batch(), WIDTH, Adversarial(initial_norm=0.0), torch.Generator())["image"].any()


def test_a_step_has_its_length_per_sample_and_stays_within_bounds():
    delta, gradient = torch.zeros(5, WIDTH), torch.randn(5, WIDTH) * torch.tensor([[9.0]] * 3 + [[0.01]] * 2)
    owner = owners(batch(), "text")
    free = ascend(delta, gradient, owner, Adversarial(lr=0.3, max_norm=0.0))
    assert size_of_samples(free, owner) == pytest.approx([0.3, 0.3])
    villa = ascend(delta, gradient, owner, Adversarial(lr=0.3, max_norm=0.2, projection="villa"))
    assert size_of_samples(villa, owner) == pytest.approx([0.2, 0.2])
    # As released the gradient's size decides: the first sample's is large and shrinks its delta, the second's is not.
    released = ascend(delta, gradient, owner, Adversarial(lr=0.3, max_norm=0.2))
    large = size_of_samples(gradient, owner)[0]
    assert size_of_samples(released, owner) == pytest.approx([0.3 * 0.2 / large, 0.3])
    by_largest = ascend(delta, gradient, owner, Adversarial(lr=0.3, max_norm=0.25, norm="inf"))
    assert size_of_samples(by_largest, owner, math.inf) == pytest.approx([0.25, 0.25])


def linear_question(weights: Tensor):
    """Two classes from the mean of a sample's perturbed words and of its regions."""

    def ask(batch: Batch) -> tuple[Tensor, Tensor]:
        words = batch.texts.ids[:, None] / 10 * torch.ones(WIDTH)
        words = words if batch.texts.delta is None else words + batch.texts.delta
        mean = torch.stack([words[:3].mean(0), words[3:].mean(0)])
        logits = mean @ weights + batch.regions.features.mean((1, 2))[:, None] * torch.tensor([1.0, -1.0])
        return logits, torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))

    return ask


def test_every_step_pushes_towards_a_larger_loss():
    torch.manual_seed(0)
    weights = torch.randn(WIDTH, 2)
    ask, given = linear_question(weights), batch()
    settings = Adversarial(steps=6, initial_norm=0.0, lr=0.1, max_norm=0.0, kl_weight=0.0, clean=False, sides=("text",))
    deltas = initial_deltas(given, WIDTH, settings, torch.Generator())
    losses = [loss.item() * settings.steps for loss in adversarial_losses(ask, given, settings, deltas)]
    assert losses[0] == pytest.approx(float(ask(given)[1]))
    assert losses == sorted(losses) and losses[-1] > losses[0] + 0.05


def test_gradients_of_all_steps_add_up_and_none_flows_through_the_deltas():
    torch.manual_seed(0)
    weights, given = torch.randn(WIDTH, 2, requires_grad=True), batch()
    settings = Adversarial(steps=2, kl_weight=0.0, clean=True, sides=())
    for loss in adversarial_losses(linear_question(weights), given, settings, {}):
        loss.backward()
    (plain,) = torch.autograd.grad(linear_question(weights)(given)[1], weights)
    torch.testing.assert_close(weights.grad, plain)
    settings = Adversarial(steps=2)
    deltas = initial_deltas(given, WIDTH, settings, torch.Generator().manual_seed(0))
    for loss in adversarial_losses(linear_question(weights), given, settings, deltas):
        loss.backward()
    assert not any(delta.requires_grad for delta in deltas.values())


@pytest.mark.parametrize("norm", ["l2", "inf"])
def test_what_is_known_and_what_is_missing_is_never_pushed_and_has_no_part_in_the_norm(norm):
    """Here the answer leans a hundred times harder on a tag and on missing regions than on what may be perturbed."""
    given = batch()
    tag, missing = torch.tensor([100.0, 1, 1, 1, 1]), torch.tensor([[1.0, 1, 100, 100], [1, 1, 1, 1]])

    def ask(batch: Batch) -> tuple[Tensor, Tensor]:
        words = 0 if batch.texts.delta is None else (batch.texts.delta.sum(-1) * tag).sum()
        loss = words + (batch.regions.features.sum(-1) * missing).sum()
        return loss * torch.tensor([[1.0, -1.0]]), loss

    settings = Adversarial(steps=3, lr=0.1, max_norm=0.0, initial_norm=0.0, norm=norm)
    deltas = initial_deltas(given, WIDTH, settings, torch.Generator())
    assert len(list(adversarial_losses(ask, given, settings, deltas))) == 3
    assert not deltas["text"][0].any() and not deltas["image"][0, 2:].any()
    for side, delta in deltas.items():  # three steps the same way, each of the whole length
        length = size_of_samples(delta, owners(given, side), math.inf if norm == "inf" else 2.0)
        assert length == pytest.approx([0.3, 0.3]), side


@pytest.mark.parametrize("reads", ["image", "text"])
def test_a_side_that_is_not_there_is_left_out(reads):
    model = lively_unimo()
    head = HeadSettings(labels=("a", "b"), reads=reads)
    model.head = TaskHead(model.width, head)
    texts = pack(random_rows([4, 6])) if reads == "text" else pack_of_none()
    groups = {"examples": (0, 2)}
    image = torch.arange(2) if reads == "image" else torch.full((2,), -1)
    given = Batch(
        0,
        torch.zeros(0, 3, 1, 1),
        texts,
        groups if reads == "image" else {},
        groups,
        {},
        {"examples.image": image, "classify.labels": torch.tensor([0, 1])},
        regions=random_regions([2, 3]) if reads == "image" else None,
    )
    kind = Classification(head, sees=reads == "image")
    loss, _, _ = AdversarialTrainStep(model, {"task": kind}, Adversarial(steps=2), seed=0)(given)
    loss.backward()
    assert torch.isfinite(loss) and model.head.output.weight.grad.any()


def pack_of_none() -> Texts:
    none = torch.zeros(0, dtype=torch.int64)
    return Texts(none, none, none, torch.zeros(1, dtype=torch.int64))
