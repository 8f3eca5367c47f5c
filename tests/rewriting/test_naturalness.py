"""A text classifier keeps what reads like captions, and hears nothing where nothing gives a rewrite away."""

from __future__ import annotations

import numpy as np
import pytest
from rewrite_files import FEW, quiet, the_file

from unimo.corpus.corpus import open_corpus
from unimo.errors import UsageError
from unimo.rewriting.naturalness import Naturalness
from unimo.rewriting.prepare import rewrites
from unimo.rewriting.store import FORMAT, Rewrites
from unimo.rng import generator
from unimo.sidecar import Sidecar

WHO, DOES = ("dog", "man", "girl", "boy", "horse"), ("runs", "sits", "jumps", "sleeps")
WHERE = ("on grass", "in snow", "near water", "at home")
IMAGES = 400


def caption(rng, *, odd: bool = False) -> str:
    """Odd captions say the same words in an order that no caption has."""
    who, does, where = (some[rng.integers(len(some))] for some in (WHO, DOES, WHERE))
    return f"a {where} {who} {does}" if odd else f"a {who} {does} {where}"


@pytest.fixture(scope="module")
def learnt():
    rng = generator("naturalness")
    natural = Naturalness([[caption(rng)] for _ in range(IMAGES)])
    sample = []
    for i in range(IMAGES):
        candidates = [caption(rng, odd=k % 3 > 0) for k in range(9)]
        sample.append(natural.drawn(i, "word", natural._images[i][0], candidates))
    before = natural.told_apart(sample, filtered=False)
    natural.learn(sample)
    return natural, before, natural.told_apart(sample)


def test_what_no_caption_says_is_told_apart_and_filtered(learnt):
    natural, before, after = learnt
    assert before > 0.75 and after < 0.6
    rng = generator("asked")
    for item in range(20):
        scores = natural.scores(item, "word", [caption(rng), caption(rng, odd=True)])
        assert scores[0] > scores[1]


def test_candidates_like_captions_are_not_told_apart():
    rng = generator("alike")
    natural = Naturalness([[caption(rng)] for _ in range(IMAGES)])
    sample = [natural.drawn(i, "word", caption(rng), [caption(rng) for _ in range(3)]) for i in range(IMAGES)]
    assert natural.told_apart(sample, filtered=False) == pytest.approx(0.5, abs=0.08)


def test_words_of_the_image_s_own_captions_are_no_evidence():
    """Else every caption would be known to the classifier, and no rewrite."""
    natural = Naturalness([["a zebra yawns"], ["a dog runs"], ["a dog sits"]])
    own, other = (natural._features(item, ["a zebra yawns"])[0, -6:] for item in (0, 1))
    assert (own > other).all()  # more of it is unseen beside its own image


def test_what_was_learnt_from_one_half_judges_the_other(learnt):
    natural, *_ = learnt
    assert not np.array_equal(natural._weights["word", 0], natural._weights["word", 1])


def test_kept_are_some_of_those_drawn(world, corpus, tmp_path):
    """For each caption a third of three times as many; the same whenever they are made."""
    said: list[str] = []
    for name, some in (("drawn", {"candidates": 1}), ("kept", {"candidates": 3}), ("again", {"candidates": 3})):
        counts = FEW if name != "drawn" else type(FEW)(0, 0, 3 * FEW.phrases, 3 * FEW.words)
        rewrites(world, out=tmp_path / name, counts=counts, say=said.append, **some)
    assert the_file(tmp_path / "kept").read_bytes() == the_file(tmp_path / "again").read_bytes()
    assert any("told from captions by their text" in line for line in said)
    assert Sidecar(the_file(tmp_path / "kept"), FORMAT).header["settings"]["candidates"] == 3
    drawn, kept = (Rewrites.open(tmp_path / name, open_corpus("pairs", world)) for name in ("drawn", "kept"))
    for i in range(len(corpus)):
        of_words = [{one.text for one in some.negatives(i, 0) if one.level == "word"} for some in (drawn, kept)]
        assert of_words[1] <= of_words[0] and len(of_words[1]) <= FEW.words
    with pytest.raises(UsageError, match="impossible candidates"):
        rewrites(world, out=tmp_path, candidates=0, say=quiet)
