"""What may influence what: packing partners and later words nothing, text and image by the ground alone."""

from __future__ import annotations

import pytest
import torch
from tiny_unimo import lively_unimo, random_regions, regions_batch
from tiny_unimo2 import as_batch, lively_model, pack, random_images, random_rows
from torch import Tensor

from unimo.batch import GROUND, IMAGE, KNOWN, TEXT, WRITTEN
from unimo.model.attention import NO, UNDERSTANDING_AND_GENERATION
from unimo.model.unified import Fused, Request, Towers
from unimo.model.unimo2 import UNIMO2

LENGTHS = [5, 12, 3, 9, 9, 20]
KINDS = {  # what one sequence may be: role of its words, has it an image, has it a text
    "pair": (TEXT, True, True),
    "passage": (TEXT, False, True),
    "image": (TEXT, True, False),
    "caption": (WRITTEN, True, True),
}


def request_of(image: list[int] | None, text: list[int] | None) -> Request:
    return Request(*(None if numbers is None else torch.tensor(numbers) for numbers in (image, text)))


def rows_of(fused: Fused, i: int) -> Tensor:
    """All states of one sequence."""
    ends = torch.cat([fused.starts[1:], torch.tensor([len(fused.hidden)])])
    return fused.hidden[fused.starts[i] : ends[i]]


# ---- partners ----


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"dictionary": 0}, {"grounding_method": "normal"}, {"grounding_projection": True}],
    ids=str,
)
def test_partners_and_their_order_change_no_answer(kind, options):
    role, has_image, has_text = KINDS[kind]
    model = lively_model(**options)
    images, rows = random_images(len(LENGTHS)), random_rows(LENGTHS)

    def answers(order: list[int]) -> dict[int, dict[str, Tensor]]:
        towers = model.towers(as_batch(images[order], pack([rows[i] for i in order], role)))
        numbers = list(range(len(order)))
        fused = model.fuse(towers, {"all": request_of(numbers if has_image else None, numbers if has_text else None)})[
            "all"
        ]
        found = {}
        for place, i in enumerate(order):
            found[i] = {"states": rows_of(fused, place)}
            if fused.codes is not None:
                found[i] |= {"codes": fused.codes[place], "ground": fused.ground()[place]}
                found[i] |= {"image votes": towers.image_votes[place], "text votes": towers.text_votes[place]}
            if has_image and has_text:
                found[i]["match"] = model.match_logits(fused)[place]
            if has_text:
                first, last = towers.texts.offsets[place], towers.texts.offsets[place + 1]
                found[i]["words"] = model.word_logits(fused.words(torch.arange(first, last), towers.texts))
        return found

    alone = {i: answers([i])[i] for i in range(len(LENGTHS))}
    for order in ([0, 1, 2, 3, 4, 5], [5, 0, 3, 1, 4, 2], [2, 5]):
        for i, together in answers(order).items():
            assert together.keys() == alone[i].keys()
            for name, value in together.items():
                torch.testing.assert_close(value, alone[i][name], rtol=0, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
def test_requests_of_a_step_do_not_disturb_each_other():
    model = lively_model()
    towers = model.towers(as_batch(random_images(3), pack(random_rows([4, 9, 6]))))
    requests = {
        "pairs": request_of([0, 1, 2], [0, 1, 2]),
        "swapped": request_of([1, 0], [0, 1]),
        "texts": request_of(None, [2, 2, 0]),
        "images": request_of([2], None),
    }
    together = model.fuse(towers, requests)
    for name, request in requests.items():
        alone = model.fuse(towers, {name: request})[name]
        assert torch.equal(together[name].codes, alone.codes)
        for i in range(len(request)):
            mine = slice(together[name].starts[i], together[name].starts[i] + len(rows_of(alone, i)))
            torch.testing.assert_close(together[name].hidden[mine], rows_of(alone, i), rtol=0, atol=2e-5)
        if request.image is not None:
            torch.testing.assert_close(together[name].image_cls(), alone.image_cls(), rtol=0, atol=2e-5)
        if request.text is not None:
            torch.testing.assert_close(together[name].text_cls(), alone.text_cls(), rtol=0, atol=2e-5)
    assert torch.equal(together["texts"].codes[0], together["texts"].codes[1])
    assert not torch.equal(together["pairs"].codes[0], together["swapped"].codes[0])  # else nothing was shown


@torch.no_grad()
def test_fused_words_finds_each_texts_own_words():
    """`words` must look up by text, whatever order the request names the texts in."""
    model = lively_model()
    texts = pack(random_rows([4, 9, 6]))
    towers = model.towers(as_batch(random_images(3), texts))
    request = request_of([2, 0], [2, 0])
    fused = model.fuse(towers, {"some": request})["some"]
    asked = torch.tensor([13, 18, 0, 3])  # text 2 holds tokens 13 .. 18, text 0 holds 0 .. 3
    first = fused.starts + fused.image_length + fused.ground_length
    expected = fused.hidden[torch.stack([first[0], first[0] + 5, first[1], first[1] + 3])]
    assert torch.equal(fused.words(asked, texts), expected)


# ---- later words ----


def states(model: UNIMO2, images: Tensor | None, ids: Tensor, roles: Tensor) -> tuple[Towers, Fused]:
    texts = pack([ids], [roles])
    towers = model.towers(as_batch(random_images(0) if images is None else images, texts))
    return towers, model.fuse(towers, {"all": request_of(None if images is None else [0], [0])})["all"]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"dictionary": 0}], ids=["grounded", "baseline"])
