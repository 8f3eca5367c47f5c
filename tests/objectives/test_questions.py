"""What each objective hides and asks, seen on the finished batch, and the dictionary's own loss."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_batches import tiny_batch, tiny_draft
from tiny_unimo2 import VOCABULARY, lively_model

from unimo.batch import KNOWN, TEXT, WRITTEN, Batch
from unimo.config import check_settings
from unimo.data.sample import Nodes
from unimo.errors import UsageError
from unimo.objectives import (
    CrossModalContrastive,
    GroundedDictionaryLoss,
    ImageContrastive,
    ImageTextMatching,
    MaskedGrounding,
    MaskedLanguageModeling,
    Seq2SeqGeneration,
    step,
)
from unimo.objectives.grounded_dictionary import voting_positions

MASK, OPPOSITE = VOCABULARY - 1, 7


class Related:
    """What was prepared for a caption: the nodes of its scene graph, relations among them in every second one.

    An object of two words at 0 and 1; then, in every second caption, a relation at 3 whose opposite is known.
    """

    def __init__(self, i: int):
        self.odd = i % 2

    def nodes(self) -> Nodes:
        rows = [(0, -1, 0, 0), (1, -1, 0, 0), (3, OPPOSITE, 2, 1)][: 2 + self.odd]
        return Nodes(*np.array(rows, np.int64).T)


OBJECT, RELATION = {1, 2}, {4}  # their places behind [CLS]


def related(builder, count: int):
    for i, pair in enumerate(builder.pairs[:count]):
        object.__setattr__(pair, "side_inputs", Related(i))
    return builder


def rows_of(batch: Batch, group: str, column: str = "ids") -> list[list[int]]:
    offsets, values = batch.texts.offsets.tolist(), getattr(batch.texts, column).tolist()
    return [values[offsets[i] : offsets[i + 1]] for i in range(*batch.text_groups[group])]


def questions(batch: Batch, asked: str, group: str) -> list[dict[int, int]]:
    """For each text of the group: place -> the id that is asked there."""
    first = batch.texts.offsets.tolist()
    found: list[dict[int, int]] = [{} for _ in range(len(range(*batch.text_groups[group])))]
    for row, label in zip(batch.targets[asked].rows.tolist(), batch.targets[asked].labels.tolist()):
        text = max(i for i in range(len(batch.texts)) if first[i] <= row)
        found[text - batch.text_groups[group][0]][row - first[text]] = label
    return found


def test_masked_words_differ_from_the_text_only_where_they_are_asked():
    batch = tiny_batch([CrossModalContrastive(), MaskedLanguageModeling(pairs=5)], pairs=8, masked=3)
    clean, masked = rows_of(batch, "pairs.clean"), rows_of(batch, "pairs.masked")
    assert batch.extra["mlm.pairs"].tolist() == [0, 1, 2, 3, 4] and len(masked) == 5
    hidden = 0
    for text, shown, asked in zip(clean, masked, questions(batch, "mlm.pairs", "pairs.masked")):
        assert 0 < len(asked) <= -(-15 * len(text) // 100)
        for place, (true, seen) in enumerate(zip(text, shown)):
            if place in asked:
                assert asked[place] == true and true >= 4
            else:
                assert seen == true
            hidden += place in asked and seen == MASK
    assert hidden > 0
    assert {role for row in rows_of(batch, "texts.masked", "roles") for role in row} == {TEXT}
    assert all(questions(batch, "mlm.texts", "texts.masked"))


@pytest.mark.parametrize(("relations", "nodes"), [(0.0, 0.0), (0.0, 1.0), (0.5, 0.0), (0.4, 0.3), (1.0, 0.0)])
def test_nodes_and_relations_are_hidden_in_their_shares_of_the_captions(relations, nodes):
    objective = MaskedLanguageModeling(pairs=400, relations=relations, nodes=nodes, node_ratio=1.0)
    builder = related(tiny_draft(pairs=400), 400)
    CrossModalContrastive().corrupt(builder)
    objective.corrupt(builder)
    batch = builder.finish()
    clean, masked = rows_of(batch, "pairs.clean"), rows_of(batch, "pairs.masked")
    met = Counter()
    for i, (text, shown, asked) in enumerate(zip(clean, masked, questions(batch, "mlm.pairs", "pairs.masked"))):
        assert asked == {place: text[place] for place in asked} and asked
        assert all(seen == true for place, (true, seen) in enumerate(zip(text, shown)) if place not in asked)
        if i % 2:  # these tell a relation
            hidden = {frozenset(RELATION): "relations", frozenset(OBJECT | RELATION): "nodes"}
            met[hidden.get(frozenset(asked), "spans")] += 1
            if set(asked) == RELATION:
                assert shown[4] in (MASK, text[4], OPPOSITE)  # not a random word
    for name, share in (("relations", relations), ("nodes", nodes), ("spans", 1 - relations - nodes)):
        slack = 4 if share in (0.0, 1.0) else 28  # random spans that happen to be the same; four standard deviations
        assert met[name] == pytest.approx(200 * share, abs=slack)


def test_shares_beyond_all_captions_are_refused():
    with pytest.raises(UsageError, match=r"objectives\.mlm\.nodes"):
        check_settings(MaskedLanguageModeling(nodes=0.7, relations=0.4), "objectives.mlm")


def test_what_was_not_prepared_has_spans_hidden():
    builder = tiny_draft(pairs=20)
    MaskedLanguageModeling(pairs=20, relations=0.5, nodes=0.5).corrupt(builder)
    for asked, pair in zip(questions(builder.finish(), "mlm.pairs", "pairs.masked"), builder.pairs):
        assert len(asked) == min(len(pair.ids), -(-15 * (len(pair.ids) + 2) // 100))


def test_some_nodes_are_hidden_and_never_none():
    for ratio in (0.0, 0.5, 1.0):
        builder = related(tiny_draft(pairs=200), 200)
        for objective in (
            CrossModalContrastive(),
            MaskedLanguageModeling(pairs=200, nodes=1.0, node_ratio=ratio),
        ):
            objective.corrupt(builder)
        asked = [set(one) for one in questions(builder.finish(), "mlm.pairs", "pairs.masked")][1::2]
        both, one = asked.count(OBJECT | RELATION), asked.count(OBJECT) + asked.count(RELATION)
        assert both + one == 100  # nodes are hidden whole
        assert {0.0: both == 0, 0.5: 20 < both < 60, 1.0: both == 100}[ratio]


@pytest.mark.parametrize(
    ("progress", "shares"), [(0.0, (0.2, 0.8)), (0.39, (0.2, 0.8)), (0.4, (1.0, 0.0)), (0.6, (0.2, 0.1))]
)
def test_hidden_nodes_then_relations_are_at_first_all_that_is_asked(progress, shares):
    objective = MaskedLanguageModeling(pairs=2, relations=0.2, nodes=0.1, alone_until=0.6, relations_from=0.4)
    assert objective.alone(progress) == (progress < 0.6) and objective.shares(progress) == pytest.approx(shares)
    builder = related(tiny_draft(pairs=8), 8)
    builder.progress = progress
    CrossModalContrastive().corrupt(builder)
    objective.corrupt(builder)
    asked = questions(builder.finish(), "mlm.pairs", "pairs.masked")
    assert len(asked) == (8 if progress < 0.6 else 2)
    if progress == 0.4:  # of a caption without relations, some other node
        assert all(set(one) == RELATION for one in asked[1::2]) and all(set(one) == OBJECT for one in asked[::2])


def test_the_answer_votes_for_nothing():
    """Masked words are fused with the votes of the text as masked, not of the clean one."""
    objective = MaskedLanguageModeling()
    batch = tiny_batch([CrossModalContrastive(), objective], pairs=3)
    model = lively_model()
    request = objective.requests(model, batch, model.towers(batch))["mlm.pairs"]
    assert request.text.tolist() == list(range(*batch.text_groups["pairs.masked"]))
    assert request.image.tolist() == [0, 1, 2]


def test_captions_are_asked_word_by_word():
    batch = tiny_batch([CrossModalContrastive(), Seq2SeqGeneration(pairs=5)], pairs=8)
    assert batch.extra["seq2seq.pairs"].tolist() == [3, 4, 5, 6, 7]
    clean, written = rows_of(batch, "pairs.clean"), rows_of(batch, "pairs.written")
    assert written == clean[3:]
    assert {role for row in rows_of(batch, "pairs.written", "roles") for role in row} == {WRITTEN}
    for text, asked in zip(written, questions(batch, "seq2seq.pairs", "pairs.written")):
        assert asked == {place: text[place + 1] for place in range(len(text) - 1)}


def test_fragments_are_asked_from_what_is_written():
    batch = tiny_batch([Seq2SeqGeneration()], fragments=4)
    roles, ids = rows_of(batch, "texts.written", "roles"), rows_of(batch, "texts.written")
    for text, role, asked in zip(ids, roles, questions(batch, "seq2seq.texts", "texts.written")):
        source = role.count(KNOWN)
        assert role == [KNOWN] * source + [WRITTEN] * (len(role) - source) and 0 < source < len(role)
        assert asked and all(place >= source and text[place + 1] == label for place, label in asked.items())


@torch.no_grad()
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_word_losses_are_plain_cross_entropies_of_the_asked_rows(smoothing):
    objective = Seq2SeqGeneration(smoothing=smoothing)
    model, batch = lively_model(), tiny_batch([objective], pairs=3, fragments=1)
    parts, _ = step(model, batch, {"seq2seq": objective})
    requests = objective.requests(model, batch, model.towers(batch))
    fused = model.fuse(model.towers(batch), requests)["seq2seq.pairs"]
    total, count = 0.0, 0
    for i, text in enumerate(rows_of(batch, "pairs.written")):
        first = int(fused.starts[i] + fused.image_length[i] + fused.ground_length[i])
        for place in range(len(text) - 1):
            log = F.log_softmax(model.word_logits(fused.hidden[first + place][None])[0], 0)
            total -= (1 - smoothing) * log[text[place + 1]] + smoothing * log.mean()
            count += 1
    assert parts["seq2seq.pairs"].count == count
    torch.testing.assert_close(parts["seq2seq.pairs"].total, total, rtol=1e-5, atol=1e-3)


# ---- the dictionary ----


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"grounding_projection": True}, {"grounding_method": "normal"}], ids=str)
def test_dictionary_loss_is_that_of_each_sequence_by_itself(options):
    """Pairs, passages and images; [CLS] has no part in it."""
    objectives = {
        "mlm": MaskedLanguageModeling(),
        "itm": ImageTextMatching(),
        "image_contrastive": ImageContrastive(),
        "dictionary": GroundedDictionaryLoss(weight=2.0),
    }
    model = lively_model(**options)
    batch = tiny_batch(objectives.values(), pairs=3, images=2, masked=2)
    parts, fused = step(model, batch, objectives)
    requests = {name: one.request for name, one in fused.items()}
    towers = model.towers(batch)
    sums = torch.zeros(4)
    for name in (
        "mlm.pairs",
        "image_contrastive",
        "mlm.texts",
    ):  # the pairs once, though two objectives fuse them
        request = requests[name]
        codes = model.fuse(towers, {name: request})[name].codes
        hidden, valid = voting_positions(model, towers, request)
        for i in range(len(request)):
            expected = []
            if request.image is not None:
                expected.append(model.dictionary.positions_of(towers.images[request.image[i], 1:], "image"))
            if request.text is not None:
                first, last = towers.texts.offsets[request.text[i] : request.text[i] + 2]
                expected.append(model.dictionary.positions_of(towers.words[first + 1 : last], "text"))
            mine = torch.cat(expected)
            assert torch.equal(hidden[i][valid[i]], mine)
            chosen = model.dictionary.nearest(mine) if codes is None else codes[i]
            one = model.dictionary.loss(mine[None], torch.ones(1, len(mine), dtype=torch.bool), chosen[None])
            sums += torch.stack([torch.as_tensor(x).float() for x in one])
    for name, (total, count), weight in (
        ("dictionary.entries", sums[:2], 2.0),
        ("dictionary.encoders", sums[2:], 0.5),
    ):
        torch.testing.assert_close(parts[name].total, total, rtol=1e-4, atol=1e-3)
        assert float(parts[name].count) == float(count) and parts[name].weight == weight


@torch.no_grad()
@pytest.mark.parametrize(
    ("others", "data", "expected"),
    [  # what is active, what a step holds, and the sequences that vote: (images, texts) of each
        ({"mlm": MaskedLanguageModeling()}, {"pairs": 3}, [("pairs", "pairs.masked")]),
        ({"itm": ImageTextMatching()}, {"pairs": 3}, [("pairs", "pairs.clean")]),
        ({"mlm": MaskedLanguageModeling(), "itm": ImageTextMatching()}, {"pairs": 3}, [("pairs", "pairs.masked")]),
        ({"seq2seq": Seq2SeqGeneration()}, {"pairs": 3}, [("pairs", "pairs.written")]),
        ({"seq2seq": Seq2SeqGeneration(), "itm": ImageTextMatching()}, {"pairs": 3}, [("pairs", "pairs.clean")]),
        ({"cmcl": CrossModalContrastive()}, {"pairs": 3}, [("pairs", "pairs.clean")]),
        ({"masked_grounding": MaskedGrounding(weight=1.0, chosen=4)}, {"pairs": 3}, [("pairs", "pairs.clean")]),
        ({"seq2seq": Seq2SeqGeneration()}, {"fragments": 2}, []),
        ({"mlm": MaskedLanguageModeling(), "seq2seq": Seq2SeqGeneration()}, {"masked": 2, "fragments": 2},
         [(None, "texts.masked")]),
        ({"image_contrastive": ImageContrastive()}, {"images": 2}, [("images", None)]),
        ({}, {"images": 2}, [("images", None)]),
        ({"cmcl": CrossModalContrastive()}, {"pairs": 3, "images": 2}, [("pairs", "pairs.clean"), ("images", None)]),
        ({}, {"pairs": 3, "masked": 2}, []),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
@pytest.mark.parametrize("method", ["topk", "normal"])
def test_case_the_dictionary_is_asked_whatever_else_is_active(others, data, expected, method):
    """Sequence by sequence here, with entries chosen by a tally of its own voters."""
    if method == "normal" and "masked_grounding" in others:
        others = {"cmcl": CrossModalContrastive()}  # masked grounding needs topk
    objectives = {**others, "dictionary": GroundedDictionaryLoss()}
    model = lively_model(masked_grounding=True, grounding_method=method)
    batch = tiny_batch(objectives.values(), **data)
    parts, _ = step(model, batch, objectives)
    towers, sums = model.towers(batch), torch.zeros(4)
    for sees, texts in expected:
        if sees == "images":
            images = torch.cat([batch.images_of("images.a"), batch.images_of("images.b")])
        else:
            images = batch.images_of("pairs") if sees else [None] * data["masked"]
        for i, image in enumerate(images):
            voters = [] if image is None else [towers.images[image, 1:]]
            if texts is not None:
                number = batch.texts_of(texts)[i]
                first, last = towers.texts.offsets[number : number + 2]
                voters.append(towers.words[first + 1 : last][towers.texts.roles[first + 1 : last] != WRITTEN])
            mine = torch.cat(voters)
            if method == "normal":
                chosen = model.dictionary.nearest(mine)
            else:
                chosen = torch.sigmoid(1.5 * mine @ model.dictionary.entries.T).sum(0).topk(4).indices
            one = model.dictionary.loss(mine[None], torch.ones(1, len(mine), dtype=torch.bool), chosen[None])
            sums += torch.stack([torch.as_tensor(x).float() for x in one])
    if not expected:
        assert not {"dictionary.entries", "dictionary.encoders"} & set(parts)
        return
    for name, (total, count) in (("dictionary.entries", sums[:2]), ("dictionary.encoders", sums[2:])):
        torch.testing.assert_close(parts[name].total, total, rtol=1e-4, atol=1e-3)
        assert float(parts[name].count) == float(count)


def test_without_a_dictionary_there_is_no_dictionary_loss():
    objectives = {
        "mlm": MaskedLanguageModeling(),
        "d": GroundedDictionaryLoss(),
        "g": MaskedGrounding(weight=1.0),
    }
    parts, _ = step(lively_model(dictionary=0), tiny_batch(objectives.values(), pairs=2), objectives)
    assert set(parts) == {"mlm.pairs", "mlm.pairs.accuracy"}


@torch.no_grad()
def test_masked_grounding_asks_the_hidden_entries():
    objective = MaskedGrounding(weight=1.0, ratio=0.5, chosen=4)
    model, batch = lively_model(masked_grounding=True), tiny_batch([objective], pairs=4)
    towers = model.towers(batch)
    requests = objective.requests(model, batch, towers)
    fused = model.fuse(towers, requests)["masked_grounding"]
    part = objective.loss(model, batch, towers, {"masked_grounding": fused})["masked_grounding"]
    total, count = 0.0, 0
    for i in range(4):
        for k in range(4):
            if batch.extra["masked_grounding.noise"][i, k] < 0.5:
                state = fused.hidden[fused.starts[i] + fused.image_length[i] + k]
                logits = model.masked_grounding(state[None], model.dictionary.entries)
                total = total + F.cross_entropy(logits, fused.codes[i, k][None])
                count += 1
    assert 0 < count < 16 and part.count == count
    torch.testing.assert_close(part.total, total)


@pytest.mark.parametrize("options", [{"chosen": 10}, {"grounding_method": "normal"}], ids=str)
def test_masked_grounding_refuses_ground_it_cannot_draw_for(options):
    objectives = {"masked_grounding": MaskedGrounding(weight=1.0, chosen=4)}
    batch = tiny_batch(objectives.values(), pairs=2)
    with pytest.raises(UsageError, match=r"objectives\.masked_grounding\.chosen"):
        step(lively_model(masked_grounding=True, **options), batch, objectives)


def test_spans_come_from_the_samples_own_luck():
    """The same sample in the same epoch is masked the same, whatever else the step holds."""
    one = tiny_batch([MaskedLanguageModeling()], pairs=2, masked=2)
    other = tiny_batch([Seq2SeqGeneration(), MaskedLanguageModeling()], pairs=2, masked=2, fragments=3, images=1)
    for group in ("pairs.masked", "texts.masked"):
        assert rows_of(one, group) == rows_of(other, group)
