"""No score answers nonsense quietly: what it cannot compare it refuses by name, whatever Python would make of it."""

import numpy as np
import pytest
from scipy import stats

from unimo.errors import DataError, NumericsError, UnimoError
from unimo.metrics import METRICS
from unimo.metrics.captions import caption_report
from unimo.metrics.classification import accuracy, f1, fraction_by_kind, matthews, pearson
from unimo.metrics.codebook import codebook_report
from unimo.metrics.intervals import group_numbers, mean_score
from unimo.metrics.paired import paired_bootstrap
from unimo.metrics.retrieval import mean_rank, recall_at_k
from unimo.metrics.tokenize import tokenize
from unimo.metrics.vqa import daquar_accuracy

ANSWERS = ["a dog runs", "two cats"]
TARGETS = [["a dog runs", "the dog"], ["two cats"]]
WORDS = [text.split() for text in ANSWERS]
TARGET_WORDS = [[text.split() for text in texts] for texts in TARGETS]
GOOD = {
    **dict.fromkeys(("accuracy", "f1", "matthews", "pearson", "spearman", "pearson_spearman"), ([0, 1, 1], [0, 1, 0])),
    "fraction_by_kind": ([0, 1, 1], ["a", "b", "a"]),
    **dict.fromkeys(("bleu", "bleu_as_released", "rouge_l", "cider_d"), (WORDS, TARGET_WORDS)),
    **dict.fromkeys(("rouge", "captions", "squad_em", "squad_f1", "coqa_em", "coqa_f1"), (ANSWERS, TARGETS)),
    **dict.fromkeys(("vqa_accuracy", "daquar_accuracy"), (ANSWERS, TARGETS)),
    "recall_at_k": ([[0.1, 0.9], [0.3, 0.2]], [1, 0]),
    "mean_rank": ([[0.1, 0.9], [0.3, 0.2]], [1, 0]),
    "retrieval": ([[0.1, 0.9], [0.3, 0.2]], [1, 0]),
}
JUNK = [
    None, 3, "abc", b"abc", [], {}, {"a": 1}, {1, 2}, [None, None], [[1], [1, 2]], [object()], ["a", 1], [1.5, "b"],
    [[None], [None]], [float("nan")] * 3, ["abc", "def"], [["a", None], ["b"]], [[], []], [{}, {}],
    np.zeros((2, 2, 2)), np.array([1j, 2j]), [True, None, False], [["x", 1], ["y", 2]],
]  # fmt: skip
TEXTS = ("rouge", "captions", "squad_em", "squad_f1", "coqa_em", "coqa_f1", "vqa_accuracy", "daquar_accuracy")


def is_fair(name, place, junk):
    """What is junk elsewhere: two answers, two captions without a word, no answer at all."""
    if name in TEXTS and place == 0:
        return junk == ["abc", "def"] or (name == "daquar_accuracy" and junk in ([[], []], [{}, {}]))
    return name in ("bleu", "bleu_as_released", "rouge_l", "cider_d") and place == 0 and junk == [[], []]


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_metric_takes_junk_or_ends_in_an_unnamed_error(name):
    metric, good = METRICS[name], GOOD[name]
    metric(*good)
    for place in range(2):
        for junk in JUNK:
            if type(junk) is list and is_fair(name, place, junk):
                continue
            given = [*good]
            given[place] = junk
            with pytest.raises(UnimoError):
                metric(*given)


def test_case_a_bare_string_is_no_list_of_references():
    """It was read letter by letter: BLEU-1 0.17 for a perfect caption."""
    assert caption_report(ANSWERS, [[text] for text in ANSWERS])["BLEU-1"].value == 1
    for name in TEXTS:
        with pytest.raises(DataError, match="item 0"):
            METRICS[name](ANSWERS, ANSWERS)
        with pytest.raises(DataError):
            METRICS[name](ANSWERS[0], [TARGETS[0]] * len(ANSWERS[0]))
    for name in ("bleu", "bleu_as_released", "rouge_l", "cider_d"):
        for targets in (ANSWERS, TARGETS, WORDS, [[*TARGET_WORDS[0], "the dog"], TARGET_WORDS[1]]):
            with pytest.raises(DataError, match="item 0"):
                METRICS[name](WORDS, targets)
        with pytest.raises(DataError, match="item 0"):
            METRICS[name](ANSWERS, TARGET_WORDS)


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        (["1", "0"], [1, 0]),
        ([1, 0], ["1", "0"]),
        ([1, "0"], ["1", "0"]),
        ([None, 1], [0, 1]),
        ([0, 1], [0, None]),
        ([0, 1], [0, 1, 1]),
        ([], []),
        ([[0], [1]], [[0], [1]]),
    ],
)
def test_labels_of_two_kinds_are_refused(predictions, labels):
    for metric in (accuracy, f1, matthews):
        with pytest.raises(DataError):
            metric(predictions, labels)


