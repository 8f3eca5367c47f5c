"""Scores are rouge-score's; what is ours: the choice of kind and part, limits, and errors."""

import sys

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from unimo.errors import DataError, UsageError
from unimo.metrics.rouge import KINDS, rouge, rouge_each

CANDIDATES = ["the cat sat on the mat", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "dogs were dying", ""]
REFERENCES = [["the cat lay on a mat", "mats"], ["w1 w2 w3 w4 w5"], ["a dog died", "dog dies"], ["a"]]


def test_each_text_scores_as_rouge_score_says_with_its_best_reference():
    for stem in (False, True):
        scorer = RougeScorer([*KINDS.values()], use_stemmer=stem)
        for place, (candidate, targets) in enumerate(zip(CANDIDATES, REFERENCES)):
            found = rouge_each(CANDIDATES, REFERENCES, stem=stem)
            best = scorer.score_multi(targets, candidate)
            assert all(tuple(found[kind][place]) == tuple(best[name]) for kind, name in KINDS.items())


def test_worked_by_hand():
    each = rouge_each(CANDIDATES, REFERENCES)
    assert each["ROUGE-1"][0].tolist() == pytest.approx([4 / 6] * 3)  # the, cat, on, mat
    assert each["ROUGE-2"][0].tolist() == pytest.approx([1 / 5] * 3)  # the cat
    # Lin's example of the summary level: w1 w2 from one line and w1 w3 w5 from the other, 4 of 5 words
    assert each["ROUGE-Lsum"][1, :2].tolist() == pytest.approx([4 / 10, 4 / 5])
    assert rouge_each(CANDIDATES, REFERENCES, stem=True)["ROUGE-1"][2, 2] == pytest.approx(0.8)  # dog, die
    assert all((values[3] == 0).all() for values in each.values())


def test_scores_are_means_with_intervals():
    scores = rouge(CANDIDATES * 20, REFERENCES * 20, part="recall", kinds=["ROUGE-1"])
    each = rouge_each(CANDIDATES, REFERENCES, kinds=["ROUGE-1"])["ROUGE-1"]
    assert list(scores) == ["ROUGE-1"] and scores["ROUGE-1"].value == pytest.approx(np.mean(each[:, 1]))
    assert scores["ROUGE-1"].low < scores["ROUGE-1"].value < scores["ROUGE-1"].high


def test_what_cannot_be_scored_is_refused_by_name(monkeypatch):
    with pytest.raises(UsageError, match="ROUGE-3"):
        rouge(["a"], [["a"]], kinds=["ROUGE-3"])
    with pytest.raises(UsageError, match="precision"):
        rouge(["a"], [["a"]], part="f1")
    monkeypatch.setattr(sys.modules["unimo.metrics.rouge"], "MAX_WORD_PAIRS", 100)
    with pytest.raises(DataError, match="ROUGE-L, item 1"):
        rouge_each(["a", "a-b " * 6], [["a b " * 9]] * 2, kinds=["ROUGE-Lsum"])
    assert rouge_each(["a b " * 6], [["a b " * 6]], kinds=["ROUGE-1"])["ROUGE-1"][0, 2] == 1
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UsageError, match=r"unimo\[metrics\]"):
        rouge(["a"], [["a"]])
