import numpy as np
import pytest
from scipy import stats

from unimo.errors import DataError
from unimo.metrics.codebook import code_use, codebook_report, dead_share, perplexity


def test_use_counts_every_choice():
    indices = np.array([[0, 2], [2, 3], [2, 0]])
    assert code_use(indices, 5).tolist() == [2, 0, 3, 1, 0]
    assert dead_share(code_use(indices, 5)) == pytest.approx(2 / 5)


def test_perplexity_is_the_exponential_of_the_entropy():
    counts = np.random.default_rng(0).integers(0, 9, 64)
    assert perplexity(counts) == pytest.approx(np.exp(stats.entropy(counts)))


def test_perplexity_runs_from_one_code_to_all():
    assert perplexity([0, 7, 0]) == pytest.approx(1)
    assert perplexity([4] * 32) == pytest.approx(32)


def test_the_report_holds_together():
    indices = np.random.default_rng(0).integers(0, 50, size=(200, 8))
    report = codebook_report(indices, 100)
    assert sum(report["use"]) == report["choices"] == 1600
    assert len(report["use"]) == report["codes"] == 100
    assert report["dead_share"] == 0.5
    assert 45 < report["perplexity"] <= 50


@pytest.mark.parametrize("indices", [[[0, 5]], [[-1, 0]], [], [[0.5]]])
def test_an_index_outside_the_dictionary_is_an_error(indices):
    with pytest.raises(DataError):
        code_use(np.array(indices), 5)
