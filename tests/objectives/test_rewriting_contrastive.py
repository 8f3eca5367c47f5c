"""UNIMO's contrastive loss: its formula, what is compared with what, and that rewriting teaches what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder, SampledExample
from unimo.data.regions import image_regions
from unimo.model.unified import Request
from unimo.model.unimo import UNIMO
from unimo.objectives import step
from unimo.objectives.rewriting_contrastive import RewritingContrastive, belong, multiple_positives
from unimo.tokenizer import Tokenizer

FEATURES = 6
BOXES = [[0, 0, 50, 50], [40, 40, 90, 90]]


def image(seed: int):
    return image_regions(np.random.default_rng(seed).normal(size=(2, FEATURES)), BOXES, 100, 100)


class SideInputs:
    """What was prepared for pair i of four: two rewritings that are true, nine that are not, an image, a sentence."""

    def __init__(self, i: int):
        self.i, self.ids = i, np.array([10 + i, 50, 60 + i])

    def rewritten(self, positives, negatives, rng, only=()):
        same = [self.ids[::-1].copy(), self.ids[[1, 0, 2]]]
        wrong = [np.array([10 + self.i, 50, 60 + j]) for j in range(10) if j != self.i]
        return same[:positives], [wrong[k] for k in rng.permutation(9)[:negatives]]

    def related_images(self, count, rng):
        return [image(self.i)][:count]

    def related_texts(self, count, rng):
        return [np.array([10 + self.i, 61])][:count]


def builder(pairs: int = 4, rewritten: bool = True) -> BatchBuilder:
    made = BatchBuilder(0, 16, Tokenizer.default())
    for i in range(pairs):
        ids = np.array([10 + i, 50, 60 + i])
        made.pairs.append(SampledExample(f"pair {i}", i, ids, (0, i, 0), i, SideInputs(i) if rewritten else None))
        made.regions.setdefault("pairs", []).append(image(i))
    made.extra |= {"pairs.image": list(range(pairs)), "pairs.caption": list(range(pairs))}
    return made


def batch(rewritten: bool = True, **options) -> Batch:
    made = builder(rewritten=rewritten)
    RewritingContrastive(**options).corrupt(made)
    return made.finish()


def tiny(seed: int = 0, **options) -> UNIMO:
    torch.manual_seed(seed)
    sizes = {"width": 32, "heads": 4, "depth": 2, "positions": 20, "initial_std": 0.1, "matching": 1}
    return UNIMO(**{**sizes, "region_size": FEATURES, "dropout": 0.0, "attention_dropout": 0.0, **options})


def test_the_formula():
    """The positives' sum stands inside the logarithm."""
    scores = torch.tensor([1.0, -0.5, 2.0, 0.3, 80.0, 81.0])
    right = torch.tensor([True, False, True, False, True, False])
    anchor = torch.tensor([0, 0, 0, 1, 1, 1])
    right[3] = True
    got = multiple_positives(scores, right, anchor, 2)
    e = [math.exp(s) for s in (1.0, -0.5, 2.0)]
    assert got[0].item() == pytest.approx(-math.log((e[0] + e[2]) / sum(e)), rel=1e-5)
    assert got[1].item() == pytest.approx(-math.log(1 / (1 + math.e)), rel=1e-4)


def test_numbers_per_step_are_as_set_and_duplicates_are_never_wrong():
    made = batch(pairs=3, positives=2, negatives=5, others=2)
    right, anchor = made.extra["rewriting.right"], made.extra["rewriting.anchor"]
    assert right.sum().item() == 3 * 3 and (~right).sum().item() == 3 * 7 and anchor.tolist() == sorted(anchor.tolist())
    one = builder(rewritten=False)
    one.pairs[1] = SampledExample("same words", one.pairs[0].identity, one.pairs[0].ids, (0, 1, 0), 1)
    one.pairs[2] = SampledExample("same image", 7, np.array([5]), (0, 0, 1), 2)
    RewritingContrastive(others=9).corrupt(one)
    done = one.finish()
    first = [i for i, a in enumerate(done.extra["rewriting.anchor"].tolist()) if a == 0]
    assert len(first) == 2  # the caption itself, and that of the one pair with other words beside another image


