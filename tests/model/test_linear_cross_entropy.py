"""Linear cross-entropy in one pass against torch's two functions, value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from unimo.model import linear_cross_entropy as fused
from unimo.model.linear_cross_entropy import IGNORE_INDEX, linear_cross_entropy

N, D, V = 23, 8, 50


def drawn(dtype=torch.float32, spread=1.0):
    generator = torch.Generator().manual_seed(2)
    x, table, bias = (spread * torch.randn(shape, generator=generator) for shape in ((N, D), (V, D), (V,)))
    labels = torch.randint(0, V, (N,), generator=generator)
    labels[[0, 7, N - 1]] = IGNORE_INDEX
    return [t.to(dtype).requires_grad_() for t in (x, table, bias)], labels


def plain(x, table, bias, labels, smoothing=0.0):
    logits = F.linear(x, table, bias).float()
    total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    return total, (logits.argmax(-1) == labels).sum()


def answers(function, given, *rest, scale=1.0):
    total, right = function(*given, *rest)
    return total, right, torch.autograd.grad(total * scale, given)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, 5, 1000])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_value_and_gradient_are_those_of_torch(monkeypatch, smoothing, rows, spread):
    """In chunks of `rows`; with scores hundreds apart, where probabilities are zero and their logarithms are not."""
    monkeypatch.setattr(fused, "CACHED", rows * V)
    given, labels = drawn(spread=spread)
    total, right, gradients = answers(linear_cross_entropy, given, labels, smoothing, scale=0.3)
    should, so_many, expected = answers(plain, given, labels, smoothing, scale=0.3)
    torch.testing.assert_close(total, should)
    assert right == so_many
    for found, wanted in zip(gradients, expected):
        torch.testing.assert_close(found, wanted, atol=1e-5 * spread, rtol=1e-5)


def test_in_bf16_it_is_as_near_to_float32_as_torch_is():
    given, labels = drawn()
    exact, _, expected = answers(plain, given, labels)
    with torch.autocast("cpu", torch.bfloat16):
        total, _, gradients = answers(linear_cross_entropy, given, labels)
        rough, _, rounded = answers(plain, given, labels)
    assert total.dtype == torch.float32
    assert abs(total - exact) <= abs(rough - exact) + 1e-3 * exact
    for found, theirs, wanted in zip(gradients, rounded, expected):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() <= 1.2 * (theirs - wanted).norm() + 1e-3 * wanted.norm()


def test_of_equal_scores_the_first_counts_as_in_argmax():
    x, table, bias = torch.ones(4, 1), torch.zeros(5, 1), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    assert linear_cross_entropy(x, table, bias, torch.tensor([1, 2, 4, 0]))[1] == 1


def test_weights_that_rest_and_passes_without_gradient_give_the_same_value():
    given, labels = drawn()
    x, table, bias = given
    total, _ = linear_cross_entropy(x, table.detach(), bias.detach(), labels)
    total.backward()
    should, _, expected = answers(plain, given, labels)
    torch.testing.assert_close(x.grad, expected[0])
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(*given, labels)[0], should)


def test_a_graph_that_is_kept_can_be_gone_through_twice():
    given, labels = drawn()
    total, _ = linear_cross_entropy(*given, labels)
    first = torch.autograd.grad(total, given, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(total, given)))


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 1)])
def test_nothing_to_predict_is_a_zero_with_a_gradient(rows):
    given, labels = drawn()
    total, right = linear_cross_entropy(given[0][rows], *given[1:], labels[rows])  # row 0 is left out
    assert total == 0 and right == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(total, given))


def test_a_number_that_is_not_finite_is_not_hidden():
    given, labels = drawn()
    with torch.no_grad():
        given[0][3, 0] = torch.nan
    assert linear_cross_entropy(*given, labels)[0].isnan()
