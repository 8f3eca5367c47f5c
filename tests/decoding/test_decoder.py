"""Writing by both members: each word is what one pass over the finished text says, and no neighbour changes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_batches import tiny_batch
from tiny_unimo import lively_unimo, random_regions
from tiny_unimo2 import as_batch, lively_model, no_texts, pack, random_images, random_rows
from torch import Tensor

from unimo.batch import WRITTEN, Texts
from unimo.data.records import Record, dialogue_record, seq2seq_record
from unimo.decoding.beam_search import GenerationConfig, beam, greedy, sample
from unimo.decoding.decoder import CachedDecoder, Given, UncachedDecoder, log_likelihood
from unimo.model.unified import Request, Towers, Unified
from unimo.model.unimo import UNIMO
from unimo.model.unimo2 import UNIMO2
from unimo.objectives import Seq2SeqGeneration, step

CLS, END = 0, 2
KNOWN_LENGTHS = [6, 3, 11, 4]


def setting(kind: str) -> dict:
    """Four things to write about."""
    images = random_images(4)
    known = [row.numpy() for row in random_rows(KNOWN_LENGTHS)]
    return {"images": None if kind == "known" else images, "known": None if kind == "image" else known}


def decoder(model: UNIMO2, images, known, numbers=range(4), form=CachedDecoder):
    with torch.no_grad():
        encoded = None if images is None else model.encode_images(images[list(numbers)])
    return form(model, Given(encoded, None if known is None else [known[i] for i in numbers]))


def write(model: UNIMO2, images, known, numbers=range(4), form=CachedDecoder, **options) -> list[list[int]]:
    limits = {"cls": CLS, "end": END, "max_length": 12, "blocked": (), **options}
    limits["blocked"] = (CLS, *limits["blocked"])
    return greedy(decoder(model, images, known, numbers, form), GenerationConfig(**limits))


def test_limits_are_kept():
    model, given = lively_model(3), setting("image")
    # Make the end almost certain, so that `shortest` is what keeps the writing going.
    with torch.no_grad():
        model.language_model.bias[END] = 1000.0
    assert write(model, **given) == [[]] * 4
    assert [len(answer) for answer in write(model, **given, min_length=5)] == [5] * 4
    with torch.no_grad():
        model.language_model.bias[END] = -1000.0
        model.language_model.bias[50] = 500.0
    assert write(model, **given, max_length=7) == [[50] * 7] * 4
    for answer in write(model, **given, max_length=7, blocked=(50, 51)):
        assert len(answer) == 7 and not {50, 51, CLS, END} & set(answer)
    assert write(model, **given, max_length=0) == [[]] * 4


def test_nothing_to_write_about():
    model = lively_model()
    for form in (UncachedDecoder, CachedDecoder):
        assert (
            greedy(form(model, Given(model.encode_images(random_images(0)))), GenerationConfig(cls=CLS, end=END)) == []
        )


@torch.no_grad()
def test_an_image_chooses_its_ground_alone():
    """What is written never votes: the codes while writing are those of the image by itself."""
    model, images = lively_model(), random_images(2)
    alone = model.fuse(model.towers(as_batch(images, no_texts())), {"x": Request(torch.arange(2), None)})["x"]
    texts = pack(random_rows([5, 9]), WRITTEN)
    towers = model.towers(as_batch(images, texts))
    writing = model.fuse(towers, {"x": Request(torch.arange(2), torch.arange(2))})["x"]
    assert torch.equal(alone.codes, writing.codes)
    for i in range(2):  # nor do the image's and the ground's states know what is written
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
    limits = GenerationConfig(cls=CLS, end=END, max_length=20)
    assert greedy(CachedDecoder(model, Given(images)), limits) == [ids[1:-1] for ids in captions]
    assert greedy(UncachedDecoder(model, Given(images)), limits) == [ids[1:-1] for ids in captions]


# ---- both members, from records ----

MEMBERS = {
    "joint": lambda **options: lively_unimo(3, fusion="joint", **options),
    "prefix": lambda **options: lively_unimo(3, fusion="prefix", **options),
    "unimo-2": lambda **options: lively_model(3, **options),
}
VARIANTS = {"baseline": {"dictionary": 0}, "normal": {"grounding_method": "normal"}}  # of UNIMO-2
RECORDS = ["image", "known", "both", "continuous", "dialogue"]
WAYS = [(member, kind) for member in MEMBERS for kind in RECORDS if (member, kind) != ("unimo-2", "dialogue")]
MORE_WAYS = [*WAYS, *((variant, kind) for variant in VARIANTS for kind in ("image", "known", "both"))]


def member_of(member: str, kind: str, **options) -> Unified:
    if member in VARIANTS:
        return MEMBERS["unimo-2"](**VARIANTS[member])
    return MEMBERS[member](**options | ({"dialogue": True} if kind == "dialogue" else {}))


def record(kind: str, i: int, answer: list[int] | None = None) -> Record | None:
    """What sequence i is written from, with its answer behind it or without; None: from an image alone."""
    said = [row.tolist() for row in random_rows([4 + i, 3, 6 - i], seed=i)]
    room = {"max_source_length": 20, "max_target_length": 20}
    if kind == "dialogue":
        return dialogue_record(said[1:], answer, passage=said[0], **room)
    if kind == "image":
        return None if answer is None else seq2seq_record([], answer, **room)
    return seq2seq_record(said[: 1 + i % 3], answer, continuous=kind == "continuous", **room)


def images_of(model: Unified, kind: str) -> tuple[Tensor | None, Tensor | None]:
    """Four images after their tower and how many rows of each are there; the dialogues have one too."""
    if kind in ("known", "continuous"):
        return None, None
    if isinstance(model, UNIMO2):
        return model.encode_images(random_images(4)), None
    regions = random_regions([3, 6, 1, 4])
    return model.encode_images(regions), regions.lengths


@torch.no_grad()
def given_of(model: Unified, kind: str, numbers=range(4)) -> Given:
    (images, lengths), mine = images_of(model, kind), list(numbers)
    known = None if kind == "image" else [record(kind, i) for i in mine]
    images, lengths = (None if x is None else x[mine] for x in (images, lengths))
    return Given(images, known, lengths, continuous=kind == "continuous")


@torch.no_grad()
def in_one_pass(model: Unified, kind: str, i: int, words: list[int]) -> Tensor:
    """Logits after [CLS] and after each word, (1 + words, V), from the record with its answer, as when training."""
    whole = record(kind, i, words)
    ids, positions, roles, *dialogue = (
        None if part is None else torch.from_numpy(part[:-1])  # without the end
        for part in (whole.ids, whole.positions, whole.roles, whole.speakers, whole.turns)
    )
    texts = Texts(ids, positions, roles, torch.tensor([0, len(ids)]), *dialogue)
    encoded, lengths = images_of(model, kind)
    chosen = model.no_images() if encoded is None else encoded[i : i + 1]
    lengths = None if lengths is None else lengths[i : i + 1]
    towers = Towers(chosen, model.encode_texts(texts), texts, image_lengths=lengths)
    model.count_votes(towers)
    zero = torch.tensor([0])
    fused = model.fuse(towers, {"x": Request(None if encoded is None else zero, zero)})["x"]
    return model.word_logits(fused.words(torch.arange(whole.target_begins, len(ids)), texts))


@pytest.mark.parametrize("member, kind", MORE_WAYS)
def test_word_by_word_is_one_pass_over_the_record(member, kind):
    """Positions, speakers and turns of the answer too: they come from `unimo.data.records` here."""
    model, words = member_of(member, kind), torch.randint(4, 200, (4, 6), generator=torch.manual_seed(0))
    expected = [in_one_pass(model, kind, i, words[i].tolist()) for i in range(4)]
    for form in (UncachedDecoder, CachedDecoder):
        writing = form(model, given_of(model, kind))
        last = [torch.full((4,), CLS), *words.T]
        said = torch.stack([writing.advance(word, torch.arange(4)) for word in last], 1)
        torch.testing.assert_close(said, torch.stack(expected), rtol=0, atol=3e-5)
    assert torch.stack(expected).std(0).max() > 1e-2


@pytest.mark.parametrize("member, kind", MORE_WAYS)
def test_the_likelihood_of_a_text_is_the_product_of_its_words(member, kind, monkeypatch):
    """Texts of unequal length side by side, and fewer rows at once than there are words."""
    model, generator = member_of(member, kind), torch.manual_seed(0)
    texts = [[CLS, *torch.randint(4, 200, (n,), generator=generator).tolist(), END] for n in (5, 1, 7, 3)]
    monkeypatch.setattr("unimo.decoding.decoder.WORD_ROWS", 5)
    found = log_likelihood(model, given_of(model, kind), texts)
    for i, text in enumerate(texts):
        writing = CachedDecoder(model, given_of(model, kind, [i]))
        said = [writing.advance(torch.tensor([word]), torch.tensor([0]))[0].log_softmax(0) for word in text[:-1]]
        expected = sum(logs[word] for logs, word in zip(said, text[1:]))
        assert float(found[i]) == pytest.approx(float(expected), abs=2e-4)


def test_words_that_a_model_never_writes_are_impossible():
    model = lively_model(3)
    model.know_words(torch.tensor([CLS, END, 7, 9, 150]))
    given = given_of(model, "image", [0, 0, 0])
    likely, never, above_all = log_likelihood(model, given, [[CLS, 7, 9, END], [CLS, 8, END], [CLS, 160, END]])
    assert torch.isfinite(likely) and never == above_all == -torch.inf


@pytest.mark.parametrize("member, kind", MORE_WAYS)
def test_remembered_rows_branch_end_and_change_order(member, kind):
    model = member_of(member, kind)
    plain, cached = (form(model, given_of(model, kind)) for form in (UncachedDecoder, CachedDecoder))
    generator, rows = torch.Generator().manual_seed(0), 4
    for n in (4, 9, 3, 6):
        parents = torch.randint(rows, (n,), generator=generator)
        words = torch.randint(3, 200, (n,), generator=generator)
        torch.testing.assert_close(cached.advance(words, parents), plain.advance(words, parents), rtol=0, atol=3e-5)
        rows = n


@pytest.mark.parametrize("member, kind", WAYS)
def test_no_search_depends_on_what_else_is_written(member, kind):
    """Greedy and beam answers are those of a batch of 1. A drawn one depends on its own place and on nothing else."""
    model, limits = member_of(member, kind), GenerationConfig(CLS, END, max_length=6, min_length=1)
    with torch.no_grad():
        model.language_model.bias[END] += 4  # texts end early and late, so rows leave the batch

    def ask(search, numbers):
        return search(CachedDecoder(model, given_of(model, kind, numbers)))

    def greedily(decoder):
        return greedy(decoder, limits)

    def by_beam(decoder):
        return beam(decoder, limits, num_beams=3)

    def by_chance(decoder):
        return sample(decoder, limits, temperature=0.7, top_k=50, seed=4)

    alone, ranked = ([ask(search, [i])[0] for i in range(4)] for search in (greedily, by_beam))
    for numbers in (range(4), [2, 0], [3, 1, 2]):
        assert ask(greedily, numbers) == [alone[i] for i in numbers]
        for i, found in zip(numbers, ask(by_beam, numbers)):
            assert [(one.words, one.ended) for one in found] == [(one.words, one.ended) for one in ranked[i]]
            assert [one.score for one in found] == pytest.approx([one.score for one in ranked[i]], abs=1e-4)
    together = ask(by_chance, range(4))
    assert together[0] == ask(by_chance, [0])[0] and len({len(words) for words in together}) > 1
    for i in range(1, 4):
        for other in range(4):
            assert ask(by_chance, [other] * i + [i])[i] == together[i]


@pytest.mark.parametrize("member", MEMBERS)
def test_many_captions_of_an_image_share_what_was_read_of_it(member):
    """One copy of the image's keys, whatever is written about it; the same answers as with a copy for each."""
    model = MEMBERS[member]()
    one, five = (
        CachedDecoder(model, given_of(model, "both", [1])),
        CachedDecoder(model, given_of(model, "both", [1] * 5)),
    )
    generator, rows = torch.Generator().manual_seed(0), torch.zeros(5, dtype=torch.int64)
    known = len(record("both", 1).ids)
    for written in range(1, 5):
        words = torch.randint(3, 200, (5,), generator=generator)
        said = one.advance(words, rows)
        torch.testing.assert_close(said, five.advance(words, torch.arange(5)), rtol=0, atol=3e-5)
        for memory in one.in_fused:
            prefix = known + (7 if isinstance(model, UNIMO) else 17 + 4)  # [IMG] and regions, or patches and ground
            assert memory.keys.shape == memory.values.shape == (1, 2, prefix, 8)  # of two heads
            assert memory.written_keys.shape == memory.written_values.shape == (5, 2, written, 8)
        for memory in one.in_text:
            assert memory.keys.shape == (1, 2, known, 8) and memory.written_keys.shape == (5, 2, written, 8)
        rows = torch.arange(5)
    assert len(one.in_text) == (2 if isinstance(model, UNIMO2) else 0) and len(one.in_fused) == 2


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("tagged", [[True, False], [False, True], [False, False]], ids=str)
def test_images_with_and_without_known_words(member, tagged):
    """An image on which nothing was found is written about as if nothing had been looked for."""
    model, words = MEMBERS[member](), torch.tensor([CLS, CLS])
    given = given_of(model, "both", [0, 1])
    nothing = np.zeros(0, np.int64)
    mixed = Given(given.images, [x if tag else nothing for x, tag in zip(given.known, tagged)], given.image_lengths)
    for form in (UncachedDecoder, CachedDecoder):
        both = form(model, mixed).advance(words, torch.arange(2))
        for i, tag in enumerate(tagged):
            alone = form(model, given_of(model, "both" if tag else "image", [i]))
            expected = alone.advance(words[:1], torch.tensor([0]))[0]
            torch.testing.assert_close(both[i], expected, rtol=0, atol=3e-5)
