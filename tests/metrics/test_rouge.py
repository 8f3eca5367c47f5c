"""Against google's rouge-score: its words, stems, summary-level union and choice among references."""

import random
import sys
import tracemalloc

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer, _backtrack_norec, _lcs_table

from unimo.errors import DataError, UsageError
from unimo.metrics import lcs, rouge, rouge_each, rouge_l_each
from unimo.metrics.lcs import lcs_length, lcs_positions
from unimo.metrics.rouge import KINDS, rouge_words

THEIRS = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL", "ROUGE-Lsum": "rougeLsum"}
PIECES = [
    "The", "police", "officers", "officer", "was", "dying", "died", "running", "runs", "run", "ran", "quickly",
    "quick", "nations", "national", "nationally", "in", "of", "a", "3", "3.5", "1,000", "U.S.", "isn't", "co-operate",
    "skies", "sky", "news", "café", "naïve", "İstanbul", "--", "...", "!", "(", ")",
]  # fmt: skip
GAPS = [" ", " ", " ", " ", "\n", "  ", "\t", ", "]


def text(r, max_length=18):
    return "".join(r.choice(PIECES) + r.choice(GAPS) for _ in range(r.randint(0, max_length)))


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


def test_the_length_is_that_of_the_plain_table_and_symmetric():
    r = random.Random(2)
    for _ in range(300):
        a, b = ([r.choice("abcdefgh") for _ in range(r.randint(0, 60))] for _ in range(2))
        assert lcs_length(a, b) == lcs_length(b, a) == (_lcs_table(a, b)[len(a)][len(b)])


def test_masks_that_are_not_kept_change_nothing(monkeypatch):
    r = random.Random(3)
    pairs = [[[r.choice("abcdef") for _ in range(r.randint(0, 70))] for _ in range(2)] for _ in range(100)]
    expected = [(lcs_length(*pair), lcs_positions(*pair)) for pair in pairs]
    monkeypatch.setattr(lcs, "_KEPT_BYTES", 20)
    assert [(lcs_length(*pair), lcs_positions(*pair)) for pair in pairs] == expected


def test_case_a_target_of_five_megabytes_is_scored_in_bounded_memory():
    """900,000 words, each its own, beside a prediction of 60: 19.7 GiB when every row of the table was kept."""
    target = " ".join(f"w{i}" for i in range(900_000))
    said = " ".join(f"w{i}" for i in range(0, 900_000, 15_000))
    tracemalloc.start()
    each = rouge_each([said], [[target]], kinds=["ROUGE-L"])["ROUGE-L"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert each[0].tolist()[:2] == [1.0, 60 / 900_000]
    assert peak < 60 * len(target)  # its words as Python strings, and some dictionaries of them


def test_memory_of_both_forms_grows_with_the_lengths_not_their_product():
    def peak(function, n):
        a, b = ([f"w{i * step % n}" for i in range(n)] for step in (7, 11))
        tracemalloc.start()
        function(a, b)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(lcs_length, 4000) < 5 * peak(lcs_length, 1000) + 2**20
    assert peak(lcs_positions, 4000) < 9 * peak(lcs_positions, 1000) + 2**20  # n to the power of 1.5


def test_texts_beyond_the_limit_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(lcs, "MOST_PAIRS", 100)
    long, short = "a b " * 6, "a b"
    assert rouge_each([short], [[long]])["ROUGE-L"][0, 0] == 1
    for kinds in (["ROUGE-L"], ["ROUGE-Lsum"]):
        with pytest.raises(DataError, match=f"{kinds[0]}, item 1"):
            rouge_each([short, long], [[long], [long + "\n" + short]], kinds=kinds)
    with pytest.raises(DataError, match="ROUGE-L, item 0"):
        rouge_l_each([long.split()], [[long.split()]])
    monkeypatch.setattr(sys.modules["unimo.metrics.rouge"], "MOST_LINE_PAIRS", 3)
    with pytest.raises(DataError, match="2 and 2 lines"):
        rouge_each(["a\nb"], [["a\nb"]])
