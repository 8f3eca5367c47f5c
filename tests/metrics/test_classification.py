import numpy as np
import pytest
from scipy import stats

from unimo.errors import DataError, NumericsError
from unimo.metrics.classification import accuracy, f1, matthews, pearson, spearman


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_accuracy_counts_equal_labels_of_any_type():
    score = accuracy(["cat", "dog", "cat"], ["cat", "cat", "cat"], chance=0.5)
    assert score.value == pytest.approx(2 / 3)
    assert (score.n, score.chance) == (3, 0.5)


def test_f1_and_matthews_equal_their_definitions(rng):
    for _ in range(200):
        n = rng.integers(5, 60)
        label, said = rng.integers(0, 2, n), rng.integers(0, 2, n)
        precision = (said & label).sum() / max(said.sum(), 1)
        recall = (said & label).sum() / max(label.sum(), 1)
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert f1(said, label).value == pytest.approx(expected)
        # Matthews' coefficient is the Pearson correlation of two 0/1 variables
        expected = np.corrcoef(said, label)[0, 1] if len({*said}) == len({*label}) == 2 else 0.0
        assert matthews(said, label).value == pytest.approx(expected)


def test_the_positive_class_can_be_named():
    assert f1(["yes", "no", "yes"], ["yes", "yes", "no"], positive="yes").value == pytest.approx(0.5)
    assert f1(["yes", "no", "yes"], ["yes", "yes", "no"], positive="no").value == 0


def test_correlations_equal_scipy(rng):
    for _ in range(100):
        n = rng.integers(5, 80)
        x = rng.normal(size=n) * 10.0 ** rng.integers(-6, 6) + 1e3
        y = np.round(x / np.abs(x).max() + rng.normal(size=n), 1)  # with ties
        assert pearson(x, y).value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
        assert spearman(x, y).value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_intervals_agree_with_scipys_bootstrap(rng):
    x = rng.normal(size=150)
    y = np.round(x + rng.normal(size=150), 1)
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        score = ours(x, y)
        expected = stats.bootstrap(
            (x, y),
            lambda a, b, theirs=theirs: theirs(a, b).statistic,
            paired=True,
            vectorized=False,
            n_resamples=1000,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        assert (score.low, score.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_groups_widen_every_interval(rng):
    label = rng.integers(0, 2, 60)
    said = np.where(rng.random(60) < 0.8, label, 1 - label)
    copies, groups = 6, np.repeat(np.arange(60), 6)
    for metric in (accuracy, f1, matthews, pearson, spearman):
        apart = metric(np.repeat(said, copies), np.repeat(label, copies))
        together = metric(np.repeat(said, copies), np.repeat(label, copies), groups=groups)
        assert together.value == pytest.approx(apart.value)
        assert together.high - together.low > 1.8 * (apart.high - apart.low)


def test_a_model_that_says_one_thing_scores_nothing():
    label = np.array([0, 1, 1, 0])
    for metric in (matthews, pearson, spearman):
        assert metric(np.ones(4), label).value == 0
    assert f1(np.zeros(4), label).value == 0


def test_perfect_and_reversed_predictions(rng):
    values = rng.normal(size=50)
    for metric in (pearson, spearman):
        assert metric(values, 3 * values + 1).value == pytest.approx(1)
        assert metric(values, -values).value == pytest.approx(-1)


def test_what_does_not_fit_is_a_located_error():
    with pytest.raises(DataError):
        accuracy([1, 2], [1])
    with pytest.raises(NumericsError, match="item 1"):
        pearson([0.0, np.nan], [0.0, 1.0])
    for metric in (accuracy, f1, matthews, pearson, spearman):
        with pytest.raises(DataError, match="nothing to score"):
            metric([], [])
