"""Muon's batched steps against torch's own, one matrix after the other, and against the singular values themselves."""

import pytest
import torch
from torch import nn

from unimo.train import muon
from unimo.train.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonal

SHAPES = ((6, 6), (24, 6), (6, 24), (24, 6), (18, 6), (5, 7))
SETTINGS = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}


def matrices():
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(parameters, seed, absent=()):
    generator = torch.Generator().manual_seed(seed)
    for i, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if i in absent else gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_those_of_torch(monkeypatch, dtype):
    """Momentum to the last digit; weights as far as bf16, in which torch multiplies, tells them apart."""
    monkeypatch.setattr(muon, "fast_dtype", lambda device: dtype)
    ours, theirs = matrices(), matrices()
    mine, its = Muon(ours, **SETTINGS), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **SETTINGS)
    before = [parameter.detach().clone() for parameter in ours]
    for seed in range(4):
        for parameters, optimizer in ((ours, mine), (theirs, its)):
            give_gradients(parameters, seed, absent=(1,) if seed == 2 else ())  # one was not asked in this step
            optimizer.step()
    for start, one, other in zip(before, ours, theirs):
        assert torch.equal(mine.state[one]["momentum_buffer"], its.state[other]["momentum_buffer"])
        moved, should = ((parameter.detach() - start).flatten() for parameter in (one, other))
        assert torch.cosine_similarity(moved, should, dim=0) > 0.9995
        assert moved.norm() / should.norm() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("shape", [(4, 24, 6), (4, 6, 24), (3, 8, 8), (1, 1, 5)])
def test_a_batch_is_the_plain_iteration_of_each(shape, dtype, atol):
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for matrix, found in zip(given, orthogonal(given, dtype)):
        x = matrix.double() / matrix.double().norm()
        for _ in range(ITERATIONS):
            a, b, c = COEFFICIENTS
            square = x @ x.T
            x = a * x + (b * square + c * square @ square) @ x
        assert torch.allclose(found.double(), x, atol=atol)


def test_singular_values_become_nearly_one_and_directions_stay():
    u, v = (torch.linalg.qr(torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(i)))[0] for i in (1, 2))
    found = orthogonal(u @ torch.diag(torch.logspace(-1.5, 1, 8)) @ v)
    inner = u.mT @ found @ v.mT
    assert ((inner.diagonal(dim1=1, dim2=2) > 0.6) & (inner.diagonal(dim1=1, dim2=2) < 1.3)).all()
    assert (inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4


def test_no_gradient_at_all_moves_nothing():
    parameter = nn.Parameter(torch.ones(3, 3))
    parameter.grad = torch.zeros(3, 3)
    Muon([parameter], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(parameter, torch.ones(3, 3))


def test_matrices_stacked_in_one_parameter_move_as_they_would_apart():
    """Three on top of each other, as queries', keys' and values' weights are stored: torch's own steps of each."""
    stacked = nn.Parameter(torch.randn(18, 6, generator=torch.Generator().manual_seed(3)))
    before = stacked.detach().clone()
    apart = [nn.Parameter(part.clone()) for part in before.chunk(3)]
    mine = Muon([{"params": [stacked], "parts": 3}], **SETTINGS)
    its = torch.optim.Muon(apart, adjust_lr_fn="match_rms_adamw", **SETTINGS)
    for seed in range(3):
        give_gradients([stacked], seed)
        for one, gradient in zip(apart, stacked.grad.chunk(3)):
            one.grad = gradient.clone()
        mine.step()
        its.step()
    kept = torch.cat([its.state[one]["momentum_buffer"] for one in apart])
    assert torch.equal(mine.state[stacked]["momentum_buffer"], kept)
    for start, part, one in zip(before.chunk(3), stacked.detach().chunk(3), apart):
        moved, should = (part - start).flatten(), (one.detach() - start).flatten()
        assert torch.cosine_similarity(moved, should, dim=0) > 0.9995
        assert moved.norm() / should.norm() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("shape", "parts", "match"), [((3,), 1, r"matrices.*\(3,\)"), ((7, 2), 3, "not 3 matrices")])
def test_what_is_no_matrix_or_not_so_many_is_refused(shape, parts, match):
    with pytest.raises(ValueError, match=match):
        Muon([{"params": [nn.Parameter(torch.ones(shape))], "parts": parts}], lr=0.1)
