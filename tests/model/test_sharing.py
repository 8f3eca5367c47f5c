"""Many texts beside one image that is held once: the same answers as with a copy each, where the mask allows it."""

from __future__ import annotations

import pytest
import torch
from tiny_unimo import lively_unimo, random_regions, regions_batch
from tiny_unimo2 import pack, random_rows

from unimo.model.unified import Request

LENGTHS = [5, 9, 4, 7, 6, 8]
IMAGES = torch.tensor([0, 0, 0, 2, 1, 1])  # of each text; images of 3, 1 and 5 regions


def fused(model, *, share: bool, form: str = "dense", texts=None):
    model.attention_form = form
    batch = regions_batch(random_regions([3, 1, 5]), pack(random_rows(LENGTHS)))
    numbers = torch.arange(len(LENGTHS)) if texts is None else texts
    asked = {
        "alone": Request(None, torch.tensor([1, 4])),
        "read": Request(IMAGES[numbers], numbers, share=share),
        "again": Request(IMAGES[numbers[:2]], numbers[:2], share=share),
    }
    return model.fuse(model.towers(batch), asked), batch.texts


def words_of(one, texts, numbers):
    rows = torch.cat([torch.arange(texts.offsets[t], texts.offsets[t + 1]) for t in numbers])
    return one.words(rows, texts)


@torch.no_grad()
@pytest.mark.parametrize("form", ["dense", "reference"])
def test_a_shared_image_answers_like_a_copy_each(form):
    model = lively_unimo(fusion="prefix")
    (shared, texts), (copies, _) = fused(model, share=True, form=form), fused(model, share=False, form=form)
    for name, numbers in (("read", range(6)), ("again", range(2))):
        a, b = shared[name], copies[name]
        torch.testing.assert_close(words_of(a, texts, numbers), words_of(b, texts, numbers), rtol=0, atol=1e-5)
        torch.testing.assert_close(a.image_cls(), b.image_cls(), rtol=0, atol=1e-5)
        torch.testing.assert_close(a.text_cls(), b.text_cls(), rtol=0, atol=1e-5)
    last = torch.tensor([5, 0]), torch.tensor([1, 3])
    torch.testing.assert_close(shared["read"].image_rows(*last), copies["read"].image_rows(*last), rtol=0, atol=1e-5)
    saved = 2 * 4 + 1 * 2 + 1 * 4  # copies of images 0 (3 regions and [IMG]) and 1, and of 0 in the other request
    assert len(copies["read"].hidden) - len(shared["read"].hidden) == saved


def test_gradients_of_both_forms_agree():
    model = lively_unimo(fusion="prefix")
    grads = []
    for share in (True, False):
        model.zero_grad()
        one = fused(model, share=share)[0]["read"]
        (model.image_pooler(one.image_cls()) * model.text_pooler(one.text_cls())).sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_sharing_needs_images_that_do_not_look_at_their_texts():
    with pytest.raises(AssertionError, match="prefix"):
        fused(lively_unimo(), share=True)
