"""Towers encoded in chunks, each again in the backward pass: the plain loss and gradient, in less memory."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny_batches import tiny_batch
from tiny_unimo2 import as_batch, lively_model, no_texts, random_images

from unimo.batch import Batch
from unimo.model import gradient_cache
from unimo.model.unimo2 import UNIMO2
from unimo.objectives import CrossModalContrastive, ImageTextMatching, MaskedLanguageModeling, step

ACTIVE = {
    "cmcl": CrossModalContrastive(),
    "itm": ImageTextMatching(pairs=3),
    "mlm": MaskedLanguageModeling(pairs=3),
}
BATCH = tiny_batch(ACTIVE.values(), pairs=7, masked=2)


def loss_and_gradients(model: UNIMO2, batch: Batch = BATCH) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(7)
    model.zero_grad()
    parts, _ = step(model, batch, ACTIVE)
    loss = sum(part.weight * part.total for part in parts.values())
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_chunks_give_the_loss_and_gradient_of_the_whole_batch(size):
    """float32, without dropout; the loss to 1e-6, gradients to 1e-5 of the largest of their tensor."""
    model = lively_model(dropout=0.0, attention_dropout=0.0).train()
    loss, gradients = loss_and_gradients(model)
    model.tower_chunk = size
    loss_in_chunks, in_chunks = loss_and_gradients(model)
    torch.testing.assert_close(loss_in_chunks, loss, rtol=1e-6, atol=0)
    assert in_chunks.keys() == gradients.keys()
    for name, value in gradients.items():
        assert (in_chunks[name] - value).abs().max() <= 1e-5 * value.abs().max() + 1e-10, name


def test_dropout_is_replayed(monkeypatch):
    """Against chunks whose activations are held: the same random numbers, so equal to the last bit."""
    model = lively_model(dropout=0.3, attention_dropout=0.3, image_dropout=0.3).train()
    model.tower_chunk = 3
    loss, gradients = loss_and_gradients(model)
    monkeypatch.setattr(gradient_cache, "encode_in_chunks", partial(gradient_cache.encode_in_chunks, recompute=False))
    plain_loss, plain = loss_and_gradients(model)
    assert torch.equal(loss, plain_loss)
    assert all(torch.equal(gradients[name], plain[name]) for name in plain)


def test_the_activations_of_one_chunk_are_held_at_a_time():
    """Bytes saved for the backward pass by the towers: in chunks their inputs alone, whatever the depth."""
    model = lively_model(dropout=0.0, attention_dropout=0.0).train()
    held = 0

    def count(x: torch.Tensor) -> torch.Tensor:
        nonlocal held
        held += x.nbytes
        return x

    found = []
    for size in (None, 2):
        model.tower_chunk, held = size, 0
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            model.towers(BATCH)
        found.append(held)
    assert found[1] < found[0] / 20


def test_a_side_without_samples_has_an_empty_chunk():
    model = lively_model().train()
    model.tower_chunk = 2
    for batch in (as_batch(random_images(3), no_texts()), as_batch(random_images(0), BATCH.texts)):
        towers = model.towers(batch)
        assert towers.images.shape == (len(batch.pixels), 17, 16) and towers.words.shape == (len(batch.texts.ids), 16)
