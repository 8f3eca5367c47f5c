"""Against google's rouge-score: its words, stems, summary-level union and choice among references."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer, _backtrack_norec, _lcs_table

from unimo.errors import DataError, UsageError
from unimo.metrics import rouge, rouge_each
from unimo.metrics.lcs import lcs_length, lcs_positions
from unimo.metrics.rouge import KINDS, rouge_words

THEIRS = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL", "ROUGE-Lsum": "rougeLsum"}
PIECES = [
    "The", "police", "officers", "officer", "was", "dying", "died", "running", "runs", "run", "ran", "quickly",
    "quick", "nations", "national", "nationally", "in", "of", "a", "3", "3.5", "1,000", "U.S.", "isn't", "co-operate",
    "skies", "sky", "news", "café", "naïve", "İstanbul", "--", "...", "!", "(", ")",
]  # fmt: skip
GAPS = [" ", " ", " ", " ", "\n", "  ", "\t", ", "]


def text(r, longest=18):
    return "".join(r.choice(PIECES) + r.choice(GAPS) for _ in range(r.randint(0, longest)))


def cases(n=1000, most_references=3):
    r = random.Random(0)
    candidates = [text(r) for _ in range(n)]
    return candidates, [[text(r) for _ in range(r.randint(1, most_references))] for _ in range(n)]


@pytest.mark.parametrize("stem", [False, True])
def test_a_thousand_random_texts_score_as_rouge_score_says(stem):
    candidates, references = cases()
    scorer = RougeScorer(list(THEIRS.values()), use_stemmer=stem)
    theirs = [scorer.score_multi(wanted, said) for said, wanted in zip(candidates, references)]
    ours = rouge_each(candidates, references, stem=stem)
    for kind, name in THEIRS.items():
        expected = [(s[name].precision, s[name].recall, s[name].fmeasure) for s in theirs]
        np.testing.assert_allclose(ours[kind], expected, rtol=0, atol=1e-15)
        assert 0.02 < np.mean(ours[kind]) < 0.98  # the cases are neither all alike nor all different


def test_the_union_of_several_lines_matters_and_equals_rouge_score():
    candidates, references = cases()
    ours = rouge_each(candidates, references, kinds=["ROUGE-L", "ROUGE-Lsum"])
    assert np.mean(ours["ROUGE-L"] != ours["ROUGE-Lsum"]) > 0.2
    one_line = [said.replace("\n", " ") for said in candidates]
    flat = [[other.replace("\n", " ") for other in wanted] for wanted in references]
    ours = rouge_each(one_line, flat, kinds=["ROUGE-L", "ROUGE-Lsum"])
    np.testing.assert_array_equal(ours["ROUGE-L"], ours["ROUGE-Lsum"])


def test_the_subsequence_found_is_the_one_that_rouge_score_reads_out():
    r = random.Random(1)
    for _ in range(1000):
        a, b = ([r.choice("abcdef") for _ in range(r.randint(0, 80))] for _ in range(2))
        expected = _backtrack_norec(_lcs_table(a, b), a, b)
        assert lcs_positions(a, b) == expected
        assert lcs_length(a, b) == lcs_length(b, a) == len(expected)


def test_worked_by_hand():
    said, wanted = "the cat sat on the mat", "the cat lay on a mat"
    each = rouge_each([said], [[wanted]])
    assert each["ROUGE-1"][0].tolist() == pytest.approx([4 / 6, 4 / 6, 4 / 6])  # the, cat, on, mat
    assert each["ROUGE-2"][0].tolist() == pytest.approx([1 / 5, 1 / 5, 1 / 5])  # the cat
    assert each["ROUGE-L"][0].tolist() == pytest.approx([4 / 6, 4 / 6, 4 / 6])
    # Lin's example of the summary level: w1 w2 from one line and w1 w3 w5 from the other, 4 of 5 words
    lines = rouge_each(["w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5"], [["w1 w2 w3 w4 w5"]], kinds=["ROUGE-Lsum"])["ROUGE-Lsum"]
    assert lines[0, :2].tolist() == pytest.approx([4 / 10, 4 / 5])


def test_the_best_reference_is_the_one_with_the_largest_f():
    # the first has the larger recall, the second the larger F
    each = rouge_each(["a b c d e f g h"], [["a", "a b c d x y z w"]], kinds=["ROUGE-1"])["ROUGE-1"]
    assert each[0].tolist() == pytest.approx([0.5, 0.5, 0.5])


def test_words_and_stems():
    assert rouge_words("U.S. co-operation, 1,000 Cats!") == ["u", "s", "co", "operation", "1", "000", "cats"]
    assert rouge_words("cats dies dying operations", stem=True) == ["cat", "die", "die", "oper"]
    assert rouge_words("was his", stem=True) == ["was", "his"]  # three letters stay


def test_scores_are_means_with_intervals():
    candidates, references = cases(200)
    scores = rouge(candidates, references, part="recall", kinds=["ROUGE-1"])
    each = rouge_each(candidates, references, kinds=["ROUGE-1"])["ROUGE-1"]
    assert list(scores) == ["ROUGE-1"]
    assert scores["ROUGE-1"].value == pytest.approx(each[:, 1].mean())
    assert scores["ROUGE-1"].low < scores["ROUGE-1"].value < scores["ROUGE-1"].high
    assert list(rouge(candidates, references)) == list(KINDS)


def test_order_changes_nothing():
    candidates, references = cases(50)
    order = np.random.default_rng(0).permutation(50)
    shuffled = rouge_each([candidates[i] for i in order], [references[i] for i in order])
    for kind, each in rouge_each(candidates, references).items():
        np.testing.assert_array_equal(shuffled[kind], each[order])


def test_empty_texts_score_zero():
    each = rouge_each(["", "...", "a", "a\n\n"], [["a"], ["a"], [""], ["", "b"]])
    assert all((values == 0).all() for values in each.values())


def test_what_does_not_fit_is_a_located_error():
    with pytest.raises(DataError, match="item 1"):
        rouge(["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="item 0"):
        rouge(["a"], ["a"])
    with pytest.raises(DataError, match="item 0"):
        rouge([None], [["a"]])
    with pytest.raises(DataError, match="expected: 2"):
        rouge(["a"], [["a"], ["b"]])
    with pytest.raises(DataError):
        rouge([], [])
    with pytest.raises(UsageError, match="ROUGE-3"):
        rouge(["a"], [["a"]], kinds=["ROUGE-3"])
    with pytest.raises(UsageError, match="precision"):
        rouge(["a"], [["a"]], part="f1")


def test_stemming_without_nltk_says_what_to_install(monkeypatch):
    import sys

    from unimo.metrics.stem import porter

    porter.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk.stem.porter", None)
    with pytest.raises(UsageError, match="pip install nltk"):
        rouge(["dying"], [["died"]], stem=True)
    assert rouge(["dying"], [["died"]])["ROUGE-1"].value == 0
