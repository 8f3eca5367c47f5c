"""Dropout from shared random draws: what torch's own promises, and nothing else of the element decides."""

import pytest
import torch

from unimo.model.transformer import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_are_zero_or_scaled_in_the_share_that_was_said_and_so_is_the_gradient(p):
    torch.manual_seed(0)
    x = torch.rand(300, 301).add(0.5).requires_grad_()
    y = Dropout(p)(x)
    y.sum().backward()
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / (1 - p), rtol=1e-4, atol=0)
    torch.testing.assert_close(x.grad, kept / (1 - p), rtol=1e-4, atol=0)
    assert (~kept).float().mean() == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5)


def test_neighbours_that_share_a_draw_are_independent():
    """Of four elements each is dropped as often, and no two of them, nor of their neighbours, go together."""
    torch.manual_seed(0)
    kept = Dropout(0.3)(torch.ones(40_000, 4)).ne(0).double()
    assert (kept.mean(0) - 0.7).abs().max() < 0.01
    together = torch.corrcoef(torch.cat([kept[1:], kept[:-1]], 1).T)
    assert (together - torch.eye(8)).abs().max() < 0.03


def test_a_seed_repeats_it_and_the_next_call_differs():
    x, dropout = torch.ones(7, 9), Dropout(0.5)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first) and not torch.equal(first, second)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (1.0, True), (0.3, False)])
def test_without_chance_it_is_torchs_own(p, training):
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(p).train(training)(x), torch.nn.Dropout(p).train(training)(x))


def test_half_precision_and_no_elements():
    assert Dropout(0.1)(torch.ones(64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert Dropout(0.1)(torch.ones(0, 4)).shape == (0, 4)
