"""What each slip of the published graph changes, said plainly, and that nothing changes while it is off."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from parity.golden_files import close, scenario
from parity.test_unimo2_golden import as_batch as published_batch
from parity.test_unimo2_golden import published_model
from tiny_unimo import rows_of
from tiny_unimo2 import PATCHES, as_batch, lively_model, no_texts, pack, random_images, random_rows
from torch import Tensor

from unimo.batch import GROUND, IMAGE, KNOWN, PADDING, TEXT, WRITTEN, Texts
from unimo.decoding.decoder import CachedDecoder, Given, pad_texts
from unimo.model.attention import MASK_BIAS, UNDERSTANDING_AND_GENERATION, Plan, attend, with_padding, with_padding_read
from unimo.model.build import ModelSettings, as_released, build
from unimo.model.unified import Request
from unimo.model.unimo2 import UNIMO2, Released

SWITCHES = [field.name for field in fields(Released)]
LENGTHS = [5, 9, 3]
EVERYONE = torch.arange(3)
PAD = 1
GROUNDED = 4  # of `lively_model`


def released(*switches: str, **options) -> UNIMO2:
    return lively_model(released=Released(**dict.fromkeys(switches, True)), **options)


def padded_and_packed(roles=TEXT) -> tuple[Texts, Texts, Tensor]:
    """The same texts with padding and without, and which padded tokens are real."""
    packed = pack(random_rows(LENGTHS), roles)
    padded, rows = pad_texts(packed, PAD)
    return padded, packed, torch.zeros(len(padded.ids), dtype=torch.bool).index_fill(0, rows, True)


def known_then_written(known: int = 2) -> list[Tensor]:
    return [torch.tensor([KNOWN] * known + [WRITTEN] * (n - known)) for n in LENGTHS]


# ---- off ----


@torch.no_grad()
@pytest.mark.parametrize("roles", [TEXT, "known and written"], ids=["read", "known and written"])
def test_while_all_are_off_padding_is_as_if_it_were_not_there(roles):
    model = lively_model()
    roles = known_then_written() if isinstance(roles, str) else roles
    padded, packed, real = padded_and_packed(roles)
    answers = []
    for texts in (padded, packed):
        towers = model.towers(as_batch(random_images(3), texts))
        fused = model.fuse(towers, {"pairs": Request(EVERYONE, EVERYONE)})["pairs"]
        mine = real.nonzero()[:, 0] if texts is padded else torch.arange(len(packed.ids))
        words = fused.words(mine, texts)
        answers.append([towers.words[mine], towers.text_votes, fused.codes, words, fused.image_cls(), fused.ground()])
    for a, b in zip(*answers):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_changes_nothing_where_it_has_nothing_to_say(switch):
    """Texts that are read beside an image or alone, without padding; but the contrastive score is asked of any."""
    answers = []
    for model in (lively_model(), released(switch)):
        towers = model.towers(as_batch(random_images(3), pack(random_rows(LENGTHS))))
        requests = {"pairs": Request(EVERYONE, EVERYONE), "texts": Request(None, EVERYONE)}
        fused = model.fuse(towers, requests | {"images": Request(EVERYONE, None)})["pairs"]
        answers.append([towers.text_votes, fused.codes, fused.hidden, model.embed(towers, "image")])
        answers[-1] += [model.embed(towers, "text")] * (switch != "raw_text_score")
    for a, b in zip(*answers, strict=True):
        assert torch.equal(a, b)


# ---- on, one at a time ----


@torch.no_grad()
def test_padding_votes():
    """A text's tally gains exactly the votes of its padding: sigmoid(scale * h . e), summed (spec unimo2 §2.4)."""
    padded, _, real = padded_and_packed()
    off, on = lively_model(), released("padding_votes")
    tallies = [model.towers(as_batch(random_images(0), padded)).text_votes for model in (off, on)]
    words, entries = on.encode_texts(padded), on.dictionary.entries
    expected = torch.zeros(3, len(entries))
    for i in range(len(padded.ids)):
        if not real[i]:
            expected[i // max(LENGTHS)] += torch.sigmoid(on.dictionary.scale * entries @ words[i])
    torch.testing.assert_close(tallies[1] - tallies[0], expected, rtol=0, atol=1e-4)
    assert (expected[1] == 0).all() and (expected[[0, 2]] > 0).all()  # the longest text has no padding
    codes = [
        model.fuse(model.towers(as_batch(random_images(0), padded)), {"x": Request(None, EVERYONE)})["x"].codes
        for model in (off, on)
    ]
    assert torch.equal(codes[0][1], codes[1][1]) and not torch.equal(codes[0], codes[1])


@torch.no_grad()
def test_only_patches_vote():
    """Beside an image, known words choose nothing any more; alone they do, and words that are read always do."""
    images, on, off = random_images(3), released("only_patches_vote"), lively_model()

    def codes(model: UNIMO2, roles, image: Tensor | None, text: Tensor | None) -> Tensor:
        texts = no_texts() if text is None else pack(random_rows(LENGTHS), roles)
        return model.fuse(model.towers(as_batch(images, texts)), {"x": Request(image, text)})["x"].codes

    by_themselves = codes(off, None, EVERYONE, None)
    assert torch.equal(codes(on, known_then_written(), EVERYONE, EVERYONE), by_themselves)
    assert not torch.equal(codes(off, known_then_written(), EVERYONE, EVERYONE), by_themselves)
    for roles, image in ((TEXT, EVERYONE), (WRITTEN, EVERYONE), (known_then_written(), None)):
        assert torch.equal(codes(on, roles, image, EVERYONE), codes(off, roles, image, EVERYONE))


def test_padding_read_opens_three_kinds_of_place_in_the_mask():
    """What is written sees padding, and padding sees image and ground (spec unimo2 §6.2); all else as before."""
    before, after = (torch.tensor(make(UNDERSTANDING_AND_GENERATION)) for make in (with_padding, with_padding_read))
    opened = {(int(q), int(k)) for q, k in (before != after).nonzero()}
    assert opened == {(WRITTEN, PADDING), (PADDING, IMAGE), (PADDING, GROUND)}
    assert not before[PADDING].any() and not before[:, PADDING].any()


@torch.no_grad()
def test_padding_read():
    """In the fused row, words being written change with the padding among the known ones; nothing before them does."""
    rows = [ids.numpy() for ids in random_rows(LENGTHS)]
    words, everyone = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    images = lively_model().encode_images(random_images(3))

    def logits(model: UNIMO2, numbers: list[int]) -> Tensor:
        return CachedDecoder(model, Given(images[numbers], [rows[i] for i in numbers])).advance(
            words[: len(numbers)], everyone[: len(numbers)]
        )

    off, on = lively_model(), released("padding_read")
    together, expected = logits(on, [0, 1, 2]), logits(off, [0, 1, 2])
    torch.testing.assert_close(together[1], expected[1], rtol=0, atol=2e-5)  # the longest has no padding beside it
    assert ((together - expected).abs().max(1).values > 1e-2).tolist() == [True, False, True]
    for i in range(3):  # alone there is none
        torch.testing.assert_close(logits(on, [i])[0], expected[i], rtol=0, atol=2e-5)

    padded, _, real = padded_and_packed(known_then_written())
    fused = []
    for model in (off, on):
        towers = model.towers(as_batch(random_images(3), padded))
        fused.append(model.fuse(towers, {"x": Request(EVERYONE, EVERYONE)})["x"])
    differ = [(rows_of(fused[0], i, padded) != rows_of(fused[1], i, padded)).any(1) for i in range(3)]
    for i, changed in enumerate(differ):
        before = 1 + PATCHES + GROUNDED + 2  # image, ground and known words
        mine = real[i * 9 : i * 9 + 9]
        assert not changed[:before].any()
        assert (changed[before:][mine[2:]] == (LENGTHS[i] < 9)).all()


@torch.no_grad()
def test_raw_text_score(golden):
    """The published score is the image's unit vector times the text's [CLS] as it is (spec unimo2 §4.3)."""
    x = scenario(golden / "unimo2", "pair")
    for on in (True, False):
        model = published_model(golden / "unimo2", released=on)
        towers = model.towers(published_batch(x, padded=False)[0])
        image, text = model.embed(towers, "image"), model.embed(towers, "text")
        lengths = text.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(image.norm(dim=-1), torch.ones(3))
        if on:
            close((image * text).sum(-1, keepdim=True), x["out.cmcl_score"])
            assert (lengths - 1).abs().min() > 0.1
            raw = lengths
        else:
            torch.testing.assert_close(lengths, torch.ones(3, 1))
            close((image * text).sum(-1, keepdim=True) * raw, x["out.cmcl_score"])


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
def test_projected_text_is_normalised_whatever_the_switch_says(shared):
    options = {"contrastive_projection": True, "shared_projection": shared, "grounding_projection": True}
    answers = []
    for model in (lively_model(**options), released("raw_text_score", **options)):
        towers = model.towers(as_batch(random_images(3), pack(random_rows(LENGTHS))))
        answers.append(model.embed(towers, "text"))
    torch.testing.assert_close(answers[1].norm(dim=-1), torch.ones(3))
    assert torch.equal(*answers)


# ---- the rest of the published graph ----


def test_as_released_turns_on_everything_and_nothing_else():
    for settings in (ModelSettings(size="tiny"), ModelSettings(patch=4, image_size=56, chosen=5, dropout=0.0)):
        theirs = as_released(settings)
        assert theirs.patch_padding == {16: 7, 4: 1}[settings.patch]
        assert all(getattr(theirs.released, switch) for switch in SWITCHES)
        assert replace(theirs, patch_padding=0, released=Released()) == settings
        assert as_released(theirs) == theirs
    assert not any(getattr(ModelSettings().released, switch) for switch in SWITCHES)
    with torch.device("meta"):
        model = build(as_released(ModelSettings(size="tiny")))
    assert model.patches.padding == 7 and model.released == Released(*[True] * len(SWITCHES))


@pytest.mark.parametrize("form", ["dense", "reference"])
def test_a_row_that_sees_nothing_is_an_unmasked_softmax(form):
    """The bias of -10,000 falls on all of its places alike and cancels (spec unimo2, V1); -inf would give NaN."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 6, 8, dtype=torch.float64, generator=generator).requires_grad_()
    role = torch.tensor([TEXT, TEXT, TEXT, TEXT, PADDING, PADDING])
    plan = Plan(torch.zeros(6, dtype=torch.int64), role, torch.arange(6))
    out = attend(q, k, v, plan, 1, form=form)
    scores = q @ k.T / 8**0.5
    torch.testing.assert_close(out[4:], scores[4:].softmax(-1) @ v, rtol=0, atol=1e-9)
    torch.testing.assert_close(out[:4], scores[:4, :4].softmax(-1) @ v[:4], rtol=0, atol=1e-12)
    assert MASK_BIAS == -1e4
    single = attend(*(x.detach().float() for x in (q, k, v)), plan, 1, form=form)
    torch.testing.assert_close(single.double(), out.detach(), rtol=0, atol=2e-3)  # rounded at 10,000, but finite
    (gradient,) = torch.autograd.grad(out.sum(), q)
    assert gradient.isfinite().all() and (gradient[4:] != 0).any()
