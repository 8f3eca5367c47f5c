"""Against stored scores of METEOR 1.5 itself with the same two modules, and against pairings found by trying all."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from growth import growth
from random_cases import corpora

from unimo.errors import DataError, UsageError
from unimo.metrics import METEOR_NAME, METRICS, meteor, meteor_each, meteor_of_sums, meteor_sums_each, paired_bootstrap
from unimo.metrics.meteor import METEOR_EXACT_NAME, _pairs

STORED = json.loads((Path(__file__).parent / "fixtures" / "meteor_1000.json").read_text("utf-8"))
WORDS = tuple(STORED["words"])


def test_a_thousand_corpora_score_as_meteor_itself_stored_them():
    for stored, (candidates, references) in zip(STORED["rows"], corpora(1000, words=WORDS), strict=True):
        sums = meteor_sums_each(candidates, references)
        assert meteor_of_sums(sums).tolist() == pytest.approx(stored["each"], abs=1e-11)
        assert meteor_of_sums(sums.sum(axis=0, keepdims=True))[0] == pytest.approx(stored["all"], abs=1e-11)


def test_stems_matter_in_the_stored_cases():
    cases = list(corpora(40, words=WORDS))
    exact = [meteor_each(*case, stem=False) for case in cases]
    both = [meteor_each(*case) for case in cases]
    assert np.mean(np.concatenate(exact) != np.concatenate(both)) > 0.2


def test_worked_by_hand():
    # six equal words in one run of all of both texts: nothing to penalise
    words = ["the", "cat", "sat", "on", "the", "mat"]
    assert meteor_each([words], [[words]])[0] == pytest.approx(1)
    # two content words, both found, of three in the reference; one by its stem; in two runs
    found = 0.75 * (1 + 0.6)
    precision, recall = found / 1.5, found / 2.25
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert meteor_each([["red", "dogs"]], [[["dog", "runs", "red"]]])[0] == pytest.approx(mean * (1 - 0.6))
    # a function word counts a third of a content word
    precision = recall = (0.75 + 0.25) / (0.75 + 2 * 0.25)
    penalty = 0.6 * (1 / 2) ** 0.2
    assert meteor_each([["the", "dog", "is"]], [[["the", "dog", "was"]]])[0] == pytest.approx(precision * (1 - penalty))


def test_the_whole_is_scored_from_sums_and_not_as_a_mean():
    candidates, references = [["red", "dog"], ["cat"]], [[["red", "dog"]], [["ball"]]]
    # two of three words on both sides; the perfect text adds no chunk
    score = meteor(candidates, references)[METEOR_NAME]
    assert score.value == pytest.approx(2 / 3)
    assert meteor_each(candidates, references).tolist() == pytest.approx([1, 0])


def every_pairing(own, other):
    """All ways of pairing equal words one to one."""
    slots = [[None, *(i for i, word in enumerate(own) if word == wanted)] for wanted in other]
    for choice in itertools.product(*slots):
        used = [i for i in choice if i is not None]
        if len(set(used)) == len(used):
            yield [(i, j) for j, i in enumerate(choice) if i is not None]


def chunks_of(pairs):
    return sum((i - 1, j - 1) not in set(pairs) for i, j in pairs)


def test_short_texts_are_paired_as_well_as_can_be():
    """Most pairs, then fewest chunks: no way of all is better."""
    for candidates, references in corpora(60, seed=3, words=("a", "b", "c", "d")):
        for candidate, wanted in zip(candidates, references):
            own, other = candidate[:6], wanted[0][:6]
            pairs = [(i, j) for i, j, _ in _pairs(own, other, None)]
            assert len(pairs) == (Counter(own) & Counter(other)).total()
            best = min((-len(some), chunks_of(some)) for some in every_pairing(own, other))
            assert (-len(pairs), chunks_of(pairs)) == best


def test_more_references_never_hurt():
    for candidates, references in corpora(40, words=WORDS):
        fewer = meteor_each(candidates, [wanted[:1] for wanted in references])
        assert (meteor_each(candidates, references) >= fewer).all()


def test_its_name_says_that_it_is_a_substitute():
    candidates, references = next(corpora(1, words=WORDS))
    assert list(METRICS["meteor"](candidates, references)) == [METEOR_NAME]
    assert list(meteor(candidates, references, stem=False)) == [METEOR_EXACT_NAME]
    assert "substitute" in METEOR_NAME and "substitute" in METEOR_EXACT_NAME


def test_it_has_an_interval_and_can_be_compared():
    said, wanted, rivals = [], [], []
    for candidates, references in corpora(40, words=WORDS):
        said += candidates
        wanted += references
        rivals += [words[: len(words) // 2] for words in candidates]
    score = meteor(said, wanted)[METEOR_NAME]
    assert score.low < score.value < score.high
    assert score.n == len(said)
    sums = meteor_sums_each(said, wanted), meteor_sums_each(rivals, wanted)
    result = paired_bootstrap(*sums, combine=meteor_of_sums)
    assert result.first == pytest.approx(score.value)
    assert result.difference.low > 0


def test_empty_texts_score_zero_and_missing_references_are_located():
    assert meteor_each([[], ["a"], []], [[["a"]], [[]], [[]]]).tolist() == [0, 0, 0]
    assert meteor([[]], [[["a"]]])[METEOR_NAME].value == 0
    with pytest.raises(DataError, match="image 1"):
        meteor([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(DataError, match="tokenise"):
        meteor(["a cat"], [[["a", "cat"]]])


def test_without_nltk_it_says_what_to_do(monkeypatch):
    import sys

    from unimo.metrics.stem import snowball

    snowball.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk.stem.snowball", None)
    with pytest.raises(UsageError, match="pip install nltk"):
        meteor([["dogs"]], [[["dog"]]])
    assert meteor_each([["dogs"]], [[["dog"]]], stem=False)[0] == 0


def test_a_text_that_repeats_itself_takes_no_more_than_its_share_of_time():
    def score(n):
        assert meteor_each([["dog"] * 2 * n], [[["dog"] * n]])[0] > 0.3
        assert meteor_each([["dogs", "dog"] * n], [[["dog", "dogs"] * (n // 2)]])[0] > 0.3

    # Four times the words: 16 is quadratic, 40 is measured, trying every alignment would be astronomical.
    assert growth(score, 15, 60, tries=2) < 160
