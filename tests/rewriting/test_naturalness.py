"""A text classifier keeps the candidates that read like captions."""

from __future__ import annotations

import pytest
from rewrite_files import FEW, quiet, the_file

from unimo.corpus.corpus import open_corpus
from unimo.errors import UsageError
from unimo.rewriting import naturalness as module
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
    natural.learn(sample)
    return natural


def test_what_no_caption_says_is_filtered(learnt):
    """Of candidates that were not learnt from, too."""
    rng = generator("asked")
    for item in range(100):
        scores = learnt.scores(item, "word", [caption(rng) for _ in range(5)] + [caption(rng, odd=True)] * 3)
        assert scores[:5].min() > scores[5:].max()


def test_words_of_the_image_s_own_captions_are_no_evidence():
    """Else every caption would be known to the classifier, and no rewrite."""
    natural = Naturalness([["a zebra yawns"], ["a dog runs"], ["a dog sits"]])
    own, other = (natural._features(item, ["a zebra yawns"])[0, -6:] for item in (0, 1))
    assert (own > other).all()  # more of it is unseen beside its own image


def test_a_caption_is_not_judged_by_what_was_learnt_from_it(monkeypatch):
    """Other captions in one half of the images change the scores of the other half alone."""
    monkeypatch.setattr(module, "ROUNDS", 1)
    natural = [Naturalness([["a dog runs"], ["a man sits"]]) for _ in range(2)]
    for one, changed in zip(natural, ("a dog runs", "a horse sleeps at home")):
        captions = (changed, "a man sits")
        one.learn([one.drawn(i, "word", text, ["a boy jumps"]) for i, text in enumerate(captions)])
    texts = ["a dog runs", "a horse sleeps at home"]
    same, other = ([one.scores(half, "word", texts).tolist() for one in natural] for half in (0, 1))
    assert same[0] == same[1] and other[0] != other[1]


def test_kept_are_some_of_those_drawn(world, corpus, tmp_path):
    """For each caption a third of three times as many; the same whenever they are made."""
    for name, some in (("drawn", {"candidates": 1}), ("kept", {"candidates": 3}), ("again", {"candidates": 3})):
        counts = FEW if name != "drawn" else type(FEW)(0, 0, 3 * FEW.phrases, 3 * FEW.words)
        rewrites(world, out=tmp_path / name, counts=counts, say=quiet, **some)
    assert the_file(tmp_path / "kept").read_bytes() == the_file(tmp_path / "again").read_bytes()
    assert Sidecar(the_file(tmp_path / "kept"), FORMAT).header["settings"]["candidates"] == 3
    drawn, kept = (Rewrites.open(tmp_path / name, open_corpus("pairs", world)) for name in ("drawn", "kept"))
    for i in range(len(corpus)):
        of_words = [{one.text for one in some.negatives(i, 0) if one.level == "word"} for some in (drawn, kept)]
        assert of_words[1] <= of_words[0] and len(of_words[1]) <= FEW.words
    with pytest.raises(UsageError, match="impossible candidates"):
        rewrites(world, out=tmp_path, candidates=0, say=quiet)
