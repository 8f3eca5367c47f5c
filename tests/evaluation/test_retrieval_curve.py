"""The curve is what retrieval at each length of the shortlist finds, from one pass over all pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_unimo import detected, lively_unimo

from unimo import speed
from unimo.errors import UsageError
from unimo.evaluation.zero_shot import EvalContext, Retrieval
from unimo.evaluation.zero_shot.retrieval_curve import curve
from unimo.inference import Pipeline
from unimo.model.unimo import UNIMO
from unimo.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def pairs(world) -> tuple[str]:
    return (str(world / "heldout"),)


def quiet(line: str) -> None:
    """Progress nobody reads."""


def as_values(rows: list[dict]) -> dict:
    return {row["metric"].removesuffix(", re-ranked"): row["score"] for row in rows}


def test_every_point_is_retrieval_with_that_shortlist(context, pairs):
    gallery, points = curve(context, Retrieval(pairs), (0, 1, 3, 8), say=quiet)
    assert [point.shortlist for point in points] == [0, 1, 3, 8, None]
    for point in points:
        task = Retrieval(pairs, shortlist=10**6 if point.shortlist is None else point.shortlist, rerank_queries=None)
        answers = task.predict(context)
        rows = [row for row in task.score(answers) if row["metric"] != "mean recall"]
        stage = [row for row in rows if row["metric"].endswith("re-ranked") == (point.shortlist != 0)]
        assert as_values(stage) == point.recalls
        assert point.passes == answers.passes
    first, last = points[0], points[-1]
    assert last.passes == len(gallery.items) * len(gallery.strings) and first.passes == 0
    assert {name: score.value for name, score in first.recalls.items()} != {
        name: score.value for name, score in last.recalls.items()
    }


def test_what_lies_outside_the_interval_is_said(tmp_path, tools):
    """The embeddings know nothing, the fused model everything: a short list loses what a long one finds."""
    n = 30
    captions = [f"caption {i}" for i in range(n)]
    rng = np.random.default_rng(0)
    model = tools.Planted(
        {i: rng.normal(size=8).tolist() for i in range(n)},
        {caption: rng.normal(size=8).tolist() for caption in captions},
        {(i, caption) for i, caption in enumerate(captions)},
    )
    task = Retrieval(tools.write_pairs(tmp_path / "pairs", [[caption] for caption in captions]))
    _, points = curve(EvalContext(model), task, (2, 500), say=quiet)
    rows = {row["shortlist"]: row for row in (point.to_row(points[-1]) for point in points)}
    assert list(rows) == [2, "all"]  # longer than the gallery: all of it
    assert rows["all"]["recalls"]["image to text R@1"]["value"] == 1.0
    assert not rows[2]["within the interval of all"] and not rows[2]["recalls"]["image to text R@1"]["within"]


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


def test_the_report_of_the_verb(context, pairs, tmp_path, monkeypatch, capsys):
    from unimo import inference
    from unimo.cli import app

    monkeypatch.setattr(inference, "load", lambda source, **_: context.pipeline)
    place = tmp_path / "curve.json"
    ask = ["speed", "retrieval", "RUN", "--pairs", *pairs, "--shortlists", "0,2", "--limit", "9", "--out", str(place)]
    app(ask, standalone_mode=False)
    report = json.loads(place.read_text())
    assert [row["shortlist"] for row in report["curve"]] == [0, 2, "all"] and report["facts"]["images"] == 9
    assert {row["metric"] for row in report["scores"]} == set(report["curve"][0]["recalls"])
    said = capsys.readouterr().out
    assert all(line in said for line in report["table"]) and "95 % intervals" in said


def test_wrong_requests_are_refused(context, pairs):
    with pytest.raises(UsageError, match="shortlist"):
        speed.retrieval(context.pipeline, pairs, shortlists=[-1])
    with pytest.raises(UsageError, match="match images"):
        speed.retrieval(Pipeline(lively_unimo(vocabulary=Tokenizer.vocab_size), precision="fp32"), pairs)
