"""Recalls of planted embeddings are known beforehand; a random model stays at chance."""

from __future__ import annotations

import numpy as np
import pytest

from unimo.errors import DataError, UsageError
from unimo.evaluation.zero_shot import EvalContext, Retrieval
from unimo.evaluation.zero_shot.retrieval import second_stage

N = 16


def by_metric(rows: list[dict]) -> dict:
    return {row["metric"]: row["score"] for row in rows}


@pytest.fixture
def planted(tmp_path, tools):
    """Image i and caption i share a direction, except that the first four captions trade places in pairs;
    the fused model knows better."""
    captions = [f"caption {i}" for i in range(N)]
    place = [1, 0, 3, 2, *range(4, N)]
    axes = np.eye(N).tolist()
    model = tools.Planted(
        dict(enumerate(axes)),
        {caption: axes[place[i]] for i, caption in enumerate(captions)},
        {(i, caption) for i, caption in enumerate(captions)},
    )
    return model, tools.write_pairs(tmp_path / "pairs", [[caption] for caption in captions])


def test_planted_recalls_of_both_stages(planted):
    model, paths = planted
    task = Retrieval(paths, shortlist=N)
    rows = task.score(task.predict(EvalContext(model)))
    scores = by_metric(rows)
    for way in ("image to text", "text to image"):
        assert scores[f"{way} R@1"].value == pytest.approx((N - 4) / N)
        assert scores[f"{way} R@1"].chance == pytest.approx(1 / N)
        assert scores[f"{way} R@1, re-ranked"].value == 1.0
    assert model.matched == N * N  # both directions want all pairs: each is fused once


def test_what_the_shortlist_leaves_out_stays_lost(planted):
    model, paths = planted
    task = Retrieval(paths, shortlist=1)
    scores = by_metric(task.score(task.predict(EvalContext(model))))
    assert scores["text to image R@1, re-ranked"].value == pytest.approx((N - 4) / N)
    assert model.matched == N  # the best of every image is the best of its caption here


def test_what_was_not_read_again_stands_behind_by_cosine():
    """As a search would show it: a short list must not lose what lies behind it."""
    cosine = np.array([[0.1, 0.9, 0.5, 0.5], [0.4, 0.3, 0.2, 0.1]], np.float32)
    staged = second_stage(cosine, np.array([[1, 2], [0, 1]]), np.array([[-40.0, -30.0], [2.0, 7.0]], np.float32))
    assert np.argsort(-staged, axis=1).tolist() == [[2, 1, 3, 0], [1, 0, 2, 3]]


def test_a_sample_of_queries_is_said_and_always_the_same(planted):
    model, paths = planted
    task = Retrieval(paths, shortlist=3, rerank_queries=5)
    first, again = (task.score(task.predict(EvalContext(model))) for _ in range(2))
    assert first == again
    (row,) = (row for row in first if row["metric"] == "text to image R@1, re-ranked")
    assert row["score"].n == 5 and "sample of 5 queries" in row["note"] and "best 3" in row["note"]


def test_a_shortlist_longer_than_the_gallery_takes_the_gallery(planted):
    model, paths = planted
    task = Retrieval(paths, shortlist=1000)
    note = task.score(task.predict(EvalContext(model)))[-1]["note"]
    assert f"best {N} by cosine" in note


def test_all_captions_count_and_equal_ones_share_the_point(tmp_path, tools):
    captions = [["same", "own 0"], ["same", "own 1"]]
    model = tools.Planted(
        {0: [1.0, 0.0], 1: [0.0, 1.0]}, {"same": [1.0, 1.0], "own 0": [0.0, 0.0], "own 1": [0.0, 0.0]}, set()
    )
    task = Retrieval(tools.write_pairs(tmp_path / "pairs", captions), shortlist=0)
    scores = by_metric(task.score(task.predict(EvalContext(model))))
    # Four captions; for each image the two copies of "same" tie at the top and one of them is its own.
    assert scores["image to text R@1"].value == pytest.approx(0.5)
    assert scores["text to image R@1"].value == pytest.approx(0.5)
    one = Retrieval(task.pairs, shortlist=0, captions=1)
    assert len(one.predict(EvalContext(model)).gallery.owner) == 2


def test_a_random_model_stays_at_chance(context, world):
    task = Retrieval((str(world / "heldout"),), shortlist=8)
    answers = task.predict(context)
    for row in task.score(answers):
        assert row["score"].low <= row["score"].chance + 0.1
        assert row["score"].value <= row["score"].chance + 0.2
    assert answers.passes <= 2 * 8 * 64


def test_paths_that_hold_no_pairs_are_located(tmp_path, context):
    with pytest.raises(DataError, match="does not exist"):
        Retrieval((str(tmp_path / "nowhere"),)).predict(context)
    with pytest.raises(UsageError, match="no path given"):
        Retrieval(()).predict(context)


def test_one_image_is_no_choice(tmp_path, tools, context):
    with pytest.raises(DataError, match="choose from"):
        Retrieval(tools.write_pairs(tmp_path / "one", [["a dog"]])).predict(context)
