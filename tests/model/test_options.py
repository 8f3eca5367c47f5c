"""Options of UNIMO-2 that the paper or its code names, each against what it says, computed apart from it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_unimo2 import PATCHES, as_batch, lively_model, pack, random_images, random_rows
from torch import Tensor
from weights.test_published import TINY, archive

from unimo.batch import KNOWN, TEXT, WRITTEN
from unimo.decoding.decoder import CachedDecoder, Given, UncachedDecoder
from unimo.errors import WeightsError
from unimo.model.build import ModelSettings, build
from unimo.model.unified import Request
from unimo.model.unimo2 import UNIMO2
from unimo.weights.key_map import convert
from unimo.weights.published_names import key_maps

LENGTHS = [5, 9, 3]
EVERYONE = torch.arange(3)
REQUESTS = {
    "pairs": Request(EVERYONE, EVERYONE),
    "images": Request(EVERYONE, None),
    "texts": Request(None, EVERYONE),
}


def towers_of(model: UNIMO2, roles=TEXT):
    texts = pack(random_rows(LENGTHS), roles)
    return model.towers(as_batch(random_images(3), texts)), texts


def fused_input(model: UNIMO2, requests: dict[str, Request], roles=TEXT) -> tuple[dict, Tensor]:
    """The answers, and the packed row as it enters the Grounded Transformer."""
    entered: list[Tensor] = []
    watch = model.grounded_encoder.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    answers = model.fuse(towers_of(model, roles)[0], requests, whole=True)
    watch.remove()
    return answers, entered[0]


# ---- positions of grounded tokens ----


@torch.no_grad()
@pytest.mark.parametrize("method", ["topk", "normal"])
def test_grounded_tokens_carry_rows_2_to_k_plus_1_of_the_text_positions(method):
    """Before their norm, counted anew in every sequence, with image, text or both; off, they carry none."""
    for option in (True, False):
        model = lively_model(grounding_positions=option, grounding_method=method)
        answers, entered = fused_input(model, REQUESTS)
        for name, fused in answers.items():
            for i in range(3):
                first, k = int(fused.starts[i] + fused.image_length[i]), int(fused.ground_length[i])
                x = model.dictionary.entries[codes_of(model, name, i) if method == "normal" else fused.codes[i]]
                if option:
                    x = x + torch.stack([model.words.position.weight[2 + place] for place in range(k)])
                expected = F.layer_norm(x, (16,), model.ground_norm.weight, model.ground_norm.bias)
                torch.testing.assert_close(entered[first : first + k], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_grounded_positions_act_while_writing_too():
    """Theirs never do (spec unimo2, V2)."""
    words, rows = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    answers = []
    for option in (True, False):
        model = lively_model(grounding_positions=option)
        given = Given(model.encode_images(random_images(3)), [ids.numpy() for ids in random_rows(LENGTHS)])
        plain, cached = (form(model, given).advance(words, rows) for form in (UncachedDecoder, CachedDecoder))
        torch.testing.assert_close(plain, cached, rtol=0, atol=2e-5)
        answers.append(plain)
    assert (answers[0] - answers[1]).abs().max() > 1e-2


# ---- one entry a position ----


def codes_of(model: UNIMO2, request: str, i: int, roles=TEXT) -> list[int]:
    """The nearest entry of each voting position, patches before words, by comparing with every entry."""
    towers, texts = towers_of(model, roles)
    voters = []
    if request != "texts":
        voters += list(model.dictionary.positions_of(towers.images[i, 1:], "image"))
    if request != "images":
        first, last = texts.offsets[i : i + 2].tolist()
        words = model.dictionary.positions_of(towers.words[first:last], "text")
        voters += [word for word, role in list(zip(words, texts.roles[first:last]))[1:] if role != WRITTEN]
    entries = model.dictionary.entries
    return [min(range(len(entries)), key=lambda j: float((voter - entries[j]).square().sum())) for voter in voters]


@torch.no_grad()
@pytest.mark.parametrize("projection", [False, True], ids=["plain", "projected"])
@pytest.mark.parametrize("known", [None, 2], ids=["read", "written"])
def test_one_to_one_ground_is_the_nearest_entry_of_each_voter(projection, known):
    """All patches and words but both [CLS] and what is written."""
    model = lively_model(grounding_method="normal", grounding_projection=projection)
    roles = TEXT if known is None else [torch.tensor([KNOWN] * known + [WRITTEN] * (n - known)) for n in LENGTHS]
    answers, entered = fused_input(model, REQUESTS, roles)
    for name, fused in answers.items():
        assert fused.codes is None
        for i in range(3):
            codes = codes_of(model, name, i, roles)
            words = 0 if name == "images" else LENGTHS[i] - 1 if known is None else known - 1
            assert int(fused.ground_length[i]) == len(codes) == words + (0 if name == "texts" else PATCHES)
            first = int(fused.starts[i] + fused.image_length[i])
            expected = model.ground_norm(model.dictionary.entries[codes])
            torch.testing.assert_close(entered[first : first + len(codes)], expected, rtol=0, atol=1e-5)
    assert len(set(codes_of(model, "images", 0))) > 1


# ---- contrastive projections ----


@torch.no_grad()
@pytest.mark.parametrize("kind", ["own", "shared", "none"])
def test_contrastive_projections_are_relu_and_unit_length_on_both_sides(kind):
    """Their own linear maps, or those that the dictionary's voters pass (spec unimo2 §4.3)."""
    options = {"own": {"contrastive_projection": True, "grounding_projection": True}, "none": {}}
    options["shared"] = options["own"] | {"shared_projection": True}
    model = lively_model(**options[kind])
    assert len(model.contrastive_projection) == (2 if kind == "own" else 0)
    towers, texts = towers_of(model)
    firsts = {"image": towers.images[:, 0], "text": towers.words[texts.offsets[:-1]]}
    for side, cls in firsts.items():
        expected = cls
        if kind != "none":
            name = f"contrastive_projection.{side}" if kind == "own" else f"dictionary.project.{side}"
            linear = model.get_submodule(name)
            expected = (cls @ linear.weight.T + linear.bias).clamp_min(0)
        torch.testing.assert_close(model.contrastive_feature(cls, side), expected)
        expected = expected / expected.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(model.embed(towers, side), expected)
        assert expected.norm(dim=-1).min() > 0.9  # else the zero vector would pass