def single_scores(model, made: Batch, requests, asked):
    """d of every text beside its image, and of every image with every text alone; each in a pass of its own."""
    towers = model.towers(made)

    def pooled(image, text):
        one = model.fuse(towers, {"one": Request(image, text)})["one"]
        seen = None if image is None else model.image_pooler(one.image_cls())
        return seen, None if text is None else model.text_pooler(one.text_cls())

    both = requests["rewriting.together"]
    together = torch.cat([asked.score(model, *pooled(i[None], t[None])) for i, t in zip(both.image, both.text)])
    seen = [pooled(i[None], None)[0] for i in requests["rewriting.images"].image]
    read = [pooled(None, t[None])[1] for t in requests["rewriting.sentences"].text]
    return together, torch.stack([torch.cat([asked.score_alone(model, a, b)[0] for b in read]) for a in seen])


@torch.no_grad()
@pytest.mark.parametrize("scorer", ["joint", "cosine"])
@pytest.mark.parametrize("fusion", ["joint", "prefix"])
def test_a_step_as_published_is_the_loss_of_single_comparisons(fusion, scorer):
    """Every pair of image and text encoded in a batch of its own, and the formula by hand."""
    options = {"pairs": 2, "negatives": 3, "others": 1, "scorer": scorer, "temperature": 0.5, "related": "inside"}
    model, asked, made = tiny(fusion=fusion).eval(), RewritingContrastive(**options), batch(**options)
    parts, fused = step(model, made, {"rewriting": asked})
    requests = {name: one.request for name, one in fused.items()}
    assert requests["rewriting.together"].share == (fusion == "prefix") and "rewriting.alone" not in parts
    together, alone = single_scores(model, made, requests, asked)
    right, anchor = made.extra["rewriting.right"], made.extra["rewriting.anchor"]
    expected = 0.0
    for i in range(2):  # alone: rows 0 and 1 are the anchors' images, 2 and 3 related ones; columns likewise
        positives = [*together[right & (anchor == i)], alone[2 + i, i], alone[i, 2 + i]]
        everything = [*together[anchor == i], alone[2 + i, i], alone[i, 2 + i]]
        expected -= math.log(sum(map(math.exp, positives)) / sum(map(math.exp, everything)))
    assert float(parts["rewriting"].total) == pytest.approx(expected, rel=1e-4)
    assert int(parts["rewriting"].count) == 2


@torch.no_grad()
@pytest.mark.parametrize("scorer", ["joint", "cosine"])
def test_what_is_encoded_alone_has_a_sum_of_its_own(scorer):
    options = {"pairs": 2, "negatives": 3, "others": 1, "scorer": scorer}
    model, asked, made = tiny().eval(), RewritingContrastive(**options), batch(**options)
    parts, fused = step(model, made, {"rewriting": asked})
    requests = {name: one.request for name, one in fused.items()}
    together, alone = single_scores(model, made, requests, asked)
    e = alone.double().exp()
    assert alone.abs().max() <= 1 / (0.07 if scorer == "joint" else 1.0)  # a cosine, divided
    # A related image (2, 3) and a related sentence say nothing of each other.
    rows = [(e[i, i] + e[i, 2 + i]) / e[i].sum() for i in (0, 1)]
    rows += [e[2 + i, i] / (e[2 + i].sum() - e[2 + i, 2 + i]) for i in (0, 1)]
    columns = [(e[i, i] + e[2 + i, i]) / e[:, i].sum() for i in (0, 1)]
    columns += [e[i, 2 + i] / (e[:, 2 + i].sum() - e[2 + i, 2 + i]) for i in (0, 1)]
    expected = -sum(share.log() for share in rows + columns) / 8
    part = parts["rewriting.alone"]
    assert float(part.total) / part.count == pytest.approx(float(expected), rel=1e-4)
    right, anchor = made.extra["rewriting.right"], made.extra["rewriting.anchor"]
    expected = multiple_positives(together, right, anchor, 2).sum()
    assert float(parts["rewriting"].total) == pytest.approx(float(expected), rel=1e-4)


