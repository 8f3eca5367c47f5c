import itertools

import numpy as np
import pytest

from unimo.errors import DataError, NumericsError
from unimo.metrics.retrieval import hit_probability, mean_rank, recall_at_k, retrieval_report


def plain_recall(similarity, relevant, k):
    """By sorting, for scores without ties."""
    hits = [bool(set(np.argsort(-row)[:k]) & set(np.atleast_1d(right))) for row, right in zip(similarity, relevant)]
    return np.mean(hits)


@pytest.mark.parametrize("seed", range(5))
def test_equals_sorting_when_no_scores_tie(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.normal(size=(300, 41))
    relevant = [rng.choice(41, size=rng.integers(1, 5), replace=False) for _ in range(300)]
    scores = recall_at_k(similarity, relevant, ks=(1, 3, 10, 41))
    for k in (1, 3, 10, 41):
        assert scores[f"R@{k}"].value == pytest.approx(plain_recall(similarity, relevant, k))
        assert scores[f"R@{k}"].low <= scores[f"R@{k}"].value <= scores[f"R@{k}"].high


def test_ties_equal_the_mean_over_all_orders():
    row = np.array([[2.0, 1, 1, 1, 0]])
    for right, k in itertools.product([[0], [1], [1, 3], [4], [1, 4]], range(1, 6)):
        shown = [
            bool(set(np.array(order)[np.argsort(-row[0][list(order)], kind="stable")[:k]]) & set(right))
            for order in itertools.permutations(range(5))
        ]
        assert recall_at_k(row, [right], ks=(k,))[f"R@{k}"].value == pytest.approx(np.mean(shown)), (right, k)


def test_the_mean_rank_equals_scipys_ranks_when_no_scores_tie():
    from scipy import stats

    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(200, 31))
    relevant = [rng.choice(31, size=rng.integers(1, 5), replace=False) for _ in range(200)]
    ranks = stats.rankdata(-similarity, axis=1)
    best = [row[right].min() for row, right in zip(ranks, relevant)]
    score = mean_rank(similarity, relevant)
    assert score.value == pytest.approx(np.mean(best))
    assert score.low < score.value < score.high


def test_tied_ranks_equal_the_mean_over_all_orders():
    row = np.array([[2.0, 1, 1, 1, 0]])
    for right in ([0], [1], [1, 3], [1, 2, 3], [4], [1, 4]):
        places = []
        for order in itertools.permutations(range(5)):
            shown = np.array(order)[np.argsort(-row[0][list(order)], kind="stable")]
            places.append(1 + min(np.flatnonzero(np.isin(shown, right))))
        assert mean_rank(row, [right]).value == pytest.approx(np.mean(places)), right


def test_a_constant_score_matrix_gets_exactly_chance():
    owner = np.repeat(np.arange(30), 5)
    for scores in retrieval_report(np.zeros((30, 150)), owner).values():
        for score in scores.values():
            assert score.value == pytest.approx(score.chance)
            assert score.value < 0.5
    rank = mean_rank(np.zeros((30, 150)), [np.flatnonzero(owner == image) for image in range(30)])
    assert rank.value == pytest.approx(151 / 6) == rank.chance


def test_chance_is_the_published_arithmetic():
    report = retrieval_report(np.random.default_rng(0).normal(size=(900, 4500)), np.repeat(np.arange(900), 5))
    assert report["text_to_image"]["R@10"].chance == pytest.approx(10 / 900)
    assert report["image_to_text"]["R@1"].chance == pytest.approx(5 / 4500)
    for scores in report.values():
        for score in scores.values():
            assert abs(score.value - score.chance) < 0.02
    assert report["text_to_image"]["R@1"].n == 4500
    assert report["image_to_text"]["R@1"].n == 900


def test_captions_of_one_image_are_resampled_together():
    rng = np.random.default_rng(0)
    found = rng.random(200) < 0.5  # an image is found by all its captions or by none
    owner = np.repeat(np.arange(200), 5)
    similarity = np.where(np.arange(200)[:, None] == owner, np.where(found[owner], 2.0, -2.0), 0.0)
    similarity += 0.01 * rng.random(similarity.shape)
    batch_size = retrieval_report(similarity, owner)["text_to_image"]["R@1"]
    apart = recall_at_k(similarity.T, owner)["R@1"]
    assert batch_size.value == apart.value
    assert batch_size.high - batch_size.low > 1.8 * (apart.high - apart.low)


def test_hit_probability_is_hypergeometric():
    from scipy import stats

    total, marked, drawn = (grid.ravel() for grid in np.meshgrid([5, 9], [1, 2, 5], [0, 1, 3, 5, 9, 20]))
    expected = 1 - stats.hypergeom.pmf(0, total, marked, np.minimum(drawn, total))
    np.testing.assert_allclose(hit_probability(total, marked, drawn), expected, atol=1e-12)


def test_what_does_not_fit_is_a_located_error():
    similarity, broken = np.zeros((3, 4)), np.zeros((3, 4))
    broken[1, 2] = np.nan
    with pytest.raises(NumericsError, match="query 1, candidate 2"):
        recall_at_k(broken, [0, 1, 2])
    for metric, relevant, message in (
        (recall_at_k, [[0], [1], []], "query 2"),
        (mean_rank, [[0], [1], []], "query 2"),
        (recall_at_k, [4, 0, 0], "query 0"),
        (recall_at_k, [0, 1], "per query"),
        (retrieval_report, np.array([0, 0, 1, 1]), "query 2"),  # image 2 has no caption
        (retrieval_report, np.array([0, 1, 2, 3]), "no image"),
        (retrieval_report, np.array([0, 1, 2]), "one owner"),
    ):
        with pytest.raises(DataError, match=message):
            metric(similarity, relevant)
