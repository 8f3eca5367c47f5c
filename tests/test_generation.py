"""Greedy writing: each word is what one pass over the finished text says, and no neighbour changes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model.tiny_unimo2 import as_batch, lively_model, no_texts, pack, random_pictures, random_rows
from objectives.tiny_batches import tiny_batch

from unimo.batch import KNOWN, WRITTEN, Texts
from unimo.generation import Cached, Given, Plain
from unimo.model.unified import Request
from unimo.model.unimo2 import UNIMO2
from unimo.objectives import Seq2SeqGeneration, step
from unimo.search import Limits, beam, greedy

CLS, END = 0, 2
KNOWN_LENGTHS = [6, 3, 11, 4]


def setting(kind: str) -> dict:
    """Four things to write about."""
    pictures = random_pictures(4)
    known = [row.numpy() for row in random_rows(KNOWN_LENGTHS)]
    return {"pictures": None if kind == "known" else pictures, "known": None if kind == "picture" else known}


def writer(model: UNIMO2, pictures, known, numbers=range(4), form=Cached):
    with torch.no_grad():
        images = None if pictures is None else model.encode_images(pictures[list(numbers)])
    return form(model, Given(images, None if known is None else [known[i] for i in numbers]))


def write(model: UNIMO2, pictures, known, numbers=range(4), form=Cached, **options) -> list[list[int]]:
    limits = {"cls": CLS, "end": END, "longest": 12, "blocked": (), **options}
    limits["blocked"] = (CLS, *limits["blocked"])
    return greedy(writer(model, pictures, known, numbers, form), Limits(**limits))


@torch.no_grad()
def likeliest(model: UNIMO2, picture, known: np.ndarray, written: list[int]) -> list[list[int]]:
    """All words in order of probability after each prefix of [CLS] + written, in one pass over the whole."""
    ids = torch.tensor([*known, CLS, *written])
    after = 1 + len(written)
    roles = torch.tensor([KNOWN] * len(known) + [WRITTEN] * after)
    positions = torch.cat([2 + torch.arange(len(known)), 2 + torch.arange(after)])
    texts = Texts(ids, positions, roles, torch.tensor([0, len(ids)]))
    towers = model.towers(as_batch(random_pictures(0) if picture is None else picture[None], texts))
    zero = torch.tensor([0])
    fused = model.fuse(towers, {"write": Request(None if picture is None else zero, zero)})["write"]
    return (
        model.word_logits(fused.words(torch.arange(len(known), len(ids)), texts)).argsort(-1, descending=True).tolist()
    )


@pytest.mark.parametrize("kind", ["picture", "known", "both"])
@pytest.mark.parametrize("options", [{}, {"dictionary": 0}], ids=["grounded", "baseline"])
def test_every_word_is_the_likeliest_of_one_pass_over_the_text(kind, options):
    model, given = lively_model(3, **options), setting(kind)
    answers = write(model, **given, shortest=2)
    assert len({tuple(answer) for answer in answers}) > 1  # they do depend on what is given
    for i, answer in enumerate(answers):
        picture = None if given["pictures"] is None else given["pictures"][i]
        known = np.zeros(0, np.int64) if given["known"] is None else given["known"][i]
        ranked = likeliest(model, picture, known, answer)
        for place, word in enumerate(answer):
            banned = {CLS} | ({END} if place < 2 else set())
            assert word == next(w for w in ranked[place] if w not in banned)
        if len(answer) < 12:
            assert next(w for w in ranked[len(answer)] if w != CLS) == END


@pytest.mark.parametrize("kind", ["picture", "known", "both"])
@pytest.mark.parametrize(
    "options", [{}, {"dictionary": 0}, {"grounding_method": "normal"}], ids=["grounded", "baseline", "normal"]
)
def test_what_is_remembered_says_what_is_computed_again(kind, options):
    """Rows that branch, end and change order, as a beam makes them; many rows go on one prefix."""
    model, given = lively_model(3, **options), setting(kind)
    plain, cached = (writer(model, **given, form=form) for form in (Plain, Cached))
    generator, rows = torch.Generator().manual_seed(0), 4
    for n in (4, 4, 9, 3, 6):
        parents = torch.randint(rows, (n,), generator=generator)
        words = torch.randint(3, 200, (n,), generator=generator)
        want, got = plain.advance(words, parents), cached.advance(words, parents)
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5)
        assert want.std(0).max() > 1e-2
        rows = n


@pytest.mark.parametrize("kind", ["picture", "known", "both"])
def test_a_beam_over_a_model_does_not_depend_on_form_or_batch(kind):
    model, given = lively_model(3), setting(kind)
    limits = Limits(cls=CLS, end=END, longest=8, shortest=2)
    together = beam(writer(model, **given), limits, width=3)
    assert [[told.words for told in told] for told in beam(writer(model, **given, form=Plain), limits, width=3)] == [
        [told.words for told in told] for told in together
    ]
    for i in range(4):
        alone = beam(writer(model, **given, numbers=[i]), limits, width=3)[0]
        assert [told.words for told in alone] == [told.words for told in together[i]]


@pytest.mark.parametrize("kind", ["picture", "known", "both"])
def test_answers_do_not_depend_on_the_batch(kind):
    model, given = lively_model(3), setting(kind)
    alone = [write(model, **given, numbers=[i])[0] for i in range(4)]
    assert write(model, **given) == alone
    assert write(model, **given, numbers=[2, 0, 3, 1]) == [alone[i] for i in (2, 0, 3, 1)]


def test_limits_are_kept():
    model, given = lively_model(3), setting("picture")
    # Make the end almost certain, so that `shortest` is what keeps the writing going.
    with torch.no_grad():
        model.language_model.bias[END] = 1000.0
    assert write(model, **given) == [[]] * 4
    assert [len(answer) for answer in write(model, **given, shortest=5)] == [5] * 4
    with torch.no_grad():
        model.language_model.bias[END] = -1000.0
        model.language_model.bias[50] = 500.0
    assert write(model, **given, longest=7) == [[50] * 7] * 4
    for answer in write(model, **given, longest=7, blocked=(50, 51)):
        assert len(answer) == 7 and not {50, 51, CLS, END} & set(answer)
    assert write(model, **given, longest=0) == [[]] * 4


def test_nothing_to_write_about():
    model = lively_model()
    for form in (Plain, Cached):
        assert greedy(form(model, Given(model.encode_images(random_pictures(0)))), Limits(cls=CLS, end=END)) == []


@torch.no_grad()
def test_a_picture_chooses_its_ground_alone():
    """What is written never votes: the codes while writing are those of the picture by itself."""
    model, pictures = lively_model(), random_pictures(2)
    alone = model.fuse(model.towers(as_batch(pictures, no_texts())), {"x": Request(torch.arange(2), None)})["x"]
    texts = pack(random_rows([5, 9]), WRITTEN)
    towers = model.towers(as_batch(pictures, texts))
    writing = model.fuse(towers, {"x": Request(torch.arange(2), torch.arange(2))})["x"]
    assert torch.equal(alone.codes, writing.codes)
    for i in range(2):  # nor do the picture's and the ground's states know what is written
        mine, theirs = int(alone.starts[i]), int(writing.starts[i])
        torch.testing.assert_close(
            alone.hidden[mine : mine + 21], writing.hidden[theirs : theirs + 21], rtol=0, atol=1e-5
        )


def test_a_model_that_learned_captions_by_heart_writes_them():
    objectives = {"seq2seq": Seq2SeqGeneration()}
    batch = tiny_batch(objectives.values(), pairs=4)
    torch.manual_seed(0)
    model = UNIMO2(
        **{"width": 32, "heads": 2, "image_depth": 1, "text_depth": 1, "grounded_depth": 1, "image_size": 16},
        **{"patch": 4, "vocabulary": 211, "positions": 64, "dictionary": 24, "chosen": 4, "dropout": 0.0},
        attention_dropout=0.0,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        parts, _ = step(model, batch, objectives)
        part = parts["seq2seq.pairs"]
        optimizer.zero_grad()
        (part.total / part.count).backward()
        optimizer.step()
    model.eval()
    captions = [ids.tolist() for ids in torch.tensor_split(batch.texts.ids, batch.texts.offsets[1:-1])]
    with torch.no_grad():
        images = model.encode_images(batch.pixels)
    limits = Limits(cls=CLS, end=END, longest=20)
    assert greedy(Cached(model, Given(images)), limits) == [ids[1:-1] for ids in captions]
    assert greedy(Plain(model, Given(images)), limits) == [ids[1:-1] for ids in captions]
