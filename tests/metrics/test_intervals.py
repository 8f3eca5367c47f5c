import numpy as np
import pytest
from scipy import stats

from unimo.errors import DataError
from unimo.metrics.intervals import draws, fraction_score, mean_score, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 7), (13, 40), (500, 1000), (20, 20)])
def test_wilson_equals_scipy(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(DataError):
        wilson(k, n)


def test_a_resample_draws_as_many_units_as_there_are():
    blocks = np.concatenate(list(draws(17, seed=3, resamples=50)))
    assert blocks.shape == (50, 17)
    assert (blocks.sum(axis=1) == 17).all()
    assert len(np.unique(blocks, axis=0)) > 40


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_large_sample():
    values = np.random.default_rng(0).normal(5, 2, size=2000)
    score = mean_score(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert score.value == pytest.approx(values.mean())
    assert (score.value - score.low, score.high - score.value) == pytest.approx((half, half), rel=0.1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(200):
        score = mean_score(rng.exponential(size=60), seed=seed)
        inside += score.low <= 1 <= score.high
    assert 0.88 <= inside / 200 <= 0.98


def test_copies_of_one_image_do_not_narrow_the_interval():
    values = np.random.default_rng(2).random(100)
    once = mean_score(values, seed=5)
    copied = mean_score(np.repeat(values, 5), groups=np.repeat(np.arange(100), 5), seed=5)
    naive = mean_score(np.repeat(values, 5), seed=5)
    assert (copied.value, copied.low, copied.high) == pytest.approx((once.value, once.low, once.high))
    assert naive.high - naive.low < 0.6 * (copied.high - copied.low)


def test_groups_are_labels_not_positions():
    values = np.random.default_rng(3).random(30)
    groups = np.array([f"image-{i % 7}" for i in range(30)])
    order = np.random.default_rng(4).permutation(30)
    one, other = mean_score(values, groups=groups), mean_score(values[order], groups=groups[order])
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


@pytest.mark.parametrize("hits", [np.zeros(40), np.ones(40)])
def test_a_perfect_or_hopeless_fraction_still_has_a_width(hits):
    score = fraction_score(hits)
    assert (score.low, score.high) == pytest.approx(wilson(hits.sum(), 40))
    assert score.high - score.low > 0.05
    assert fraction_score(hits, groups=np.arange(40) // 4).high - score.low >= score.high - score.low


def test_nothing_to_score_is_an_error():
    with pytest.raises(DataError, match="nothing to score"):
        mean_score([])
    with pytest.raises(DataError, match="group"):
        mean_score([1.0, 2.0], groups=[1])
