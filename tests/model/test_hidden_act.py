"""The activation of published configurations: gelu or relu, compared with sums written out in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import erf
from tiny_unimo import FEATURES, lively_unimo, random_regions, regions_batch, rows_of
from tiny_unimo2 import as_batch, lively_model, pack, random_images, random_rows

from unimo.errors import UsageError
from unimo.model.attention import Plan
from unimo.model.build import ModelSettings, build
from unimo.model.unified import Request

HEADS = 2
ACTS = {"relu": lambda x: np.maximum(x, 0), "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2}


def array(parameter) -> np.ndarray:
    return parameter.detach().double().numpy()


def linear(x, part):
    return x @ array(part.weight).T + array(part.bias)


def norm(x, part):
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + part.eps)
    return centred / spread * array(part.weight) + array(part.bias)


def attention(x, layer):
    """Each head by itself, every row sees every row."""
    q, k, v = np.split(linear(x, layer.attention.qkv), 3, axis=1)
    size = q.shape[1] // HEADS
    parts = []
    for head in range(HEADS):
        mine = slice(head * size, (head + 1) * size)
        scores = q[:, mine] @ k[:, mine].T / np.sqrt(size)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        parts.append(weights / weights.sum(-1, keepdims=True) @ v[:, mine])
    return linear(np.concatenate(parts, axis=1), layer.attention.output)


def plain_unimo(model, features, boxes, ids, act):
    """States of [ regions | words ] and their word scores (spec unimo §1.3, §1.4, §1.9)."""
    regions = linear(features, model.regions.feature) + linear(boxes, model.regions.box)
    words = array(model.words.word.weight)[ids] + array(model.words.position.weight)[2 : 2 + len(ids)]
    x = np.concatenate([norm(regions, model.regions.norm), norm(words, model.words.norm)])
    for layer in model.encoder.layers:
        x = norm(x + attention(x, layer), layer.attention_norm)
        x = norm(x + linear(ACTS[act](linear(x, layer.ffn_in)), layer.ffn_out), layer.ffn_norm)
    head = model.language_model
    said = norm(ACTS[act](linear(x[len(features) :], head.transform)), head.norm)
    return x, said @ array(model.words.word.weight).T + array(head.bias)


@torch.no_grad()
@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_unimo_equals_sums_written_out(act):
    """The published code has one activation for the layers and for the language-model head's transform."""
    model = lively_unimo(hidden_act=act)
    regions, rows = random_regions([4]), random_rows([9])
    texts = pack(rows)
    fused = model.fuse(
        model.towers(regions_batch(regions, texts)), {"x": Request(torch.tensor([0]), torch.tensor([0]))}
    )
    states = rows_of(fused["x"], 0, texts)
    features, boxes = (x[0].double().numpy() for x in (regions.features, regions.boxes))
    assert features.shape == (5, FEATURES)
    expected, scores = plain_unimo(model, features, boxes, rows[0].numpy(), act)
    torch.testing.assert_close(states.double(), torch.from_numpy(expected), rtol=0, atol=2e-5)
    logits = model.word_logits(fused["x"].words(torch.arange(9), texts)).double()
    torch.testing.assert_close(logits, torch.from_numpy(scores), rtol=0, atol=5e-5)


@torch.no_grad()
def test_every_tower_of_unimo2_has_it():
    """With relu in gelu's place, image tower, text tower, Grounded Transformer and both heads answer otherwise."""
    answers = {}
    for act in ACTS:
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