@pytest.mark.parametrize("known", [0, 4])
@pytest.mark.parametrize("with_image", [True, False], ids=["image", "text alone"])
def test_a_written_word_changes_nothing_before_it(options, known, with_image):
    model, ids = lively_model(**options), random_rows([12])[0]
    images = random_images(1) if with_image else None
    roles = torch.tensor([KNOWN] * known + [WRITTEN] * (12 - known))
    before, fused = states(model, images, ids, roles)
    first_word = len(fused.hidden) - 12
    for changed in range(max(known, 1), 12):
        other = ids.clone()
        other[changed] = 4 + (ids[changed] + 96) % 200  # another word
        after, refused = states(model, images, other, roles)
        assert torch.equal(before.words[:changed], after.words[:changed])
        assert torch.equal(fused.hidden[: first_word + changed], refused.hidden[: first_word + changed])
        assert not torch.equal(fused.hidden[first_word + changed :], refused.hidden[first_word + changed :])
        if model.dictionary is not None:
            assert torch.equal(before.text_votes, after.text_votes)  # what is written chooses no ground
            assert torch.equal(fused.codes, refused.codes)


@pytest.mark.parametrize("role", [WRITTEN, TEXT], ids=["written", "read"])
def test_no_gradient_from_a_word_to_later_ones(role):
    """Exactly zero, where a word that is read does look ahead (so the measure can see it)."""
    model, ids = lively_model(), random_rows([10])[0]
    _, fused = states(model, random_images(1), ids, torch.full((10,), role))
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))  # a LayerNorm's plain sum never moves
    for asked in range(9):
        model.zero_grad()
        (fused.words(torch.tensor([asked]), pack([ids])) @ direction).sum().backward(retain_graph=True)
        reaches = model.words.word.weight.grad[ids].abs().sum(1) > 0  # no id occurs twice
        expected = torch.arange(10) <= asked if role == WRITTEN else torch.ones(10, dtype=torch.bool)
        assert torch.equal(reaches, expected)


def test_image_and_ground_get_nothing_from_written_words():
    model, ids = lively_model(), random_rows([10])[0]
    for role, silent in ((WRITTEN, True), (TEXT, False)):
        towers, fused = states(model, random_images(1), ids, torch.full((10,), role))
        assert bool((towers.text_votes == 0).all()) == silent
        gradient = torch.autograd.grad(fused.hidden[: len(fused.hidden) - 10].square().sum(), towers.words)[0]
        assert bool((gradient == 0).all()) == silent


# ---- text and image ----


def without(table, query: int, key: int):
    """The table with one permission withdrawn."""
    return tuple(
        tuple(NO if (q, k) == (query, key) else rule for k, rule in enumerate(row)) for q, row in enumerate(table)
    )