def test_as_published_the_loss_can_vanish_without_telling_a_caption_from_its_rewriting():
    """Nothing holds back the score of what is encoded alone; with a sum of its own it cannot hide the rest."""
    scores, right = torch.tensor([0.0, 0.0, 0.0, 50.0]), torch.tensor([True, False, False, True])
    assert multiple_positives(scores, right, torch.zeros(4, dtype=torch.int64), 1).item() < 1e-6
    lost = {}
    for related in ("inside", "apart"):
        model, options = tiny(fusion="prefix"), {"pairs": 4, "negatives": 6, "others": 0, "related": related}
        made, asked = batch(**options, positives=0), {"rewriting": RewritingContrastive(**options, positives=0)}
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(60):
            parts, _ = step(model, made, asked)
            optimizer.zero_grad()
            sum(part.total / part.count for part in parts.values() if part.weight).backward()
            optimizer.step()
        lost[related] = (
            parts["rewriting"].total.item() / 4,
            int(parts["rewriting.accuracy"].total),
        )
    assert lost["inside"][0] < 0.01 and lost["inside"][1] < 4 and lost["apart"][1] == 4


@torch.no_grad()
def test_anchors_that_share_a_caption_are_not_negatives_of_each_other():
    made = builder()
    made.extra |= {"pairs.image": [0, 1, 2, 3], "pairs.caption": [5, 5, 6, 7]}
    RewritingContrastive(related_images=0, related_texts=0).corrupt(made)
    positive, compared = belong(made.finish())
    assert torch.equal(positive, torch.eye(4, dtype=torch.bool))
    assert (~compared).nonzero().tolist() == [[0, 1], [1, 0]]


def test_it_begins_at_chance_and_can_be_learnt():
    model, options = tiny(fusion="prefix"), {"pairs": 4, "negatives": 6, "related_images": 0, "related_texts": 0}
    made, asked = batch(**options, positives=0, others=0), {"rewriting": RewritingContrastive(**options)}
    optimizer, history = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(60):
        parts, _ = step(model, made, asked)
        loss = parts["rewriting"].total / parts["rewriting"].count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[0] == pytest.approx(math.log(7), rel=0.25) and history[-1] < 0.1
    assert int(parts["rewriting.accuracy"].total) == 4


def test_each_ingredient_can_be_left_away():
    bare = batch(rewritten=False, others=3)
    parts, fused = step(tiny(), bare, {"rewriting": RewritingContrastive(others=3)})
    requests = {name: one.request for name, one in fused.items()}
    assert set(requests) == {"rewriting.together", "rewriting.images", "rewriting.sentences"}
    assert int(parts["rewriting"].count) == int(parts["rewriting.alone"].count) == 4
    for none in ({"alone_weight": 0.0}, {"related": "inside"}):
        parts, fused = step(tiny(), bare, {"rewriting": RewritingContrastive(others=3, **none)})
        requests = {name: one.request for name, one in fused.items()}
        assert set(requests) == {"rewriting.together"} and "rewriting.alone" not in parts
    nothing = BatchBuilder(0, 16, Tokenizer.default())
    RewritingContrastive().corrupt(nothing)
    assert step(tiny(), nothing.finish(), {"rewriting": RewritingContrastive()}) == ({}, {})


def test_nothing_is_contrasted_before_its_share_of_the_run():
    for progress, contrasted in ((0.69, False), (0.7, True)):
        made = builder()
        made.progress = progress
        RewritingContrastive(begins=0.7).corrupt(made)
        assert ("pairs.rewritten" in made.finish().text_groups) == contrasted
