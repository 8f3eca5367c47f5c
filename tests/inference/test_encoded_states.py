"""Cached states: picking some of them, and fusing in chunks, changes no answer; nothing is encoded twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_unimo import detected, lively_unimo
from tiny_unimo2 import lively_model, random_images

from unimo.evaluation.zero_shot import EvalContext, Retrieval
from unimo.evaluation.zero_shot.context import choose, unique
from unimo.inference import Pipeline
from unimo.model.unified import Request, Towers
from unimo.model.unimo2 import Released
from unimo.tokenizer import Tokenizer


def test_match_equals_one_fused_pass_over_everything(tools):
    pipeline = tools.random_pipeline()
    rng = np.random.default_rng(0)
    images = pipeline.encode_images(rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8))
    texts = pipeline.encode_texts(["a dog", "two small red boxes beside a star", "", "a cat on a mat", "it"])
    pairs = np.stack([rng.integers(0, 4, 17), rng.integers(0, 5, 17)], axis=1)
    towers = Towers(images.hidden, texts.hidden, texts.texts, images.votes, texts.votes)
    with torch.inference_mode():
        image, text = torch.from_numpy(pairs).T
        logits = pipeline.model.match_logits(pipeline.model.fuse(towers, {"m": Request(image, text)})["m"])
        cosine = (images.embedding[image] * texts.embedding[text]).sum(-1)
    for weight, share in ((None, 1 / 0.07), (0.3, 0.3)):  # 0.07: where the temperature starts
        want = (logits[:, 1] - logits[:, 0] + share * cosine).numpy()
        assert want.std() > 1e-4
        np.testing.assert_allclose(
            pipeline.match(images, texts, pairs, cosine_weight=weight, batch_size=3), want, atol=1e-5
        )


def test_picked_texts_are_those_encoded_alone(tools):
    pipeline = tools.random_pipeline()
    strings = ["a dog", "two small red boxes", "", "a cat on a mat"]
    some = pipeline.encode_texts(strings).pick(torch.tensor([3, 0, 3]))
    want = pipeline.encode_texts([strings[3], strings[0], strings[3]])
    assert some.texts.offsets.equal(want.texts.offsets) and some.texts.ids.equal(want.texts.ids)
    torch.testing.assert_close(some.hidden, want.hidden, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(some.votes, want.votes, atol=1e-4, rtol=1e-4)


def test_masked_ids_agree_with_one_row_at_a_time(tools):
    pipeline = tools.random_pipeline()
    rows = [pipeline.encoder.frame(text) for text in ("a red circle", "two small boxes beside a star", "it is")]
    places = [np.array([2]), np.array([1, 4]), np.array([2])]
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    for some in (None, images):
        encoded = None if some is None else pipeline.encode_images(some)
        want = [
            pipeline.mask_filler.probabilities(row, place, None if some is None else pipeline.encode_images([some[i]]))
            for i, (row, place) in enumerate(zip(rows, places))
        ]
        probabilities, labels = np.concatenate(want), np.array([5, 70, 900, 12])
        best, logs = pipeline.mask_filler.best(rows, places, labels, encoded, 2)
        assert best.tolist() == probabilities.argmax(-1).tolist()
        np.testing.assert_allclose(np.exp(logs), probabilities[range(4), labels], rtol=1e-4)


def test_nothing_passes_its_tower_twice(tools, world, monkeypatch):
    pipeline = tools.random_pipeline()
    counted = []
    encode = pipeline.encode_images
    monkeypatch.setattr(pipeline, "encode_images", lambda images, **more: counted.append(1) or encode(images, **more))
    context, task = EvalContext(pipeline), Retrieval((str(world / "heldout"),), shortlist=0)
    first, second = task.predict(context), task.predict(context)
    assert counted == [1] and (first.gallery.cosine == second.gallery.cosine).all()


def test_samples_are_fixed_and_nested():
    assert choose(10, None).tolist() == choose(10, 99).tolist() == list(range(10))
    few, more = choose(1000, 10, "x", 0), choose(1000, 50, "x", 0)
    assert set(few) <= set(more) and len(few) == 10 and (np.diff(few) > 0).all()
    assert (few == choose(1000, 10, "x", 0)).all() and (few != choose(1000, 10, "y", 0)).any()


def test_unique_texts_lead_back_to_all():
    strings = ["b", "a", "b", "c", "a"]
    distinct, number = unique(strings)
    assert distinct == ["b", "a", "c"] and [distinct[i] for i in number] == strings


@pytest.mark.parametrize("name", ["unimo-2", "padding votes", "unimo"])
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_embeddings_alone_are_those_of_the_encoded_states(name, batch):
    options = {"released": Released(padding_votes=True)} if name == "padding votes" else {}
    make = lively_unimo if name == "unimo" else lively_model
    pipeline = Pipeline(make(vocabulary=Tokenizer.vocab_size, **options), precision="fp32")
    texts = [
        " ".join(["dog", "runs", "a", "cat"][i % 4] for i in range(n)) for n in (3, 1, 9, 0, 2, 5, 4, 30, 7, 8, 1, 2)
    ]
    read = pipeline.encode_texts(texts).embedding.numpy()
    np.testing.assert_allclose(pipeline.encode_text(texts, batch_size=batch), read, rtol=0, atol=1e-5)
    images = detected([3, 5, 2]) if name == "unimo" else [image.permute(1, 2, 0).numpy() for image in random_images(3)]
    seen = pipeline.encode_images(images).embedding.numpy()
    np.testing.assert_allclose(pipeline.encode_image(images, batch_size=batch), seen, rtol=0, atol=1e-5)
    assert np.ptp(read, 0).max() > 0.01 < np.ptp(seen, 0).max()
