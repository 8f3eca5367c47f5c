"""The circle loss against its formula, written out with plain Python numbers."""

import math

import torch

from unimo.objectives.circle_loss import circle_loss, two_sided


def by_hand(right, wrong, margin, scale):
    b = max(0.0, 1 + margin - right)
    pull = math.exp(-scale * b * (right - (1 - margin)))
    return math.log(1 + sum(math.exp(scale * max(0.0, n + margin) * (n - margin)) for n in wrong) * pull)


def test_the_formula():
    right, wrong = torch.tensor([0.3, 1.4, -2.0]), torch.tensor([[0.1, -0.5], [0.9, 2.5], [-3.0, 0.0]])
    for margin, scale in ((0.2, 1.0), (0.1, 3.0)):
        want = [by_hand(r, w, margin, scale) for r, w in zip(right.tolist(), wrong.tolist())]
        got = circle_loss(right, wrong, margin=margin, scale=scale)
        torch.testing.assert_close(got, torch.tensor(want), rtol=1e-5, atol=1e-6)
        both = two_sided(torch.cat([right[:, None], wrong, wrong.flip(0)], 1), margin=margin, scale=scale)
        halves = [got, circle_loss(right, wrong.flip(0), margin=margin, scale=scale)]
        torch.testing.assert_close(both, torch.stack(halves).mean(0))


def test_a_step_against_the_gradient_helps_and_the_weights_carry_none():
    right = torch.tensor([0.3], requires_grad=True)
    wrong = torch.tensor([[0.1, 0.6]], requires_grad=True)
    loss = circle_loss(right, wrong).sum()
    loss.backward()
    assert right.grad.item() < 0 < wrong.grad.min()
    z = math.exp(loss.item()) - 1
    b = 1.2 - 0.3
    torch.testing.assert_close(right.grad, torch.tensor([-b * z / (1 + z)]))


def test_large_scores_stay_finite():
    assert torch.isfinite(circle_loss(torch.tensor([-12.0]), torch.tensor([[12.0]]))).all()
