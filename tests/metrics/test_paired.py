"""Against scipy's permutation test, a binomial test and the normal distribution, and by what a p-value promises."""

import numpy as np
import pytest
from random_cases import corpora
from scipy import stats

from unimo.errors import DataError, NumericsError
from unimo.metrics import bleu_of_sums, bleu_sums_each, paired_bootstrap, paired_randomisation

BOTH = (paired_bootstrap, paired_randomisation)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def mean_difference(x, y, axis):
    return x.mean(axis=axis) - y.mean(axis=axis)


def test_a_thousand_small_cases_equal_scipys_exact_permutation_test(rng):
    for case in range(1000):
        n = rng.integers(2, 8)
        first = np.round(rng.normal(size=n), 1) if case % 2 else rng.integers(0, 2, n).astype(float)  # with ties
        second = np.round(first + rng.normal(size=n) * (rng.random(n) < 0.7), 1)
        theirs = stats.permutation_test(
            (first, second), mean_difference, permutation_type="samples", vectorized=True, n_resamples=np.inf
        )
        ours = paired_randomisation(first, second, swaps=2**8)
        assert ours.difference.value == pytest.approx(theirs.statistic, abs=1e-12)
        assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-12)


def test_random_exchanges_come_near_the_exact_ones(rng):
    for _ in range(5):
        first, second = rng.normal(size=(2, 12))
        first += 0.7
        exact, drawn = paired_randomisation(first, second), paired_randomisation(first, second, swaps=4000)
        assert exact.test == "randomisation, all 4096 exchanges"
        assert drawn.test == "randomisation, 4000 exchanges"
        assert drawn.p_value == pytest.approx(exact.p_value, abs=0.025)


def test_for_right_and_wrong_answers_it_is_the_sign_test(rng):
    """Where answers are right or wrong, exchanges toss a coin for each item on which the systems differ."""
    first = rng.random(300) < 0.7
    second = np.where(rng.random(300) < 0.2, rng.random(300) < 0.4, first)
    won, lost = (first & ~second).sum(), (~first & second).sum()
    expected = stats.binomtest(won, won + lost).pvalue
    assert 0.01 < expected < 0.9
    assert paired_randomisation(first, second).p_value == pytest.approx(expected, abs=0.02)


def test_for_many_items_both_tests_are_the_normal_one(rng):
    first = rng.normal(size=800)
    second = first + rng.normal(size=800) * 0.5 - 0.035
    apart = first - second
    error = apart.std() / np.sqrt(800)
    expected = 2 * stats.norm.sf(abs(apart.mean()) / error)
    assert 0.01 < expected < 0.5
    for test in BOTH:
        result = test(first, second)
        assert result.p_value == pytest.approx(expected, abs=0.03)
        assert result.difference.value == pytest.approx(apart.mean())
        assert result.difference.low == pytest.approx(apart.mean() - 1.96 * error, abs=0.2 * error)
        assert result.difference.high == pytest.approx(apart.mean() + 1.96 * error, abs=0.2 * error)
        assert (result.first, result.second) == pytest.approx((first.mean(), second.mean()))


@pytest.mark.parametrize("test", BOTH)
def test_where_there_is_no_difference_small_p_values_are_as_rare_as_they_say(test):
    draw = np.random.default_rng(3)
    shape = (2, 40)
    settings = {"resamples": 200} if test is paired_bootstrap else {"swaps": 200}
    p_values = np.array([test(*draw.exponential(size=shape), seed=case, **settings).p_value for case in range(300)])
    for level in (0.05, 0.2, 0.5):
        assert (p_values <= level).mean() == pytest.approx(level, abs=0.07)


@pytest.mark.parametrize("test", BOTH)
def test_copies_of_one_image_are_no_new_evidence(test, rng):
    first, gain = rng.normal(size=(2, 30))
    second = first - (gain - gain.mean() + 0.3)
    once = test(first, second)
    copied = test(np.repeat(first, 5), np.repeat(second, 5), groups=np.repeat(np.arange(30), 5))
    naive = test(np.repeat(first, 5), np.repeat(second, 5))
    assert copied.p_value == pytest.approx(once.p_value)
    assert copied.difference.low == pytest.approx(once.difference.low)
    assert naive.p_value < 0.5 * copied.p_value


@pytest.mark.parametrize("test", BOTH)
def test_the_other_way_round_only_the_sign_changes(test, rng):
    first, second = rng.normal(size=(2, 50))
    one, other = test(first, second), test(second, first)
    assert one.p_value == other.p_value
    assert one.difference.value == -other.difference.value
    assert one.difference.low == pytest.approx(-other.difference.high)


@pytest.mark.parametrize("test", BOTH)
def test_a_system_against_itself_and_against_a_far_worse_one(test, rng):
    first = rng.random(40)
    same = test(first, first)
    assert (same.p_value, same.difference.value, same.difference.low, same.difference.high) == (1, 0, 0, 0)
    worse = test(first, first - 1)
    assert 0 < worse.p_value < 0.002  # a finite number of draws never shows zero


def test_scores_that_are_no_mean_are_compared_by_their_sums():
    """Corpus BLEU of two systems, each exchange written out."""
    for candidates, references in [case for case in corpora(60, seed=5) if len(case[0]) == 6][:8]:
        rivals = [wanted[-1][::-1] + wanted[0] for wanted in references]
        own, other = bleu_sums_each(candidates, references), bleu_sums_each(rivals, references)

        def unigram(totals):
            return bleu_of_sums(totals, order=1)

        def apart(swapped, own=own, other=other):
            chosen = np.array(swapped, dtype=bool)[:, None]
            first, second = np.where(chosen, other, own), np.where(chosen, own, other)
            return (unigram(first.sum(0)[None]) - unigram(second.sum(0)[None]))[0]

        observed = apart([0] * 6)
        every = [apart([choice >> place & 1 for place in range(6)]) for choice in range(64)]
        expected = np.mean(np.abs(every) >= abs(observed) * (1 - 1e-12))
        result = paired_randomisation(own, other, combine=unigram)
        assert result.difference.value == pytest.approx(observed)
        assert result.p_value == pytest.approx(expected)
        assert paired_bootstrap(own, other, combine=unigram).difference == result.difference


def test_equal_means_are_no_difference_whatever_their_rounding():
    first, second = np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1])
    assert first.sum() != second.sum()  # by one bit
    assert [test(first, second).p_value for test in BOTH] == [1, 1]


def test_as_a_dictionary():
    stored = paired_randomisation([1.0, 0.0], [0.0, 0.0]).to_dict()
    assert stored["difference"]["value"] == 0.5
    assert stored["p_value"] == 1  # one of two items differs: whoever got it is chance
    assert stored["test"] == "randomisation, all 4 exchanges"


@pytest.mark.parametrize("test", BOTH)
def test_what_does_not_fit_is_a_located_error(test):
    with pytest.raises(DataError, match="same items"):
        test([1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="same items"):
        test([], [])
    with pytest.raises(DataError, match="sums"):
        test([1.0], [1.0], combine=lambda totals: totals[:, 0])
    with pytest.raises(DataError, match="group"):
        test([1.0, 2.0], [1.0, 2.0], groups=[1])
    with pytest.raises(NumericsError, match="second system, item 1"):
        test([1.0, 2.0], [1.0, np.nan])
