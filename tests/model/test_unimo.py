"""UNIMO by its own properties: what is summed, who sees whom, what is read off; layers against torch's own."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_unimo import FEATURES, detected, lively_unimo, random_regions, regions_batch, rows_of
from tiny_unimo2 import no_texts, pack, random_rows, torchs_own
from torch import Tensor, nn

from unimo.batch import IMAGE, KNOWN, TEXT, WRITTEN, Texts
from unimo.data.records import dialogue_record
from unimo.data.regions import stack_regions
from unimo.model.build import ModelSettings, build
from unimo.model.unified import Request, Towers
from unimo.model.unimo import UNIMO

COUNTS = [4, 1, 6, 3]
LENGTHS = [5, 12, 3, 9]
EVERYONE = torch.arange(4)


def everything(model: UNIMO, roles=TEXT, counts=COUNTS, lengths=LENGTHS) -> tuple[Towers, Texts]:
    texts = pack(random_rows(lengths), roles)
    return model.towers(regions_batch(random_regions(counts), texts)), texts


def known_and_written(lengths: list[int], known: int = 2) -> list[Tensor]:
    return [torch.tensor([KNOWN] * known + [WRITTEN] * (n - known)) for n in lengths]


# ---- sizes ----


@pytest.mark.parametrize("size, published", [("base", 127_457_625), ("large", 359_616_601)])
def test_parameter_counts_are_the_published_ones(size, published):
    """Spec unimo §1.2. What is built beside has the size of plain linear maps and tables."""

    def count(**options) -> int:
        with torch.device("meta"):
            model = build(ModelSettings(member="unimo", size=size, **options))
        return sum(parameter.numel() for parameter in model.parameters())

    width = {"base": 768, "large": 1024}[size]
    assert count() == published
    assert count(matching=1) - published == width + 1
    assert count(matching=2) - published == 2 * (width + 1)
    assert count(region_heads=True) - published == (width + 1) * (2048 + 1601)
    assert count(dialogue=True) - published == (3 + 16) * width
    assert count(fusion="prefix") == published


def test_norms_and_initial_weights_are_as_specified():
    """The retrieval head too begins as all linear maps do (theirs: Xavier, §6.6)."""
    torch.manual_seed(0)
    model = UNIMO(width=64, heads=4, depth=2, vocabulary=300, region_heads=True, matching=1, dialogue=True)
    for name, part in model.named_modules():
        if isinstance(part, nn.LayerNorm):
            assert part.eps == 1e-5 and (part.weight == 1).all() and (part.bias == 0).all(), name
        elif isinstance(part, nn.Linear | nn.Embedding):
            assert part.weight.abs().max() <= 0.04, name  # cut at twice 0.02
            assert part.weight.numel() < 1000 or part.weight.std().item() == pytest.approx(0.0176, rel=0.06), name
            assert isinstance(part, nn.Embedding) or (part.bias == 0).all(), name


# ---- what enters the Transformer ----


def plain_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    return x * norm.weight + norm.bias


@torch.no_grad()
def test_dialogue_tables_are_added_where_somebody_speaks_and_only_there():
    model = lively_unimo(dialogue=True)
    record = dialogue_record([[11, 12], [21]], None, passage=[51, 52], max_source_length=20, max_target_length=9)
    ids, positions, speakers, turns = (
        torch.from_numpy(getattr(record, name)) for name in ("ids", "positions", "speakers", "turns")
    )
    assert len(speakers.unique()) == 3 and len(turns.unique()) == 3
    table = model.words
    assert table.speaker.weight.shape == (3, 16) and table.turn.weight.shape == (16, 16)
    plain = table.word.weight[ids] + table.position.weight[positions]
    spoken = plain + table.speaker.weight[speakers] + table.turn.weight[turns]
    texts = Texts(ids, positions, torch.full_like(ids, KNOWN), torch.tensor([0, len(ids)]), speakers, turns)
    silent = dataclasses.replace(texts, speakers=None, turns=None)
    torch.testing.assert_close(model.encode_texts(texts), plain_norm(spoken, table.norm))
    torch.testing.assert_close(model.encode_texts(silent), plain_norm(plain, table.norm))
    with pytest.raises(AssertionError, match="without tables for dialogue"):
        lively_unimo().encode_texts(texts)


# ---- the Transformer ----


def may_see(roles: list[int], fusion: str) -> Tensor:
    """Spec unimo §1.8 and our prefix fusion, said once more: (L, L), row looks at column."""
    allowed = torch.zeros(len(roles), len(roles), dtype=torch.bool)
    for i, looks in enumerate(roles):
        for j, seen in enumerate(roles):
            if seen == WRITTEN:
                allowed[i, j] = looks == WRITTEN and j <= i
            elif looks == IMAGE and seen != IMAGE:
                allowed[i, j] = fusion == "joint"
            else:
                allowed[i, j] = True
    return allowed


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["joint", "prefix"])
@pytest.mark.parametrize("kind", ["read", "written", "known and written"])
@pytest.mark.parametrize("with_image", [True, False], ids=["image", "text alone"])
def test_layers_are_those_of_torch_under_the_mask(fusion, kind, with_image):
    model = lively_unimo(fusion=fusion)
    words = {"read": [TEXT] * 9, "written": [WRITTEN] * 9, "known and written": [KNOWN] * 4 + [WRITTEN] * 5}[kind]
    towers, _ = everything(model, [torch.tensor(words)], [5], [9])
    one = torch.tensor([0])
    fused = model.fuse(towers, {"x": Request(one if with_image else None, one)})["x"]
    row = torch.cat([towers.images[0], towers.words]) if with_image else towers.words
    allowed = may_see([IMAGE] * (len(row) - 9) + words, fusion)
    expected = torchs_own(model.encoder)(row[None], mask=~allowed)[0]
    torch.testing.assert_close(fused.hidden, expected, rtol=0, atol=2e-5)


# ---- partners ----


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["joint", "prefix"])
@pytest.mark.parametrize("kind", ["pairs", "texts", "images", "captions"])
def test_partners_their_order_and_rows_of_padding_change_no_answer(fusion, kind):
    model = lively_unimo(fusion=fusion, matching=1)
    images, rows = detected(COUNTS), random_rows(LENGTHS)
    roles = known_and_written(LENGTHS) if kind == "captions" else [torch.full((n,), TEXT) for n in LENGTHS]

    def answers(order: list[int]) -> dict[int, dict[str, Tensor]]:
        regions = stack_regions([images[i] for i in order])
        for values in (regions.features, regions.boxes):
            for row, length in zip(values, regions.lengths):
                row[length:] = torch.nan  # whoever read it would show it
        texts = pack([rows[i] for i in order], [roles[i] for i in order])
        towers = model.towers(regions_batch(regions, texts))
        everyone = torch.arange(len(order))
        request = Request(None if kind == "texts" else everyone, None if kind == "images" else everyone)
        fused = model.fuse(towers, {"all": request})["all"]
        found = {i: {"states": rows_of(fused, place, texts)} for place, i in enumerate(order)}
        for place, i in enumerate(order):
            if kind == "pairs":
                found[i]["match"] = model.match_logits(fused)[place]
            if kind != "images":
                mine = torch.arange(texts.offsets[place], texts.offsets[place + 1])
                found[i]["words"] = model.word_logits(fused.words(mine, texts))
            if kind in ("images", "texts"):
                found[i]["alone"] = model.embed(towers, kind[:-1])[place]
        return found

    alone = {i: answers([i])[i] for i in range(4)}
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 1]):
        for i, together in answers(order).items():
            for name, value in together.items():
                torch.testing.assert_close(value, alone[i][name], rtol=0, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["joint", "prefix"])
def test_a_sample_without_regions_is_a_text_without_an_image(fusion):
    model = lively_unimo(fusion=fusion)
    towers, texts = everything(model)
    towers.image_lengths = torch.tensor([5, 0, 7, 0])
    pairs = model.fuse(towers, {"pairs": Request(EVERYONE, EVERYONE)})["pairs"]
    alone = model.fuse(towers, {"texts": Request(None, EVERYONE)})["texts"]
    for i in (1, 3):
        torch.testing.assert_close(rows_of(pairs, i, texts), rows_of(alone, i, texts), rtol=0, atol=2e-5)
        torch.testing.assert_close(pairs.text_cls()[i], alone.text_cls()[i], rtol=0, atol=2e-5)


# ---- joint and prefix fusion ----


@pytest.mark.parametrize("roles", [TEXT, WRITTEN, "known and written"], ids=["read", "written", "known and written"])
@pytest.mark.parametrize("fusion", ["joint", "prefix"])
def test_whether_an_image_looks_at_its_text(fusion, roles):
    """In joint fusion at what is read or known; in prefix fusion, exactly never. Texts look at images in both."""
    model = lively_unimo(fusion=fusion)
    roles = known_and_written(LENGTHS) if roles == "known and written" else roles
    towers, texts = everything(model, roles)
    fused = model.fuse(towers, {"pairs": Request(EVERYONE, EVERYONE)})["pairs"]
    images = torch.cat([fused.hidden[s : s + n] for s, n in zip(fused.starts, fused.image_length)])
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))  # a LayerNorm's plain sum never moves
    reaches = torch.autograd.grad((images @ direction).sum(), towers.words, retain_graph=True)[0].abs().sum(1) > 0
    looked_at = (texts.roles != WRITTEN) & (fusion == "joint")
    assert torch.equal(reaches, looked_at)
    words = fused.words(torch.arange(len(texts.ids)), texts)
    back = torch.autograd.grad((words @ direction).sum(), towers.images)[0].abs().sum(2) > 0
    assert torch.equal(back, torch.arange(back.shape[1]) < towers.image_lengths[:, None])


@torch.no_grad()
def test_both_fusions_say_the_same_where_nothing_is_read_beside_an_image():
    """The only difference is whether an image sees what is read or known beside it."""
    joint, prefix = (lively_unimo(fusion=fusion) for fusion in ("joint", "prefix"))
    requests = {
        "texts": Request(None, EVERYONE),
        "images": Request(EVERYONE, None),
        "both": Request(EVERYONE, EVERYONE),
    }
    for roles, same in ((TEXT, False), (known_and_written(LENGTHS), False), (WRITTEN, True)):
        towers, _ = everything(joint, roles)
        for name, request in requests.items():
            one, other = (model.fuse(towers, {name: request})[name] for model in (joint, prefix))
            equal = torch.allclose(one.hidden, other.hidden, rtol=0, atol=1e-6)
            assert equal == (same or name != "both"), (roles, name)


@torch.no_grad()
def test_an_image_beside_many_texts_stays_what_it_is_alone():
    """Prefix fusion: the same states beside any text, so they can be computed once; joint: others beside each."""
    for fusion in ("joint", "prefix"):
        model = lively_unimo(fusion=fusion)
        towers, texts = everything(model)
        many = model.fuse(towers, {"many": Request(torch.full((4,), 2), EVERYONE)})["many"]
        alone = model.fuse(towers, {"alone": Request(torch.tensor([2]), None)})["alone"]
        for i in range(4):
            image = rows_of(many, i, texts)[:7]
            assert torch.allclose(image, alone.hidden, rtol=0, atol=2e-5) == (fusion == "prefix")
            single = model.fuse(towers, {"one": Request(torch.tensor([2]), torch.tensor([i]))})["one"]
            torch.testing.assert_close(rows_of(many, i, texts), single.hidden, rtol=0, atol=2e-5)


# ---- what is read off ----


@torch.no_grad()
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("matching_fusion", ["product", "sum"])
def test_matching_joins_two_relu_poolers(outputs, matching_fusion):
    model = lively_unimo(matching=outputs, matching_fusion=matching_fusion)
    towers, texts = everything(model)
    fused = model.fuse(towers, {"pairs": Request(EVERYONE, EVERYONE)})["pairs"]
    got = model.match_logits(fused)
    assert got.shape == (4, outputs)
    for i in range(4):
        states, pooled = rows_of(fused, i, texts), []
        for state, pooler in ((states[0], model.image_pooler), (states[COUNTS[i] + 1], model.text_pooler)):
            pooled.append((pooler.linear.weight @ state + pooler.linear.bias).clamp_min(0))
        joined = pooled[0] * pooled[1] if matching_fusion == "product" else pooled[0] + pooled[1]
        torch.testing.assert_close(got[i], model.matching.linear.weight @ joined + model.matching.linear.bias)
    assert got.std() > 0.01


def test_without_a_matching_head_nothing_is_matched():
    model = lively_unimo()
    towers, _ = everything(model)
    with pytest.raises(AssertionError, match="without a matching head"):
        model.match_logits(model.fuse(towers, {"pairs": Request(EVERYONE, EVERYONE)})["pairs"])


@torch.no_grad()
def test_region_heads_answer_with_features_and_classes():
    model = lively_unimo(region_heads=True)
    towers, _ = everything(model)
    states = model.fuse(towers, {"images": Request(EVERYONE, None)})["images"].hidden
    rows = sum(COUNTS) + 4
    assert model.region_features(states).shape == (rows, FEATURES) and model.region_classes(states).shape == (rows, 5)
    assert lively_unimo().region_features is None and lively_unimo().region_classes is None


@torch.no_grad()
@pytest.mark.parametrize("side", ["image", "text"])
def test_an_embedding_is_the_pooled_first_state_of_a_pass_alone_with_length_1(side):
    """Whatever stands beside it in the batch, in joint fusion too (spec unimo §3.5 B)."""
    model = lively_unimo()
    towers, _ = everything(model)
    got = model.embed(towers, side)
    assert got.shape == (4, 16)
    torch.testing.assert_close(got.norm(dim=-1), torch.ones(4))
    pooler = (model.image_pooler if side == "image" else model.text_pooler).linear
    for i in range(4):
        if side == "image":
            alone = model.towers(regions_batch(stack_regions(detected(COUNTS)[i : i + 1]), no_texts()))
            request = Request(torch.tensor([0]), None)
        else:
            alone = model.towers(regions_batch(None, pack(random_rows(LENGTHS)[i : i + 1])))
            request = Request(None, torch.tensor([0]))
        first = model.fuse(alone, {"x": request})["x"].hidden[0]
        pooled = (pooler.weight @ first + pooler.bias).clamp_min(0)
        torch.testing.assert_close(got[i], pooled / pooled.norm(), rtol=0, atol=2e-5)


@torch.no_grad()
def test_positions_may_begin_as_waves_in_which_only_the_distance_counts():
    settings = {"member": "unimo", "width": 24, "heads": 4, "depth": 1, "region_size": 6, "positions": 40}
    torch.manual_seed(0)
    plain = build(ModelSettings("tiny", **settings))
    torch.manual_seed(0)
    ours = build(ModelSettings("tiny", **settings, initial_waves=0.5, initial_boxes=8.0))
    table = ours.words.position.weight
    products = table @ table.T
    for distance in range(6):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-4)
    assert (products.diagonal(1) < products.diagonal(0)[:-1]).all()
    torch.testing.assert_close(table.norm(dim=1), torch.full((40,), 0.5 * 12**0.5))
    torch.testing.assert_close(ours.regions.box.weight, 8 * plain.regions.box.weight)
    changed = {name for (name, a), b in zip(plain.named_parameters(), ours.parameters()) if not torch.equal(a, b)}
    assert changed == {"words.position.weight", "regions.box.weight"}
