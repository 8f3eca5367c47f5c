import numpy as np
import pytest
from scipy import stats

from unimo.errors import DataError, NumericsError
from unimo.metrics import classification, intervals
from unimo.metrics.classification import (
    accuracy,
    accuracy_by_kind,
    f1,
    matthews,
    pearson,
    pearson_spearman,
    share_by_kind,
    spearman,
)

CORRELATIONS = (pearson, spearman, pearson_spearman)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def without_intervals(monkeypatch):
    """A thousand cases have no time for a thousand resamples each."""
    monkeypatch.setattr(intervals, "bootstrap", lambda *_, **__: (0.0, 0.0))
    monkeypatch.setattr(classification, "RESAMPLES", 1)


def test_accuracy_counts_equal_labels_of_any_type():
    score = accuracy(["cat", "dog", "cat"], ["cat", "cat", "cat"], chance=0.5)
    assert score.value == pytest.approx(2 / 3)
    assert (score.n, score.chance) == (3, 0.5)


def two_class_cases(rng, n=1000):
    for _ in range(n):
        size = rng.integers(2, 60)
        yield rng.integers(0, 2, size), (rng.random(size) < rng.random()).astype(int)


def test_f1_and_matthews_of_a_thousand_cases_equal_their_definitions(rng, without_intervals):
    for label, said in two_class_cases(rng):
        precision = (said & label).sum() / max(said.sum(), 1)
        recall = (said & label).sum() / max(label.sum(), 1)
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert f1(said, label).value == pytest.approx(expected, abs=1e-14)
        # Matthews' coefficient is the Pearson correlation of two 0/1 variables
        expected = np.corrcoef(said, label)[0, 1] if len({*said}) == len({*label}) == 2 else 0.0
        assert matthews(said, label).value == pytest.approx(expected, abs=1e-14)


def test_f1_and_matthews_of_a_thousand_cases_equal_scikit_learn(rng, without_intervals):
    pytest.importorskip("sklearn", reason="scikit-learn is large; the definitions are checked instead")
    from sklearn import config_context
    from sklearn.metrics import f1_score, matthews_corrcoef

    with config_context(assume_finite=True, skip_parameter_validation=True):
        for label, said in two_class_cases(rng):
            assert f1(said, label).value == pytest.approx(f1_score(label, said, zero_division=0), abs=1e-14)
            assert matthews(said, label).value == pytest.approx(matthews_corrcoef(label, said), abs=1e-14)


def test_the_positive_class_can_be_named():
    assert f1(["yes", "no", "yes"], ["yes", "yes", "no"], positive="yes").value == pytest.approx(0.5)
    assert f1(["yes", "no", "yes"], ["yes", "yes", "no"], positive="no").value == 0


def test_correlations_of_a_thousand_cases_equal_scipy(rng, without_intervals):
    for _ in range(1000):
        n = rng.integers(5, 80)
        x = rng.normal(size=n) * 10.0 ** rng.integers(-6, 6) + 1e3
        y = np.round(x / np.abs(x).max() + rng.normal(size=n), 1)  # with ties
        linear, by_rank = stats.pearsonr(x, y).statistic, stats.spearmanr(x, y).statistic
        assert pearson(x, y).value == pytest.approx(linear, abs=1e-9)
        assert spearman(x, y).value == pytest.approx(by_rank, abs=1e-12)
        assert pearson_spearman(x, y).value == pytest.approx((linear + by_rank) / 2, abs=1e-9)


def test_intervals_agree_with_scipys_bootstrap(rng):
    x = rng.normal(size=150)
    y = np.round(x + rng.normal(size=150), 1)

    def linear(a, b):
        return stats.pearsonr(a, b).statistic

    def by_rank(a, b):
        return stats.spearmanr(a, b).statistic

    def both(a, b):
        return (linear(a, b) + by_rank(a, b)) / 2

    for ours, theirs in ((pearson, linear), (spearman, by_rank), (pearson_spearman, both)):
        score = ours(x, y)
        expected = stats.bootstrap(
            (x, y),
            theirs,
            paired=True,
            vectorized=False,
            n_resamples=500,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        assert (score.low, score.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_groups_widen_every_interval(rng):
    label = rng.integers(0, 2, 60)
    said = np.where(rng.random(60) < 0.8, label, 1 - label)
    copies, groups = 6, np.repeat(np.arange(60), 6)
    for metric in (accuracy, f1, matthews, *CORRELATIONS):
        apart = metric(np.repeat(said, copies), np.repeat(label, copies))
        batch_size = metric(np.repeat(said, copies), np.repeat(label, copies), groups=groups)
        assert batch_size.value == pytest.approx(apart.value)
        assert batch_size.high - batch_size.low > 1.8 * (apart.high - apart.low)


def test_a_model_that_says_one_thing_scores_nothing():
    label = np.array([0, 1, 1, 0])
    for metric in (matthews, *CORRELATIONS):
        assert metric(np.ones(4), label).value == 0
    assert f1(np.zeros(4), label).value == 0


def test_perfect_and_reversed_predictions(rng):
    values = rng.normal(size=50)
    for metric in CORRELATIONS:
        assert metric(values, 3 * values + 1).value == pytest.approx(1)
        assert metric(values, -values).value == pytest.approx(-1)


def test_any_order_of_items_gives_the_same_value_to_the_last_digit(rng):
    x, order = rng.normal(size=(2, 97))
    y, label = x + rng.normal(size=97), x > 0.3
    for metric in CORRELATIONS:
        assert metric(x, y).value == metric(x[np.argsort(order)], y[np.argsort(order)]).value
    for metric in (accuracy, f1, matthews):
        assert metric(y > 0, label).value == metric((y > 0)[np.argsort(order)], label[np.argsort(order)]).value


def test_accuracy_of_each_kind_of_item():
    said, label = ["a", "b", "a", "b", "a"], ["a", "a", "a", "b", "b"]
    scores = accuracy_by_kind(said, label, ["x", "x", "y", "y", "y"], groups=[0, 0, 1, 2, 2])
    assert list(scores) == ["x", "y"]
    assert (scores["x"].value, scores["x"].n) == (0.5, 2)
    assert (scores["y"].value, scores["y"].n) == (pytest.approx(2 / 3), 3)
    assert scores["x"].low == scores["x"].high == 0.5  # one group alone: nothing to resample
    assert scores["y"] == accuracy(said[2:], label[2:], groups=[1, 2, 2])
    with pytest.raises(DataError, match="one kind per item"):
        accuracy_by_kind(said, label, ["x"])
    with pytest.raises(DataError, match="nothing to score"):
        share_by_kind([], [])


def test_what_does_not_fit_is_a_located_error():
    with pytest.raises(DataError):
        accuracy([1, 2], [1])
    with pytest.raises(NumericsError, match="item 1"):
        pearson([0.0, np.nan], [0.0, 1.0])
    for metric in (accuracy, f1, matthews, *CORRELATIONS):
        with pytest.raises(DataError, match="nothing to score"):
            metric([], [])
