"""Weights kept in bf16 answer as those that autocast casts at every call, and change nothing of the model itself."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from tiny_unimo import detected, lively_unimo
from tiny_unimo2 import lively_model, random_images
from torch import nn

from unimo.inference import Pipeline, identity, load
from unimo.inference import frozen as module
from unimo.model.build import ModelSettings, build
from unimo.model.unified import Unified
from unimo.tokenizer import Tokenizer
from unimo.weights.saving import save_pretrained

TEXTS = ["a dog", "two cats sleep on a red sofa beside the window", "", "a dog runs"]
PAIRS = np.array([[i, t] for i in range(3) for t in range(4)])
V = Tokenizer.vocab_size
MODELS = {
    "unimo-2": lambda: lively_model(vocabulary=V),
    "projections": lambda: lively_model(vocabulary=V, grounding_projection=True, contrastive_projection=True),
    "normal": lambda: lively_model(vocabulary=V, grounding_method="normal", grounding_projection=True),
    "untied": lambda: lively_model(vocabulary=V, tie_word_embeddings=False),
    "baseline": lambda: lively_model(vocabulary=V, dictionary=0),
    "known words": lambda: knowing(lively_model(vocabulary=V)),
    "unimo": lambda: lively_unimo(vocabulary=V, matching=2),
}


def knowing(model: Unified) -> Unified:
    model.know_words(torch.tensor([2, *range(400, 900, 7)]))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_autocast_to_the_last_bit(name):
    model = MODELS[name]()
    images = [image.permute(1, 2, 0).numpy() for image in random_images(3, side=23)]
    given = detected([3, 5, 2]) if name == "unimo" else images
    plain, fast = (Pipeline(model, precision="bf16", frozen=frozen) for frozen in (False, True))
    seen, read = ([one.encode_images(given), one.encode_texts(TEXTS)] for one in (plain, fast))
    for a, b in zip(seen, read):
        assert torch.equal(a.hidden, b.hidden) and torch.equal(a.embedding, b.embedding)
    for alone in ((0, None), (None, 1)) if name == "unimo-2" else ():
        chosen = [[None if i is None else some[i] for i in alone] for some in (seen, read)]
        np.testing.assert_array_equal(plain.encoder.codes(*chosen[0]), fast.encoder.codes(*chosen[1]))
    np.testing.assert_array_equal(plain.match(*seen, PAIRS), fast.match(*read, PAIRS))
    np.testing.assert_array_equal(plain.encode_text(TEXTS), fast.encode_text(TEXTS))
    np.testing.assert_array_equal(plain.encode_image(given), fast.encode_image(given))
    for beams in (1, 3):
        options = {"num_beams": beams, "max_length": 6}
        assert plain.caption(given, **options) == fast.caption(given, **options)
    assert plain.fill_mask("a [MASK] dog", given[0]) == fast.fill_mask("a [MASK] dog", given[0])


def test_codes_of_single_positions_are_those_of_autocast():
    model = MODELS["normal"]()
    images = [image.permute(1, 2, 0).numpy() for image in random_images(3, side=23)]
    plain, fast = (Pipeline(model, precision="bf16", frozen=frozen) for frozen in (False, True))
    np.testing.assert_array_equal(
        plain.encoder.codes(plain.encode_images(images), plain.encode_texts(TEXTS)),
        fast.encoder.codes(fast.encode_images(images), fast.encode_texts(TEXTS)),
    )


def test_a_processor_that_onednn_refuses_packs_nothing(monkeypatch):
    """On AVX2 alone laying out weights raises, so that loading in bf16 would."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not module.can_pack(torch.bfloat16, torch.device("cpu"))
    assert Pipeline(MODELS["unimo-2"](), precision="bf16", frozen=True).encode_text(TEXTS).shape == (4, 16)


@pytest.mark.parametrize("packs", [True, False])
def test_linear_maps_are_copied_and_everything_else_is_shared(packs, monkeypatch):
    if not packs:
        monkeypatch.setattr(module, "can_pack", lambda *_: False)
    model = MODELS["unimo-2"]()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    pipeline = Pipeline(model, precision="bf16", frozen=True)
    parts, twin = (dict(one.named_modules()) for one in (model, pipeline.encoder.model))
    linear = {name for name, part in parts.items() if isinstance(part, (nn.Linear, nn.Conv2d))}
    assert pipeline.model is model and parts.keys() == twin.keys() and len(linear) > 20
    for name, part in parts.items():
        assert (twin[name].weight.dtype == torch.bfloat16) if name in linear else True
        for own, parameter in part.named_parameters(recurse=False):
            assert name in linear or getattr(twin[name], own) is parameter
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.dtype == torch.float32
    assert identity(pipeline)["sha256"] == identity(Pipeline(model, precision="fp32"))["sha256"]


def test_packed_products_are_those_of_linear_maps():
    if not module.can_pack(torch.bfloat16, torch.device("cpu")):
        pytest.skip("this torch, or this processor, has no packed products in bf16")
    linear = nn.Linear(48, 96).bfloat16()
    fast = module.PackedLinear(linear)
    with torch.inference_mode():
        for shape in ((1, 48), (20, 48), (3, 7, 48), (0, 48)):
            x = torch.randn(shape)
            assert torch.equal(fast(x), linear(x.bfloat16()))
            assert torch.equal(fast(x[..., torch.arange(48)].mT.contiguous().mT), linear(x.bfloat16()))


def test_answers_without_packed_products_are_the_same_too(monkeypatch):
    monkeypatch.setattr(module, "can_pack", lambda *_: False)
    test_answers_are_those_of_autocast_to_the_last_bit("known words")


def test_a_frozen_model_travels_to_another_process():
    pipeline = Pipeline(MODELS["unimo-2"](), precision="bf16", frozen=True)
    again = pickle.loads(pickle.dumps(pipeline))
    assert again.encoder.model is not again.model and again.matcher.encoder is again.encoder
    np.testing.assert_array_equal(again.encode_text(TEXTS), pipeline.encode_text(TEXTS))


def test_in_fp32_there_is_nothing_to_copy():
    model = MODELS["unimo-2"]()
    assert Pipeline(model, precision="fp32", frozen=True).encoder.model is model


def test_what_is_loaded_is_frozen_and_saves_its_float32_weights(tmp_path):
    settings = ModelSettings(size="tiny", width=16, heads=2, image_size=32, positions=64)
    folder = save_pretrained(build(settings), tmp_path / "first", settings)
    loaded = load(folder, precision="bf16")
    assert loaded.encoder.model is not loaded.model
    again = load(loaded.save_pretrained(tmp_path / "again"), precision="fp32")
    exact = load(folder, precision="fp32")
    for (name, one), (_, two) in zip(exact.model.named_parameters(), again.model.named_parameters()):
        assert torch.equal(one, two), name
    one, two = (each.encode_text(TEXTS) for each in (exact, loaded))
    assert (one * two).sum(1).min() > 0.999
