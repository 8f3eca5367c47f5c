"""Several seeds as one score."""

import math

import numpy as np
import pytest
from scipy import stats

from unimo.metrics.seeds import T95, over_seeds


def score(value, half=0.02):
    return {"value": value, "low": value - half, "high": value + half, "n": 10, "chance": 0.5}


def test_one_seed_is_what_it_was_and_equal_seeds_keep_the_interval_of_the_items():
    assert over_seeds([score(0.6)]) == score(0.6)
    whole = over_seeds([score(0.6)] * 3)
    assert (whole["value"], whole["low"], whole["high"]) == pytest.approx((0.6, 0.58, 0.62))
    assert whole["seeds"] == [0.6] * 3 and whole["n"] == 10 and whole["chance"] == 0.5


def test_the_seeds_part_is_students_interval_of_their_mean():
    for n in (2, 3, 5, 10, 40):
        values = np.random.default_rng(n).normal(0.6, 0.05, n)
        whole = over_seeds([score(float(value), half=0.0) for value in values])
        low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
        rough = 1e-3 if n - 1 in T95 else 0.15  # beyond the table the point is 2
        assert whole["high"] - whole["value"] == pytest.approx(high - values.mean(), rel=rough)
        assert whole["value"] - whole["low"] == pytest.approx(values.mean() - low, rel=rough)


def test_both_parts_add_as_variances_and_undefined_stays_undefined():
    both = over_seeds([score(0.5), score(0.7)])
    seeds = over_seeds([score(0.5, 0.0), score(0.7, 0.0)])
    assert both["high"] - both["value"] == pytest.approx(math.hypot(0.02, seeds["high"] - seeds["value"]))
    none = over_seeds([score(0.5), {**score(0.5), "value": None, "low": None, "high": None}])
    assert none["value"] is None and none["low"] is None
