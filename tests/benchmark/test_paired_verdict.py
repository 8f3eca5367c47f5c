"""The verdict on a task beside random weights: by the items both answered, by seeds, or by intervals."""

from __future__ import annotations

import numpy as np
import pytest

from unimo.benchmark.paired import against_random
from unimo.evaluation.item_sums import ItemSums
from unimo.metrics.intervals import mean_of_sums, mean_score
from unimo.metrics.paired import paired_bootstrap

KEY = ("sst2, dev", "accuracy")
RNG = np.random.default_rng(0)
EASY = (RNG.random(400) < 0.6).astype(float)  # the same items are hard for both


def sums(values: np.ndarray, items: str = "dev") -> dict:
    return {KEY: ItemSums(items, np.stack([values, np.ones_like(values)], 1), mean_of_sums)}


def score(values: np.ndarray) -> dict:
    return mean_score(values).to_dict()


def better_on(count: int) -> np.ndarray:
    values = EASY.copy()
    values[np.flatnonzero(values == 0)[:count]] = 1
    return values


def test_items_that_both_answered_show_what_their_intervals_hide():
    own = better_on(12)
    said, difference = against_random(KEY, score(own), score(EASY), [sums(own)], [sums(EASY)])
    expected = paired_bootstrap(own, EASY).difference
    assert said == "better" and score(own)["low"] < score(EASY)["high"]
    assert difference["value"] == pytest.approx(12 / 400) and difference["low"] > 0
    assert (difference["low"], difference["high"]) == pytest.approx((expected.low, expected.high))
    assert against_random(KEY, score(EASY), score(own), [sums(EASY)], [sums(own)])[0] == "worse"
    assert against_random(KEY, score(EASY), score(EASY), [sums(EASY)], [sums(EASY)])[0] == "no difference"


def test_a_loss_is_better_where_it_is_smaller():
    key, own = ("x, dev", "loss"), better_on(12)
    found = against_random(key, score(own), score(EASY), [{key: sums(own)[KEY]}], [{key: sums(EASY)[KEY]}])
    assert found[0] == "worse"


def test_other_items_or_no_sums_are_judged_by_intervals():
    own = better_on(12)
    for theirs in (sums(EASY, "test"), {}, sums(EASY[:-1])):
        assert against_random(KEY, score(own), score(EASY), [sums(own)], [theirs]) == ("no difference", None)
    many = better_on(150)
    assert against_random(KEY, score(many), score(EASY), [sums(many)], [{}]) == ("better", None)


def test_seeds_that_disagree_make_no_difference():
    good, bad = better_on(30), EASY.copy()
    bad[np.flatnonzero(EASY == 1)[:25]] = 0
    random = [sums(EASY)] * 2
    said, difference = against_random(KEY, score(good), score(EASY), [sums(good), sums(bad)], random)
    assert said == "no difference" and difference["seeds"] == pytest.approx([30 / 400, -25 / 400])
    again = [sums(good), sums(better_on(28))]
    assert against_random(KEY, score(good), score(EASY), again, random)[0] == "better"
