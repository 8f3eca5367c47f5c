"""Against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from unimo.metrics import classification, intervals
from unimo.metrics.classification import accuracy, f1, fraction_by_kind, matthews, pearson, pearson_spearman, spearman

CORRELATIONS = (pearson, spearman, pearson_spearman)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def without_intervals(monkeypatch):
    """Hundreds of cases have no time for a thousand resamples each."""
    for module in (classification, intervals):
        monkeypatch.setattr(module, "draws", lambda units, **_: [np.ones((1, units), dtype=np.int64)])


@pytest.mark.filterwarnings("ignore:A single label")
def test_f1_and_matthews_equal_scikit_learn(rng, without_intervals):
    for _ in range(300):
        label, predicted = rng.integers(0, 2, rng.integers(2, 60)), None
        predicted = (rng.random(len(label)) < rng.random()).astype(int)
        assert f1(predicted, label).value == pytest.approx(f1_score(label, predicted, zero_division=0), abs=1e-14)
        assert matthews(predicted, label).value == pytest.approx(matthews_corrcoef(label, predicted), abs=1e-14)


def test_correlations_equal_scipy(rng, without_intervals):
    for _ in range(200):
        n = rng.integers(5, 80)
        x = rng.normal(size=n) * 10.0 ** rng.integers(-6, 6) + 1e3
        y = np.round(x / np.abs(x).max() + rng.normal(size=n), 1)  # with ties
        linear, by_rank = stats.pearsonr(x, y).statistic, stats.spearmanr(x, y).statistic
        assert pearson(x, y).value == pytest.approx(linear, abs=1e-9)
        assert spearman(x, y).value == pytest.approx(by_rank, abs=1e-12)
        assert pearson_spearman(x, y).value == pytest.approx((linear + by_rank) / 2, abs=1e-9)


def test_intervals_of_correlations_agree_with_scipys_bootstrap(rng):
    x = rng.normal(size=150)
    y = np.round(x + rng.normal(size=150), 1)
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        expected = stats.bootstrap(
            (x, y), lambda a, b, theirs=theirs: theirs(a, b).statistic, paired=True, vectorized=False, n_resamples=500,
            method="percentile", rng=np.random.default_rng(1),
        ).confidence_interval  # fmt: skip
        score = ours(x, y)
        assert (score.low, score.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_groups_widen_every_interval(rng):
    label = rng.integers(0, 2, 60)
    predicted = np.where(rng.random(60) < 0.8, label, 1 - label)
    pair, groups = (np.repeat(predicted, 6), np.repeat(label, 6)), np.repeat(np.arange(60), 6)
    for metric in (accuracy, f1, matthews, *CORRELATIONS):
        apart, grouped = metric(*pair), metric(*pair, groups=groups)
        assert grouped.value == pytest.approx(apart.value)
        assert grouped.high - grouped.low > 1.8 * (apart.high - apart.low)


def test_a_constant_prediction_scores_nothing_and_a_perfect_one_everything(rng):
    label = np.array([0, 1, 1, 0])
    for metric in (matthews, *CORRELATIONS):
        assert metric(np.ones(4), label).value == 0
    assert f1(np.zeros(4), label).value == 0
    values = rng.normal(size=50)
    for metric in CORRELATIONS:
        assert (metric(values, 3 * values + 1).value, metric(values, -values).value) == pytest.approx((1, -1))


def test_any_order_of_items_gives_the_same_value_to_the_last_digit(rng):
    x, order = rng.normal(size=97), rng.permutation(97)
    y, label = x + rng.normal(size=97), x > 0.3
    for metric in CORRELATIONS:
        assert metric(x, y).value == metric(x[order], y[order]).value
    for metric in (accuracy, f1, matthews):
        assert metric(y > 0, label).value == metric((y > 0)[order], label[order]).value


def test_labels_of_any_type_a_named_class_and_kinds_of_items():
    score = accuracy(["cat", "dog", "cat"], ["cat", "cat", "cat"], chance=0.5)
    assert (score.value, score.n, score.chance) == (pytest.approx(2 / 3), 3, 0.5)
    assert f1(["yes", "no", "yes"], ["yes", "yes", "no"], positive="yes").value == pytest.approx(0.5)
    assert f1(["yes", "no", "yes"], ["yes", "yes", "no"], positive="no").value == 0
    scores = fraction_by_kind([1, 0, 1, 1, 0], ["x", "x", "y", "y", "y"], groups=[0, 0, 1, 2, 2])
    assert list(scores) == ["x", "y"]
    assert (scores["x"].value, scores["x"].n, scores["y"].value) == (0.5, 2, pytest.approx(2 / 3))
    assert scores["x"].low == scores["x"].high == 0.5  # one group alone: nothing to resample
    assert scores["y"] == accuracy([1, 1, 0], [1, 1, 1], groups=[1, 2, 2])