def test_labels_of_one_kind_are_compared_however_they_are_held():
    for predictions, labels in [
        (["a", "b"], np.array(["a", "b"], object)),
        ([True, False], [1, 0]),
        ([1.0, 0.0], np.array([1, 0], np.int8)),
        (("x", "yy"), ["x", "yy"]),
    ]:
        assert accuracy(predictions, labels).value == 1


@pytest.mark.parametrize("metric", [f1, matthews])
def test_a_score_of_one_class_is_told_which(metric):
    for labels in ([0, 1, 2], [2, 3], ["yes", "no"]):
        with pytest.raises(DataError, match="positive="):
            metric(labels, labels)
        assert metric(labels, labels, positive=labels[0]).value == 1
    with pytest.raises(DataError, match="positive="):
        metric([0, 1], [0, 1], positive="1")
    assert metric([0, 0], [0, 0]).value == 0 and metric([1, 0], [1, 0]).value == metric([1, 2], [1, 2]).value == 1


def test_numbers_are_numbers():
    for values in (["1", "2"], [1, None], [[1], [2, 3]]):
        with pytest.raises(DataError):
            pearson(values, [1, 2])
        with pytest.raises(DataError):
            paired_bootstrap(values, [1, 2])
        with pytest.raises(DataError):
            mean_score(values)
    assert np.isnan(mean_score([1, float("nan")]).value)  # not a number, and says so
    for function in (lambda x: pearson(x, [1, 2]), lambda x: paired_bootstrap(x, [1, 2])):
        with pytest.raises(NumericsError, match="item 1"):
            function([1, float("nan")])


@pytest.mark.parametrize("groups", ["ab", [1, "1"], [None, None], [1], [[1], [2]], [float("nan"), 1]])
def test_groups_are_labels(groups):
    with pytest.raises(UnimoError):
        group_numbers(groups, 2)
    with pytest.raises(UnimoError):
        fraction_by_kind([0, 1], ["a", "b"], groups=groups)


MASKS = [True, False], [[True, False], [False, True]]


@pytest.mark.parametrize(
    "relevant", ["10", *MASKS, [1.0, 0.0], ["1", "0"], [None, 0], [[0, 0.5], [1]], [[], [1]], [0]], ids=str
)
def test_right_answers_are_numbers_of_candidates(relevant):
    for metric in (recall_at_k, mean_rank):
        with pytest.raises(DataError):
            metric([[0.1, 0.9], [0.3, 0.2]], relevant)


@pytest.mark.parametrize("ks", [(), (0,), (1.5,), ("1",), (None,)])
def test_places_are_whole_numbers(ks):
    with pytest.raises(DataError):
        recall_at_k([[0.1, 0.9], [0.3, 0.2]], [1, 0], ks)


def test_texts_are_texts():
    for value in (None, 3, b"a", [3], {"a"}):
        with pytest.raises(DataError):
            tokenize(value)
    with pytest.raises(DataError, match="item 1"):
        daquar_accuracy(["a", None], [["a"], ["b"]])


def test_use_of_a_dictionary_of_codes():
    indices = np.random.default_rng(0).integers(0, 50, size=(200, 8))
    report = codebook_report(indices, 100)
    assert report["use"] == [int((indices == code).sum()) for code in range(100)]
    assert report["choices"] == 1600 and report["codes"] == 100 and report["dead_fraction"] == 0.5
    assert report["perplexity"] == pytest.approx(np.exp(stats.entropy(report["use"])))
    assert codebook_report([1] * 7, 3)["perplexity"] == pytest.approx(1)
    assert codebook_report(np.arange(32), 32)["perplexity"] == pytest.approx(32)
    for junk in ([[0, 5]], [[-1, 0]], [], [[0.5]]):
        with pytest.raises(DataError):
            codebook_report(np.array(junk), 5)
