"""Heads of tasks are the formulas of the specification, computed here a second time in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unimo.model.build import ModelSettings, build
from unimo.model.task_heads import HeadSettings, TaskHead

RNG = np.random.default_rng(0)
IMAGE, TEXT = RNG.standard_normal((2, 5, 12)).astype(np.float32)


def numpy_of(layer) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().numpy().T, layer.bias.detach().numpy()


@pytest.mark.parametrize("fusion", ["product", "sum"])
@pytest.mark.parametrize(("hidden", "activation"), [(0, "none"), (7, "none"), (7, "relu")])
def test_both_poolers(fusion, hidden, activation):
    head = TaskHead(12, HeadSettings(labels=("a", "b", "c"), reads="both", fusion=fusion, hidden=hidden,
                                     activation=activation), initial_std=1.0).eval()  # fmt: skip
    expected = IMAGE * TEXT if fusion == "product" else IMAGE + TEXT
    if hidden:
        weight, bias = numpy_of(head.between)
        expected = expected @ weight + bias
        expected = np.maximum(expected, 0) if activation == "relu" else expected
    weight, bias = numpy_of(head.output)
    with torch.no_grad():
        found = head(torch.from_numpy(IMAGE), torch.from_numpy(TEXT)).numpy()
    np.testing.assert_allclose(found, expected @ weight + bias, rtol=1e-4, atol=1e-5)


def test_one_side_alone_and_the_number_of_outputs():
    head = TaskHead(12, HeadSettings(labels=("a", "b"))).eval()
    assert torch.equal(head(None, torch.from_numpy(TEXT)), head.output(torch.from_numpy(TEXT)))
    number = TaskHead(12, HeadSettings(kind="number", reads="image")).eval()
    assert number(torch.from_numpy(IMAGE), None).shape == (5, 1)


def test_dropout_stands_before_the_last_layer():
    head = TaskHead(12, HeadSettings(labels=("a", "b"), hidden=400, dropout=0.5)).train()
    seen = []
    head.output.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    head(None, torch.from_numpy(TEXT))
    assert 0.3 < float((seen[0] == 0).float().mean()) < 0.7


def test_a_head_changes_nothing_below_it():
    plain = ModelSettings("tiny", width=16, heads=2, image_size=16, patch=8, dictionary=8, chosen=2)
    torch.manual_seed(0)
    without = dict(build(plain).named_parameters())
    torch.manual_seed(0)
    model = build(ModelSettings(**{**vars(plain), "head": HeadSettings(labels=("a", "b"))}))
    with_head = dict(model.named_parameters())
    assert with_head.keys() - without.keys() == {"head.output.weight", "head.output.bias"}
    assert all(torch.equal(x, with_head[name]) for name, x in without.items())