# ---- layers shared out between the towers ----


def test_a_split_of_6_and_6_layers_has_the_published_names():
    """Text layers 0 to 5 and grounded layers 6 to 11, as one RoBERTa of 12 layers cut in two (spec unimo2 §2.1)."""
    with torch.device("meta"):
        model = build(ModelSettings(size="base", text_depth=6, grounded_depth=6))
    names = {name for origin in key_maps(model, first_grounded_layer=6).values() for name in origin.names}
    for tower, numbers in (("text", range(6)), ("grounded", range(6, 12)), ("vit", range(12))):
        layers = {name.split("_multi")[0] for name in names if name.startswith(f"{tower}.encoder") and "_multi" in name}
        assert layers == {f"{tower}.encoder_layer_{number}" for number in numbers}


def test_a_split_comes_back_under_its_names_and_not_under_others():
    torch.manual_seed(0)
    settings = {**vars(TINY), "text_depth": 2, "grounded_depth": 3}
    one, other = build(ModelSettings(**settings)), build(ModelSettings(**settings))
    stored = archive(one, first_grounded_layer=2)
    assert torch.equal(stored["grounded.encoder_layer_4_ffn_fc_0.w_0"], one.grounded_encoder.layers[2].ffn_in.weight.T)
    convert(other, key_maps(other, first_grounded_layer=2), stored, where="archive")
    for (name, a), b in zip(one.named_parameters(), other.parameters()):
        assert torch.equal(a, b), name
    with pytest.raises(WeightsError, match=r"grounded_encoder\.layers\.0"):
        convert(other, key_maps(other), stored, where="archive")


# ---- masked grounding ----


@torch.no_grad()
@pytest.mark.parametrize("positions", [False, True])
def test_masked_grounded_tokens_enter_as_nothing(positions):
    """A zero vector before the norm, so the norm's bias behind it, position and all; the others enter as ever."""
    model = lively_model(masked_grounding=True, grounding_positions=positions)
    hidden = torch.tensor([[True, False, False, True], [False] * 4, [False, True, True, False]])
    asked, entered = fused_input(model, {"m": Request(EVERYONE, EVERYONE, hidden)})
    _, plain = fused_input(model, {"m": Request(EVERYONE, EVERYONE)})
    rows = (asked["m"].starts + asked["m"].image_length)[:, None] + torch.arange(4)
    assert torch.equal(entered[rows[hidden]], model.ground_norm.bias.expand(4, -1))
    changed = (entered != plain).any(1)
    assert sorted(changed.nonzero()[:, 0].tolist()) == sorted(rows[hidden].tolist())


@torch.no_grad()
def test_the_head_of_masked_grounding_reads_the_dictionary():
    """Linear, GELU, LayerNorm, products with the entries, a bias for each (spec unimo2 §4.6)."""
    model = lively_model(masked_grounding=True)
    fused = model.fuse(towers_of(model)[0], {"pairs": REQUESTS["pairs"]})["pairs"]
    states, head = fused.ground(), model.masked_grounding
    for i in range(3):
        first = int(fused.starts[i] + fused.image_length[i])
        assert torch.equal(states[i], fused.hidden[first : first + 4])
    x = states @ head.transform.weight.T + head.transform.bias
    x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    expected = (x * head.norm.weight + head.norm.bias) @ model.dictionary.entries.T + head.bias
    torch.testing.assert_close(head(states, model.dictionary.entries), expected, rtol=0, atol=1e-4)


# ---- "Our Baseline" ----


def test_the_baseline_has_the_same_parameters_but_for_the_dictionary():
    """Spec unimo2 §2.7: vq_emb, topk_temperature and the grounded tokens' norm are missing, nothing else."""
    names = [{name for name, _ in lively_model(dictionary=size).named_parameters()} for size in (24, 0)]
    missing = {"dictionary.entries", "dictionary.scale", "ground_norm.weight", "ground_norm.bias"}
    assert names[0] - names[1] == missing and names[1] < names[0]
