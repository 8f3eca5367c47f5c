"""Learned numbers within bounds: a clamp inside, and a way back from outside."""

from __future__ import annotations

import pytest
import torch

from unimo.model.grounding import GroundedDictionary
from unimo.model.heads import Temperature, within


@pytest.mark.parametrize("value", [-3.0, 0.0, 0.2, 0.5, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_clamp_but_for_gradients_that_lead_back(value, sign):
    ours, plain = (torch.tensor([value], requires_grad=True) for _ in range(2))
    one, other = within(ours, 0.5, 2.0), plain.clamp(0.5, 2.0)
    assert torch.equal(one, other)
    (sign * 3 * one).sum().backward()
    (sign * 3 * other).sum().backward()
    back = (value < 0.5 and sign < 0) or (value > 2.0 and sign > 0)  # a step goes against the gradient
    assert ours.grad.item() == (3 * sign if back else plain.grad.item())


@pytest.mark.parametrize("start", [-0.3, 0.0, 0.0009, 0.7, 40.0])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_case_a_temperature_outside_its_range_returns(start, optimizer):
    """The loss wants 0.1. A clamp alone would leave it where it is for ever."""
    temperature = Temperature(start)
    moves = optimizer(temperature.parameters(), lr=0.05, weight_decay=0.0)
    for _ in range(1500):
        moves.zero_grad()
        (temperature(torch.ones(1)).log() - torch.tensor(10.0).log()).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(temperature.parameters(), 1.0)
        moves.step()
    assert temperature.value.item() == pytest.approx(0.1, abs=0.06)


def test_a_temperature_that_the_loss_drives_out_stays_near_and_turns_at_once():
    temperature = Temperature(0.49)
    moves = torch.optim.AdamW(temperature.parameters(), lr=0.01, weight_decay=0.0)

    def steps(n: int, sign: float) -> float:
        for _ in range(n):
            moves.zero_grad()
            (sign * temperature(torch.ones(1))).sum().backward()
            moves.step()
        return temperature.value.item()

    assert 0.5 < steps(500, 1.0) < 0.7
    assert temperature(torch.ones(1)).item() == pytest.approx(2.0)  # used at its bound
    assert steps(60, -1.0) < 0.45


@pytest.mark.parametrize(("start", "wanted"), [(-5.0, 30.0), (0.5, 30.0), (2e4, 3000.0)])
def test_the_sharpness_of_votes_returns_too(start, wanted):
    dictionary = GroundedDictionary(4, 6, 2)
    with torch.no_grad():
        dictionary.scale.fill_(start)
    hidden, entries = torch.ones(1, 4), torch.full((1, 4), 0.25 / wanted)  # at what is wanted, a vote is sigmoid(1)
    moves = torch.optim.AdamW([dictionary.scale], lr=wanted / 20, weight_decay=0.0)
    for _ in range(400):
        moves.zero_grad()
        (dictionary.similarity(hidden, entries) - torch.sigmoid(torch.ones(()))).square().sum().backward()
        moves.step()
    assert dictionary.scale.item() == pytest.approx(wanted, rel=0.1)
