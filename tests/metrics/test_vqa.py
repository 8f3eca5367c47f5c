"""Against a plain second writing of the official VQA arithmetic, and by hand."""

import random
import re

import numpy as np
import pytest

from unimo.errors import DataError, UsageError
from unimo.metrics.vqa import (
    clean_answer,
    daquar_accuracy,
    vqa_accuracy,
    vqa_accuracy_each,
)

PIECES = [
    "yes", "Yes", "no", "none", "two", "ten", "Three", "2", "1,000", "3.5", "1.", ".", "U.S.", "a", "An", "the",
    "dont", "don't", "couldntve", "couldn'tve", "oclock", "yall'll", "somebody'd",
    "let's", "red/blue", "t-shirt", "t -shirt", "?", "!?",
    "(left)", "right,", "'", ":", "black & white", "@", "\n", "\t", "é", "…", "a.b.c",
]  # fmt: skip

# the few contractions that the pieces above can need
FORGOTTEN = {
    "dont": "don't", "couldn'tve": "couldn't've", "oclock": "o'clock", "yall'll": "y'all'll",
    "somebody'd": "somebodyd",
}  # fmt: skip
DIGITS = {"none": "0", "two": "2", "three": "3", "ten": "10"}


def plain_clean(text):
    cleaned = text
    for mark in [*';/[]"{}()=+\_-><@`,?!']:
        if mark + " " in text or " " + mark in text or re.search(r"(\d)(\,)(\d)", text) is not None:
            cleaned = cleaned.replace(mark, "")
        else:
            cleaned = cleaned.replace(mark, " ")
    cleaned = re.sub(r"(?!<=\d)(\.)(?!\d)", "", cleaned, count=int(re.UNICODE))
    words = []
    for word in cleaned.lower().split():
        word = DIGITS.get(word, word)
        if word not in ("a", "an", "the"):
            words.append(FORGOTTEN.get(word, word))
    return " ".join(words)


def plain_accuracy(said, people):
    flat = [one.replace("\n", " ").replace("\t", " ").strip() for one in people]
    said = said.replace("\n", " ").replace("\t", " ").strip()
    if len(set(flat)) > 1:
        flat, said = [plain_clean(one) for one in flat], plain_clean(said)
    accuracies = []
    for left_out in range(len(flat)):
        others = [one for person, one in enumerate(flat) if person != left_out]
        accuracies.append(min(1, float(sum(one == said for one in others)) / 3))
    return float(sum(accuracies)) / len(accuracies)


def answer(r):
    return "".join(r.choice(PIECES) + r.choice(["", " ", " "]) for _ in range(r.choice([1, 1, 1, 2, 3])))


def cases(n=1000):
    r = random.Random(0)
    predictions, people = [], []
    for _ in range(n):
        pool = [answer(r) for _ in range(r.choice([1, 2, 3, 3, 4, 8]))]
        people.append([r.choice(pool) for _ in range(10)])
        predictions.append(r.choice([*pool, r.choice(pool).upper(), answer(r)]))
    return predictions, people


def test_a_thousand_random_questions_score_as_the_official_arithmetic_says():
    predictions, people = cases()
    expected = [plain_accuracy(said, some) for said, some in zip(predictions, people)]
    np.testing.assert_allclose(vqa_accuracy_each(predictions, people), expected, rtol=0, atol=1e-15)
    found = set(np.round(expected, 9))
    assert found == {0, 0.3, 0.6, 0.9, 1}


def test_a_thousand_random_answers_are_cleaned_as_the_official_rules_say():
    r = random.Random(1)
    texts = [answer(r) for _ in range(1000)]
    plain = [plain_clean(text.replace("\n", " ").replace("\t", " ").strip()) for text in texts]
    assert [clean_answer(text) for text in texts] == plain


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("The two dogs", "2 dogs"),
        ("None.", "0"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),  # a mark with a space anywhere is deleted everywhere
        ("1,000", "1000"),
        ("1,000 t-shirts", "1000 tshirts"),  # with a comma in a number every mark is deleted
        ("3.5", "3.5"),
        ("U.S.", "us"),
        ("Dont", "don't"),
        ("yall'd've", "y'all'd've"),
        ("shes", "shes"),  # not in the published table
        ("somebody'd", "somebodyd"),  # so it stands in the published table
        ("  \tmulti\nline ", "multi line"),
        ("a", ""),
    ],
)
def test_cleaned_by_hand(text, clean):
    assert clean_answer(text) == clean


def test_other_numbers_of_people():
    assert vqa_accuracy_each(["cat"], [["cat", "dog", "cat"]])[0] == pytest.approx((1 / 3 + 2 / 3 + 1 / 3) / 3)
    assert vqa_accuracy_each(["cat", "dog"], [["cat"], ["cat"]]).tolist() == [1, 0]


def test_accuracy_has_an_interval_over_images():
    predictions, people = cases(300)
    each = vqa_accuracy_each(predictions, people)
    apart = vqa_accuracy(predictions * 3, people * 3, chance=0.1)
    batch_size = vqa_accuracy(predictions * 3, people * 3, groups=list(range(300)) * 3)
    assert apart.value == batch_size.value == pytest.approx(each.mean())
    assert apart.chance == 0.1
    assert batch_size.high - batch_size.low > 1.5 * (apart.high - apart.low)


def test_daquar_wants_the_whole_set():
    said = ["chair", ["Chair ", "table"], ["table"], "lamp", []]
    right = [["chair"], ["table", "chair"], {"table", "chair"}, ["chair"], ["chair"]]
    one_by_one = [[daquar_accuracy([s], [r], rule=rule).value for s, r in zip(said, right)] for rule in ("all", "any")]
    assert one_by_one == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    score = daquar_accuracy(said, right)
    assert (score.value, score.n) == (pytest.approx(0.4), 5)


def test_what_does_not_fit_is_a_located_error():
    for answers in ([[]], ["a"]):
        with pytest.raises(DataError, match="item 0"):
            daquar_accuracy(["a"], answers)
    with pytest.raises(UsageError, match="wups"):
        daquar_accuracy(["a"], [["a"]], rule="wups")
    assert vqa_accuracy_each([""], [["yes"] * 9 + ["no"]])[0] == 0  # an empty answer is an answer
