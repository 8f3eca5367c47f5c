"""Sizes of the published models, and settings that make none."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_unimo2 import as_batch, lively_model, pack, random_images, random_rows
from torch.utils.flop_counter import FlopCounterMode

from unimo.batch import Targets
from unimo.errors import UsageError, WeightsError
from unimo.model.build import ModelSettings, build, fill
from unimo.model.flops import batch_cost
from unimo.model.unified import Request
from unimo.model.unimo2 import UNIMO2


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "size, without_heads, with_heads", [("base", 297_662_978, 298_306_909), ("large", 964_118_530, None)]
)
def test_parameter_counts_are_the_published_ones(size, without_heads, with_heads):
    """Counted from the authors' graph (spec unimo2 §8.3); the heads are masked words and matching."""
    with torch.device("meta"):
        model = build(ModelSettings(size=size, image_contrastive=False))
    assert count(model) - count(model.language_model) - count(model.matching) == without_heads
    assert with_heads is None or count(model) == with_heads


def test_parts_of_base_are_the_published_ones():
    with torch.device("meta"):
        model = build(ModelSettings(size="base", image_contrastive=False))
    poolers = count(model.text_pooler) + count(model.image_pooler)
    assert count(model.patches) + count(model.image_encoder) == 85_798_656
    assert count(model.words) + count(model.text_encoder) == 124_054_272
    assert count(model.grounded_encoder) + count(model.ground_norm) + poolers == 86_237_184
    assert model.dictionary.entries.numel() == 1_572_864


def test_norms_and_initial_weights_are_as_specified():
    torch.manual_seed(0)
    model = UNIMO2(width=64, heads=4, image_depth=2, text_depth=2, grounded_depth=2, image_size=32, vocabulary=300)
    for name, part in model.named_modules():
        if isinstance(part, torch.nn.LayerNorm):
            assert part.eps == (1e-12 if name.startswith("image_encoder") else 1e-5), name
            assert (part.weight == 1).all() and (part.bias == 0).all()
        elif isinstance(part, torch.nn.Linear):
            assert (part.bias == 0).all() and part.weight.abs().max() <= 0.04  # cut at twice 0.02
            assert part.weight.numel() < 1000 or part.weight.std().item() == pytest.approx(0.0176, rel=0.05)
    assert model.contrastive_temperature.value.item() == pytest.approx(0.07)


@pytest.mark.parametrize(
    "wrong, where",
    [
        ({"size": "huge"}, "model.size"),
        ({"image_size": 225}, "model.image_size"),
        ({"heads": 7}, "model.heads"),
    ],
)
def test_settings_that_make_no_model_are_refused_with_their_place(wrong, where):
    with pytest.raises(UsageError) as error:
        build(dataclasses.replace(ModelSettings(size="tiny"), **wrong))
    assert where in str(error.value)


def test_fill_copies_everything_or_refuses():
    one, other = lively_model(0), lively_model(1)
    tensors = {name: parameter.detach().clone() for name, parameter in one.named_parameters()}
    fill(other, tensors, where="here")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    name = "dictionary.scale"
    for damage in ({"surplus": torch.zeros(1)}, {name: torch.zeros(2)}):
        with pytest.raises(WeightsError, match=next(iter(damage))):
            fill(other, tensors | damage, where="here")
    with pytest.raises(WeightsError, match=name):
        fill(other, {key: x for key, x in tensors.items() if key != name}, where="here")


@torch.no_grad()
def test_counted_operations_are_those_the_machine_does():
    """Equal lengths in a number that needs no rounding, so that nothing is padded, which would not count as work."""
    model = lively_model()
    batch = as_batch(random_images(3), pack(random_rows([7, 7, 7, 7])))
    requests = {"pairs": Request(torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 2, 0]))}
    with FlopCounterMode(display=False) as counter:
        model.fuse(model.towers(batch), requests, whole=True)
    assert batch_cost(model, batch, requests) == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        states = model.fuse(model.towers(batch), requests)["pairs"].states
        states.at(torch.arange(8))
        states.at(torch.arange(2))
    assert batch_cost(model, batch, requests, states.read) == counter.get_total_flops()


@torch.no_grad()
def test_words_that_are_never_predicted_cost_nothing():
    model = lively_model()
    batch = as_batch(random_images(3), pack(random_rows([7, 7, 7, 7])))
    batch = dataclasses.replace(batch, targets={"pairs": Targets(torch.tensor([1, 2, 9]), torch.tensor([5, 9, 30]))})
    requests = {"pairs": Request(torch.tensor([0, 1]), torch.tensor([0, 1]))}
    for known in (None, torch.tensor([0, 2, 5, 9, 30])):
        if known is not None:
            model.know_words(known)
        with FlopCounterMode(display=False) as counter:
            fused = model.fuse(model.towers(batch), requests, whole=True)["pairs"]
            model.subset_logits(fused.words(batch.targets["pairs"].rows, batch.texts), fused.word_table())
        assert batch_cost(model, batch, requests) == counter.get_total_flops()
