"""UNIMO's contrastive loss: its formula, what is compared with what, and that rewriting teaches what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unimo.batch import Batch
from unimo.data.pack import Draft, Drawn
from unimo.data.regions import picture_regions
from unimo.model.unimo import UNIMO
from unimo.objectives import step
from unimo.objectives.rewriting_contrastive import RewritingContrastive, multiple_positives
from unimo.tokenizer import Tokenizer

FEATURES = 6
BOXES = [[0, 0, 50, 50], [40, 40, 90, 90]]


def picture(seed: int):
    return picture_regions(np.random.default_rng(seed).normal(size=(2, FEATURES)), BOXES, 100, 100)


class Beside:
    """What was prepared for pair i of four: two rewritings that are true, nine that are not, a picture, a sentence."""

    def __init__(self, i: int):
        self.i, self.ids = i, np.array([10 + i, 50, 60 + i])

    def rewritten(self, positives, negatives, rng):
        same = [self.ids[::-1].copy(), self.ids[[1, 0, 2]]]
        wrong = [np.array([10 + self.i, 50, 60 + j]) for j in range(10) if j != self.i]
        return same[:positives], [wrong[k] for k in rng.permutation(9)[:negatives]]

    def related_images(self, count, rng):
        return [picture(self.i)][:count]

    def related_texts(self, count, rng):
        return [np.array([10 + self.i, 61])][:count]


def draft(pairs: int = 4, rewritten: bool = True) -> Draft:
    made = Draft(0, 16, Tokenizer.default())
    for i in range(pairs):
        ids = np.array([10 + i, 50, 60 + i])
        made.pairs.append(Drawn(f"pair {i}", i, ids, (0, i, 0), i, Beside(i) if rewritten else None))
        made.regions.setdefault("pairs", []).append(picture(i))
    return made


def batch(rewritten: bool = True, **options) -> Batch:
    made = draft(rewritten=rewritten)
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
    one = draft(rewritten=False)
    one.pairs[1] = Drawn("same words", one.pairs[0].identity, one.pairs[0].ids, (0, 1, 0), 1)
    one.pairs[2] = Drawn("same picture", 7, np.array([5]), (0, 0, 1), 2)
    RewritingContrastive(others=9).corrupt(one)
    done = one.finish()
    first = [i for i, a in enumerate(done.extra["rewriting.anchor"].tolist()) if a == 0]
    assert len(first) == 2  # the caption itself, and that of the one pair with other words beside another picture


@pytest.mark.parametrize("scorer", ["joint", "cosine"])
@pytest.mark.parametrize("fusion", ["joint", "prefix"])
def test_a_step_is_the_loss_of_single_comparisons(fusion, scorer):
    """Every pair of picture and text encoded in a batch of its own, and the formula by hand."""
    model, options = tiny(fusion=fusion).eval(), {"pairs": 2, "negatives": 3, "others": 1, "scorer": scorer}
    asked = RewritingContrastive(**options, temperature=0.5)
    made = batch(**options, temperature=0.5)
    with torch.no_grad():
        parts, requests = step(model, made, {"rewriting": asked})
        assert requests["rewriting.together"].share == (fusion == "prefix")
        towers, scores = model.towers(made), []
        together = requests["rewriting.together"]
        for image, text in zip(together.image, together.text):
            from unimo.model.unified import Request

            one = model.fuse(towers, {"one": Request(image[None], text[None])})["one"]
            scores.append(asked.score(model, one, one))
        for a, b in (("related.image", "related.caption"), ("related.picture", "related.text")):
            for image, text in zip(requests[a].image, requests[b].text):
                seen = model.fuse(towers, {"one": Request(image[None], None)})["one"]
                read = model.fuse(towers, {"one": Request(None, text[None])})["one"]
                scores.append(asked.score(model, seen, read))
    d = torch.cat(scores) / 0.5
    right = torch.cat([made.extra["rewriting.right"], torch.ones(4, dtype=torch.bool)])
    anchor = torch.cat([made.extra[f"{name}.anchor"] for name in ("rewriting", "related.image", "related.text")])
    expected = sum(-math.log(d[right & (anchor == i)].exp().sum() / d[anchor == i].exp().sum()) for i in range(2))
    assert float(parts["rewriting"].total) == pytest.approx(expected, rel=1e-4)
    assert int(parts["rewriting"].count) == 2


def test_it_begins_at_chance_and_can_be_learnt():
    model, options = tiny(fusion="prefix"), {"pairs": 4, "negatives": 6, "related_images": 0, "related_texts": 0}
    made, asked = batch(**options, positives=0, others=0), {"rewriting": RewritingContrastive(**options)}
    optimiser, history = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(60):
        parts, _ = step(model, made, asked)
        loss = parts["rewriting"].total / parts["rewriting"].count
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[0] == pytest.approx(math.log(7), rel=0.25) and history[-1] < 0.1
    assert int(parts["rewriting.accuracy"].total) == 4


def test_each_ingredient_can_be_left_away():
    bare = batch(rewritten=False, others=3)
    parts, requests = step(tiny(), bare, {"rewriting": RewritingContrastive(others=3)})
    assert set(requests) == {"rewriting.together"} and int(parts["rewriting"].count) == 4
    nothing = Draft(0, 16, Tokenizer.default())
    RewritingContrastive().corrupt(nothing)
    assert step(tiny(), nothing.finish(), {"rewriting": RewritingContrastive()}) == ({}, {})
