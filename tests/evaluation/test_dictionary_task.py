"""Dictionary use: counted over what was chosen, shown as patches and words, absent without a dictionary."""

from __future__ import annotations

import numpy as np
import pytest

from unimo.evaluation.zero_shot import DictionaryUse, EvalContext


@pytest.mark.parametrize("method", ["topk", "normal"])
@pytest.mark.parametrize("projection", [False, True])
def test_counts_and_images(tools, world, method, projection):
    context = EvalContext(tools.random_pipeline(grounding_method=method, grounding_projection=projection))
    task = DictionaryUse((str(world / "heldout"),), show_entries=3)
    use = task.predict(context)
    assert set(use.reports) == {"images alone", "captions alone", "pairs"}
    per_image = 4 if method == "topk" else 16  # chosen entries, or patches
    assert use.reports["images alone"]["choices"] == 32 * per_image
    for row in task.score(use):
        assert row["score"] <= (1.0 if row["unit"] == "%" else 32)
    (shown,) = task.show(use)
    assert len(shown["items"]) == 3
    assert all(item["image"].size == (64, 64) and item["lines"][1] for item in shown["items"])


def test_a_pair_adds_the_votes_of_both_sides(tools, world):
    """The pair's choice comes from the sum of the tallies, as in training."""
    pipeline = tools.random_pipeline()
    context = EvalContext(pipeline)
    images = context.images(*_some(context, world))
    texts = context.texts(["a red circle", "a blue star", "two green rings"])
    both = pipeline.encoder.codes(images, texts)
    want = (images.votes + texts.votes).topk(4, dim=-1).indices.numpy()
    assert (both == want).all()
    assert pipeline.encoder.codes(images, None).shape == (3, 4)


def _some(context, world):
    corpus = context.corpus("pairs", (str(world / "heldout"),))
    return corpus, np.arange(3)
