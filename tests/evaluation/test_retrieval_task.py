"""Recalls of planted embeddings are known beforehand; a random model stays at chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_unimo import detected, lively_unimo

from unimo.errors import DataError
from unimo.evaluation.zero_shot import EvalContext, Retrieval
from unimo.evaluation.zero_shot.retrieval import second_stage
from unimo.inference import Pipeline
from unimo.model.unimo import UNIMO
from unimo.tokenizer import Tokenizer

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
    # By likelihood the odd captions are found last (see `Planted`), the even ones first.
    assert scores["text to image R@1, re-ranked by likelihood"].value == 0.5


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
    task = Retrieval(paths, shortlist=3, rerank_queries=5, likelihood_queries=2)
    first, again = (task.score(task.predict(EvalContext(model))) for _ in range(2))
    assert first == again
    (row,) = (row for row in first if row["metric"] == "text to image R@1, re-ranked")
    assert row["score"].n == 5 and "sample of 5 queries" in row["note"] and "best 3" in row["note"]
    (row,) = (row for row in first if row["metric"] == "text to image R@1, re-ranked by likelihood")
    assert row["score"].n == 2
    without = replace(task, likelihood_queries=0)
    assert not any("likelihood" in row["metric"] for row in without.score(without.predict(EvalContext(model))))


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


def test_one_image_is_no_choice(tmp_path, tools, context):
    with pytest.raises(DataError, match="choose from"):
        Retrieval(tools.write_pairs(tmp_path / "one", [["a dog"]])).predict(context)


def test_a_shared_image_scores_like_a_copy_for_each_text(monkeypatch):
    pipeline = Pipeline(lively_unimo(vocabulary=Tokenizer.vocab_size, fusion="prefix", matching=2), precision="fp32")
    images = pipeline.encode_images(detected([3, 1, 4]))
    texts = pipeline.encode_texts(["a dog", "two cats on a red sofa", "an owl", "it rains"])
    every = np.stack(np.divmod(np.arange(12), 4), axis=1)
    rows = []
    fuse = UNIMO.fuse

    def counting(self, *given, **more):
        found = fuse(self, *given, **more)
        rows.append(sum(len(one.hidden) for one in found.values()))
        return found

    monkeypatch.setattr(UNIMO, "fuse", counting)
    shared, held = pipeline.match(images, texts, every, batch_size=7), sum(rows)
    rows.clear()
    monkeypatch.setattr(UNIMO, "can_share", False)
    np.testing.assert_allclose(shared, pipeline.match(images, texts, every, batch_size=7), rtol=0, atol=1e-5)
    assert np.ptp(shared) > 0.01
    # Chunks of 7 pairs: images 0 and 1, 1 and 2; 4 + 2 + 2 + 5 rows instead of 4 (4 + 2 + 5).
    assert sum(rows) - held == 4 * (4 + 2 + 5) - (4 + 2 + 2 + 5)


def test_a_model_fine_tuned_for_retrieval_is_scored_as_it_was_trained(tools):
    """By the weight of the cosine that its circle loss had; every other training leaves the default."""
    plain = tools.random_pipeline()
    rng = np.random.default_rng(0)
    images = plain.encode_images(list(rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)))
    texts, pairs = plain.encode_texts(["a dog", "a red cat"]), np.array([[0, 0], [1, 1], [2, 0]])
    settings = {"kind": "retrieval", "rank": {"loss": "circle", "cosine": 0.3}}
    circle = Pipeline(plain.model, precision="fp32", facts={"settings": settings})
    hard = Pipeline(
        plain.model, precision="fp32", facts={"settings": {**settings, "rank": {"loss": "hard", "cosine": 0.3}}}
    )
    default, weighted = plain.match(images, texts, pairs), plain.match(images, texts, pairs, cosine_weight=0.3)
    assert np.abs(default - weighted).max() > 0.1
    np.testing.assert_array_equal(circle.match(images, texts, pairs), weighted)
    np.testing.assert_array_equal(hard.match(images, texts, pairs), default)
