"""Better, worse, no difference: by intervals that lie apart, or by a paired test."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unimo.metrics import Score, paired_bootstrap, paired_verdict, verdict


def told(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 100, "chance": None}


def test_scores_that_are_apart_against_us_are_worse():
    # DAQUAR and CoLA of the README, fine-tuned against random weights: apart, and not to our credit.
    assert verdict(told(0.107, 0.099, 0.117), told(0.176, 0.165, 0.187)) == "worse"
    assert verdict(told(0.0, 0.0, 0.0), told(0.20, 0.12, 0.29)) == "worse"
    assert verdict(told(0.176, 0.165, 0.187), told(0.107, 0.099, 0.117)) == "better"
    assert verdict(told(0.15, 0.11, 0.17), told(0.176, 0.165, 0.187)) == "no difference"


@pytest.mark.parametrize("seed", range(3))
def test_swapping_and_turning_round_mirror_the_verdict(seed):
    mirrored = {"better": "worse", "worse": "better", "no difference": "no difference"}
    rng = np.random.default_rng(seed)
    for _ in range(100):
        a, b = (Score(m, m - w, m + w, 10) for m, w in rng.random((2, 2)))
        found = verdict(a, b)
        assert verdict(b, a) == mirrored[found] == verdict(a, b, smaller_is_better=True)
        assert verdict(a, a) == "no difference"
        assert (found == "better") == (a.low > b.high)
        assert verdict(a.to_dict(), b) == found


@pytest.mark.parametrize(
    "missing", [None, 0.5, told(None, None, None), told(0.5, None, None), Score(math.nan, 0, 1, 3)]
)
def test_without_an_interval_nothing_is_claimed(missing):
    assert verdict(missing, told(0.1, 0.05, 0.15)) == verdict(told(0.1, 0.05, 0.15), missing) == "unknown"


def test_paired_scores_tell_what_overlapping_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    first, second = hard + 0.02 + 0.01 * rng.random(200), hard
    assert paired_verdict(paired_bootstrap(first, second)) == "better"
    assert paired_verdict(paired_bootstrap(second, first)) == "worse"
    assert paired_verdict(paired_bootstrap(first, second), smaller_is_better=True) == "worse"
    assert paired_verdict(paired_bootstrap(hard, hard)) == "no difference"
    assert paired_verdict(paired_bootstrap(rng.random(200), rng.random(200))) == "no difference"
