"""The activation of published configurations, gelu or relu, compared with torch's own layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_unimo import lively_unimo, random_regions, regions_batch
from tiny_unimo2 import as_batch, lively_model, pack, random_images, random_rows, torchs_own

from unimo.errors import UsageError
from unimo.model.attention import Plan
from unimo.model.build import ModelSettings, build
from unimo.model.unified import Request


@torch.no_grad()
@pytest.mark.parametrize("act", [F.relu, F.gelu])
def test_layers_and_language_model_of_unimo_are_torchs(act):
    """The published code has one activation for the layers and for the language-model head's transform."""
    model, texts = lively_unimo(hidden_act=act.__name__), pack(random_rows([9]))
    towers, first = model.towers(regions_batch(random_regions([4]), texts)), torch.tensor([0])
    fused = model.fuse(towers, {"x": Request(first, first)})["x"]
    states = torchs_own(model.encoder, act)(torch.cat([towers.images[0], towers.words])[None])[0]
    torch.testing.assert_close(fused.hidden, states, rtol=0, atol=2e-5)
    head = model.language_model
    transformed = act(F.linear(states[-9:], head.transform.weight, head.transform.bias))
    normed = F.layer_norm(transformed, (16,), head.norm.weight, head.norm.bias, head.norm.eps)
    expected = normed @ model.words.word.weight.T + head.bias
    torch.testing.assert_close(model.word_logits(fused.words(torch.arange(9), texts)), expected, rtol=0, atol=5e-5)


@torch.no_grad()
def test_every_tower_of_unimo2_has_it():
    """With relu in gelu's place, image tower, text tower, Grounded Transformer and both heads answer otherwise."""
    answers = {}
    for act in ("relu", "gelu"):
        model = lively_model(hidden_act=act, masked_grounding=True)
        towers = model.towers(as_batch(random_images(2), pack(random_rows([7, 5]))))
        head = model.masked_grounding(towers.words[:3], model.dictionary.entries)
        said = model.word_logits(towers.words[:3])
        fused = model.fuser(towers.words[:7].sign(), Plan.rectangle(1, 7, torch.device("cpu")))
        answers[act] = [towers.images, towers.words, head, said, fused]
    for relu, gelu in zip(answers["relu"], answers["gelu"]):
        assert (relu - gelu).abs().max() > 1e-3


@pytest.mark.parametrize("member", ["unimo", "unimo-2"])
def test_others_are_refused_by_name(member):
    settings = ModelSettings(size="tiny", member=member)
    for act in ("tanh", "gelu_new", "", "RELU"):
        with pytest.raises(UsageError) as caught:
            build(replace(settings, hidden_act=act))
        assert caught.value.where == "model.hidden_act" and "gelu, relu" in str(caught.value.expected)
    with torch.device("meta"):
        assert build(replace(settings, hidden_act="relu")).language_model.hidden_act == "relu"
