"""Against the normal distribution and scipy's permutation test, and by what a p-value promises."""

import numpy as np
import pytest
from random_cases import corpora
from scipy import stats

from unimo.errors import DataError, NumericsError
from unimo.metrics.captions import bleu_of_sums, bleu_sums_each
from unimo.metrics.paired import holm, paired_bootstrap


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_for_many_items_it_is_the_normal_test_and_near_the_permutation_test(rng):
    first = rng.normal(size=800)
    second = first + rng.normal(size=800) * 0.5 - 0.035
    apart = first - second
    error = apart.std() / np.sqrt(800)
    expected = 2 * stats.norm.sf(abs(apart.mean()) / error)
    exchanged = stats.permutation_test((apart,), np.mean, permutation_type="samples", n_resamples=999, rng=rng)
    assert 0.01 < expected < 0.5
    result = paired_bootstrap(first, second)
    assert result.p_value == pytest.approx(expected, abs=0.03) == pytest.approx(exchanged.pvalue, abs=0.03)
    assert result.difference.low == pytest.approx(apart.mean() - 1.96 * error, abs=0.2 * error)
    assert result.difference.high == pytest.approx(apart.mean() + 1.96 * error, abs=0.2 * error)
    assert (result.first, result.second) == pytest.approx((first.mean(), second.mean()))


def test_where_there_is_no_difference_small_p_values_are_as_rare_as_they_say():
    rng = np.random.default_rng(3)
    cases = [paired_bootstrap(*rng.exponential(size=(2, 40)), seed=case, resamples=200) for case in range(300)]
    for level in (0.05, 0.2, 0.5):
        assert np.mean([case.p_value <= level for case in cases]) == pytest.approx(level, abs=0.07)


def test_copies_of_one_image_are_no_new_evidence(rng):
    first, gain = rng.normal(size=(2, 30))
    second = first - (gain - gain.mean() + 0.3)
    once, copies = paired_bootstrap(first, second), (np.repeat(first, 5), np.repeat(second, 5))
    copied = paired_bootstrap(*copies, groups=np.repeat(np.arange(30), 5))
    assert copied.p_value == pytest.approx(once.p_value)
    assert copied.difference.low == pytest.approx(once.difference.low)
    assert paired_bootstrap(*copies).p_value < 0.5 * copied.p_value


def test_signs_equal_systems_and_far_worse_ones(rng):
    first, second = rng.normal(size=(2, 50))
    one, other = paired_bootstrap(first, second), paired_bootstrap(second, first)
    assert one.p_value == other.p_value and one.difference.value == -other.difference.value
    assert one.difference.low == pytest.approx(-other.difference.high)
    same = paired_bootstrap(first, first)
    assert (same.p_value, same.difference.value, same.difference.low, same.difference.high) == (1, 0, 0, 0)
    assert 0 < paired_bootstrap(first, first - 1).p_value < 0.002  # a finite number of draws never shows zero
    # equal means are no difference, whatever their rounding
    assert paired_bootstrap([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]).p_value == 1


def test_scores_that_are_no_mean_are_compared_by_their_sums():
    candidates, references = max(corpora(60, seed=5), key=lambda case: len(case[0]))
    own = bleu_sums_each(candidates, references)
    other = bleu_sums_each([targets[-1][::-1] + targets[0] for targets in references], references)
    result = paired_bootstrap(own, other, combine=lambda totals: bleu_of_sums(totals, order=1))
    expected = [bleu_of_sums(sums.sum(0, keepdims=True), order=1)[0] for sums in (own, other)]
    assert (result.first, result.second) == pytest.approx(tuple(expected))
    assert result.difference.low <= result.difference.value <= result.difference.high


def test_what_does_not_fit_is_a_located_error():
    for pair, options in (
        (([1.0], [1.0, 2.0]), {}),
        (([], []), {}),
        (([1.0], [1.0]), {"combine": lambda totals: totals[:, 0]}),
        (([1.0, 2.0], [1.0, 2.0]), {"groups": [1]}),
    ):
        with pytest.raises(DataError):
            paired_bootstrap(*pair, **options)
    with pytest.raises(NumericsError, match="second system, item 1"):
        paired_bootstrap([1.0, 2.0], [1.0, np.nan])


def test_holm_is_bonferroni_for_the_smallest_and_never_decreases():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]


def test_holm_keeps_the_rate_of_any_false_claim():
    rng = np.random.default_rng(0)
    wrong = [min(holm(rng.random(8).tolist())) < 0.05 for _ in range(4000)]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.012)
