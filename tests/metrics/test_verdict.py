"""Better, worse, no difference; and one score from several seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from unimo.metrics.intervals import Score
from unimo.metrics.paired import paired_bootstrap
from unimo.metrics.seeds import over_seeds
from unimo.metrics.verdict import is_smaller_better, paired_verdict, verdict


def of(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 100, "chance": 0.5}


def test_scores_that_are_apart_against_us_are_worse():
    # DAQUAR and CoLA of the README, fine-tuned against random weights: apart, and not to our credit.
    assert verdict(of(0.107, 0.099, 0.117), of(0.176, 0.165, 0.187)) == "worse"
    assert verdict(of(0.0, 0.0, 0.0), of(0.20, 0.12, 0.29)) == "worse"
    assert verdict(of(0.176, 0.165, 0.187), of(0.107, 0.099, 0.117)) == "better"
    assert verdict(of(0.15, 0.11, 0.17), of(0.176, 0.165, 0.187)) == "no difference"


def test_swapping_and_turning_round_mirror_the_verdict():
    mirrored = {"better": "worse", "worse": "better", "no difference": "no difference"}
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = (Score(m, m - w, m + w, 10) for m, w in rng.random((2, 2)))
        found = verdict(a, b)
        assert verdict(b, a) == mirrored[found] == verdict(a, b, smaller_is_better=True)
        assert (found == "better") == (a.low > b.high)
        assert verdict(a.to_dict(), b) == found and verdict(a, a) == "no difference"


@pytest.mark.parametrize("missing", [None, 0.5, of(None, None, None), of(0.5, None, None), Score(math.nan, 0, 1, 3)])
def test_without_an_interval_nothing_is_claimed(missing):
    assert verdict(missing, of(0.1, 0.05, 0.15)) == verdict(of(0.1, 0.05, 0.15), missing) == "unknown"


def test_names_tell_which_way_is_better():
    smaller = ("loss", "squared_error", "Mean rank, x", "perplexity, captions alone", "dead entries, pairs")
    assert all(map(is_smaller_better, smaller))
    assert not any(map(is_smaller_better, ("accuracy", "R@1", "CIDEr-D", "mean recall", "gain from the image")))


def test_paired_scores_tell_what_overlapping_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    better = paired_bootstrap(hard + 0.02 + 0.01 * rng.random(200), hard)
    assert (paired_verdict(better), paired_verdict(better, smaller_is_better=True)) == ("better", "worse")
    assert paired_verdict(paired_bootstrap(hard, hard + 0.02)) == "worse"
    assert paired_verdict(paired_bootstrap(hard, hard)) == "no difference"
    assert paired_verdict(paired_bootstrap(rng.random(200), rng.random(200))) == "no difference"


def test_one_seed_is_what_it_was_and_equal_seeds_keep_the_interval_of_the_items():
    assert over_seeds([of(0.6, 0.58, 0.62)]) == of(0.6, 0.58, 0.62)
    whole = over_seeds([of(0.6, 0.58, 0.62)] * 3)
    assert (whole["value"], whole["low"], whole["high"]) == pytest.approx((0.6, 0.58, 0.62))
    assert whole["seeds"] == [0.6] * 3 and whole["n"] == 100 and whole["chance"] == 0.5


def test_the_seeds_part_is_students_interval_of_their_mean():
    for n in (2, 3, 5, 10, 40):
        values = np.random.default_rng(n).normal(0.6, 0.05, n)
        whole = over_seeds([of(value, value, value) for value in values.tolist()])
        low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
        assert (whole["low"], whole["high"]) == pytest.approx((low, high))


def test_both_parts_add_as_variances_and_undefined_stays_undefined():
    both = over_seeds([of(0.5, 0.48, 0.52), of(0.7, 0.68, 0.72)])
    seeds = over_seeds([of(0.5, 0.5, 0.5), of(0.7, 0.7, 0.7)])
    assert both["high"] - both["value"] == pytest.approx(math.hypot(0.02, seeds["high"] - seeds["value"]))
    none = over_seeds([of(0.5, 0.4, 0.6), of(None, None, None)])
    assert none["value"] is None and none["low"] is None
