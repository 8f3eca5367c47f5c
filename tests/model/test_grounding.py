"""The dictionary's vote, choice and loss against plain loops over the formulas of spec unimo2 §2.4 and §3."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unimo.model.grounding import DICTIONARY_WEIGHT, ENCODER_WEIGHT, GroundedDictionary


def dictionary(entries: int = 7, chosen: int = 3, **options) -> GroundedDictionary:
    torch.manual_seed(0)
    made = GroundedDictionary(4, entries, chosen, **options)
    with torch.no_grad():
        made.entries.normal_()
        made.scale.fill_(1.3)
    return made


def test_starts_as_specified():
    made = GroundedDictionary(64, 500, 100)
    assert made.scale.item() == 100 and made.scale.shape == (1,)
    assert made.entries.abs().max() <= 1 / 500 and made.entries.std().item() == pytest.approx(
        1 / 500 / math.sqrt(3), rel=0.02
    )


def test_the_scale_is_clamped_where_it_is_used():
    made = dictionary()
    hidden = torch.randn(5, 4)
    for stored, used in ((0.2, 1.0), (-5.0, 1.0), (3.0, 3.0), (1e6, 1e4)):
        with torch.no_grad():
            made.scale.fill_(stored)
        expected = torch.sigmoid(used * hidden @ made.entries.T)
        torch.testing.assert_close(made.similarity(hidden, made.entries), expected)


def test_no_more_entries_are_chosen_than_there_are():
    assert dictionary(entries=2, chosen=100).choose(torch.rand(3, 2)).shape == (3, 2)


def both(made: GroundedDictionary, hidden: Tensor, valid: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    entry_sum, entry_count, encoder_sum, encoder_count = made.loss(hidden, valid, chosen)
    return entry_sum / entry_count, encoder_sum / encoder_count


def test_published_weights():
    assert (DICTIONARY_WEIGHT, ENCODER_WEIGHT) == (1.0, 0.25)


@torch.no_grad()
def test_padding_and_length_buckets_change_no_sum():
    made = dictionary()
    hidden, chosen = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 4, 5]])
    valid = torch.ones(2, 3, dtype=torch.bool)
    padded = torch.cat([hidden, 100 * torch.randn(2, 4, 4)], 1)
    longer = torch.cat([valid, torch.zeros(2, 4, dtype=torch.bool)], 1)
    whole = made.loss(hidden, valid, chosen)
    parts = [made.loss(hidden[i : i + 1], valid[i : i + 1], chosen[i : i + 1]) for i in range(2)]
    for a, b, *c in zip(whole, made.loss(padded, longer, chosen), *parts):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(sum(c)))


def test_one_to_one_codes_are_the_nearest_and_learn_as_in_classic_quantisation():
    made = dictionary(method="normal")
    hidden = torch.randn(6, 4).requires_grad_()
    codes = made.nearest(hidden)
    for i in range(6):
        distances = (hidden[i] - made.entries).square().sum(1).tolist()
        assert int(codes[i]) == distances.index(min(distances))
    entries_term, encoders_term = both(made, hidden[None], torch.ones(1, 6, dtype=torch.bool), codes[None])
    expected = (hidden - made.entries[codes]).square().mean()
    torch.testing.assert_close(entries_term, expected)
    torch.testing.assert_close(encoders_term, expected)
    only_entries = torch.autograd.grad(entries_term, (made.entries, hidden), retain_graph=True, allow_unused=True)
    only_hidden = torch.autograd.grad(encoders_term, (made.entries, hidden), allow_unused=True)
    assert only_entries[1] is None and (only_entries[0] != 0).any()
    assert only_hidden[0] is None
    torch.testing.assert_close(only_hidden[1], 2 * (hidden - made.entries[codes]).detach() / hidden.numel())


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="topk or normal"):
        GroundedDictionary(4, 4, 2, method="optimal")
