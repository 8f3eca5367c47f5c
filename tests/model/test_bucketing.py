"""Rounded shapes, and the known vocabulary: fewer columns, the same softmax."""

import pytest
import torch
import torch.nn.functional as F
from tiny_unimo2 import as_batch, lively_model, pack, random_images, random_rows

from unimo.model.attention import rounded
from unimo.model.unified import Request


@pytest.mark.parametrize("parts", [4, 8])
def test_rounding_wastes_little_and_leaves_few_values(parts):
    numbers = range(1, 5000)
    assert all(n <= rounded(n, parts) < n * (1 + 1 / parts) + 1e-9 or n == rounded(n, parts) for n in numbers)
    assert all(rounded(rounded(n, parts), parts) == rounded(n, parts) for n in numbers)
    assert all(rounded(n, parts) <= rounded(n + 1, parts) for n in numbers)
    assert len({rounded(n, parts) for n in numbers}) <= parts * 14


def test_known_words_alone_are_predicted_by_the_same_softmax():
    model = lively_model()
    batch = as_batch(random_images(1), pack(random_rows([9])))
    fused = model.fuse(model.towers(batch), {"read": Request(torch.tensor([0]), torch.tensor([0]))})["read"]
    states = fused.words(torch.arange(9), batch.texts)
    everything = model.word_logits(states)
    known = torch.tensor([0, 2, 5, 11, 40])
    model.know_words(known)
    restricted = model.word_logits(states)
    torch.testing.assert_close(restricted[:, known], everything[:, known])
    rest = torch.ones(everything.shape[1], dtype=torch.bool)
    rest[known] = False
    assert torch.isinf(restricted[:, rest]).all()
    assert torch.equal(known[model.word_columns(torch.tensor([5, 40, 0]))], torch.tensor([5, 40, 0]))
    labels = torch.tensor([5, 40, 0, 2, 2, 11, 5, 0, 40])
    columns = model.subset_logits(states, model.word_table())
    torch.testing.assert_close(
        F.cross_entropy(columns, model.word_columns(labels)),
        F.cross_entropy(everything[:, known], model.word_columns(labels)),
    )