def cross_gradients(model: UNIMO2) -> tuple[float, float]:
    """Largest gradient of the words' outputs in the image's tower, and the other way round."""
    towers = model.towers(as_batch(random_images(2), pack(random_rows([7, 4]))))
    fused = model.fuse(towers, {"pairs": request_of([0, 1], [0, 1])})["pairs"]
    images = torch.cat([fused.hidden[s : s + n] for s, n in zip(fused.starts, fused.image_length)])
    words = fused.words(torch.arange(11), towers.texts)
    found = []
    for outputs, inputs in (
        (words, (model.patches, model.image_encoder)),
        (images, (model.words, model.text_encoder)),
    ):
        parameters = [p for module in inputs for p in module.parameters()]
        gradients = torch.autograd.grad(
            outputs.square().sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        found.append(max(float(gradient.abs().max()) for gradient in gradients))
    return found[0], found[1]


def test_ground_is_the_only_bridge_between_text_and_image():
    whole = lively_model()
    assert min(cross_gradients(whole)) > 1e-3

    cut = lively_model()
    for query in (IMAGE, TEXT):
        cut.table = without(cut.table, query, GROUND)
    assert cross_gradients(cut) == (0.0, 0.0)

    no_ground = lively_model(dictionary=0)
    no_ground.table = UNDERSTANDING_AND_GENERATION
    assert cross_gradients(no_ground) == (0.0, 0.0)

    assert min(cross_gradients(lively_model(dictionary=0))) > 1e-3  # the baseline lets both meet directly


def test_the_choice_of_entries_moves_the_text_but_carries_no_gradient():
    """With the grounded tokens blind to the image, only the choice still depends on it."""
    model = lively_model()
    model.table = without(model.table, GROUND, IMAGE)
    assert cross_gradients(model)[0] == 0.0
    ids, roles = random_rows([7])[0], torch.full((7,), TEXT)
    (towers, one), (_, other) = (states(model, random_images(1, seed), ids, roles) for seed in (0, 1))
    assert not towers.image_votes.requires_grad and not towers.text_votes.requires_grad
    assert not torch.equal(one.codes, other.codes)
    assert not torch.allclose(one.text_cls(), other.text_cls())
    # The entries themselves learn from what they were used for: they enter the network as they are.
    gradient = torch.autograd.grad(one.text_cls().square().sum(), model.dictionary.entries)[0]
    assert set(gradient.abs().sum(1).nonzero()[:, 0].tolist()) == set(one.codes[0].tolist())


@torch.no_grad()
def test_masked_ground_hides_the_entry_but_keeps_its_place():
    model = lively_model(masked_grounding=True)
    towers = model.towers(as_batch(random_images(1), pack(random_rows([5]))))
    hidden = torch.tensor([[True, False, False, False]])
    plain, masked = (
        model.fuse(towers, {"m": Request(torch.tensor([0]), torch.tensor([0]), mask)})["m"] for mask in (None, hidden)
    )
    assert torch.equal(plain.codes, masked.codes) and len(plain.hidden) == len(masked.hidden)
    model.dictionary.entries[plain.codes[0, 0]] += 1.0  # towers and votes are the old ones
    again = model.fuse(towers, {"m": Request(torch.tensor([0]), torch.tensor([0]), hidden)})["m"]
    assert torch.equal(masked.hidden, again.hidden)
    assert not torch.equal(plain.hidden, masked.hidden)


# ---- what is not read ----


@pytest.mark.parametrize("member", ["unimo", "unimo2"])
def test_a_last_layer_worked_out_where_it_is_read_is_the_whole_one(member):
    found = {}
    for whole in (True, False):
        texts = pack(random_rows(LENGTHS))
        if member == "unimo":
            model, batch = lively_unimo(), regions_batch(random_regions([3, 4]), texts)
        else:
            model, batch = lively_model(), as_batch(random_images(2), texts)
        requests = {"pairs": request_of([0, 1, 1], [2, 0, 1]), "words": request_of(None, [1, 2])}
        fused = model.fuse(model.towers(batch), requests, whole=whole)
        rows = torch.tensor([3, 1, 1, 0])  # of text 0: out of order, one twice
        read = [fused["pairs"].image_cls(), fused["pairs"].text_cls(), fused["words"].text_cls()]
        read += [fused["pairs"].words(rows, batch.texts), fused["pairs"].states.at(rows[:0])]
        weights = torch.linspace(-1, 1, read[0].shape[1])
        sum((x * weights).sum() for x in read).backward()
        gradients = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
        found[whole] = read, gradients, fused["pairs"].states.read, len(fused["pairs"].states)
    (read, gradients, all_rows, n), (lazily, lazy_gradients, few, _) = found[True], found[False]
    assert few < all_rows == n
    for one, other in zip(read, lazily):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
    assert gradients.keys() == lazy_gradients.keys() and len(gradients) > 20
    for name, gradient in gradients.items():
        torch.testing.assert_close(lazy_gradients[name], gradient, rtol=0, atol=2e-5, msg=name)
