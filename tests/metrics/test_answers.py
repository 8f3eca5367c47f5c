"""Against a plain second writing of the official CoQA and SQuAD arithmetic, and by hand."""

import random
import re
import string

import numpy as np
import pytest

from unimo.metrics.answers import (
    coqa_em,
    coqa_em_each,
    coqa_f1,
    coqa_f1_each,
    normalize_answer,
    squad_em,
    squad_em_each,
    squad_f1,
    squad_f1_each,
)

PIECES = [
    "The", "a", "an", "the", "cat", "Cat", "cats", "well-known", "U.S.", "3.5", "no", "Yes,", "unknown", "it's",
    "“white”",
    "$5", "!", "Ann", "theatre", "A.", "it", "is", "on", "mat", "red\n", "\t",
]  # fmt: skip


def answer(r):
    return " ".join(r.choice(PIECES) for _ in range(r.choice([0, 1, 1, 2, 3, 4, 6])))


def cases(n=1000):
    r = random.Random(0)
    people = [[answer(r) for _ in range(r.randint(1, 5))] for _ in range(n)]
    return [r.choice([*some, answer(r)]) for some in people], people


# ---- the second opinion: one function per sentence of the published definition, all in plain loops


def plain_words(text):
    kept = [c for c in text.lower() if c not in string.punctuation]
    return re.sub(r"\b(a|an|the)\b", " ", "".join(kept), flags=re.UNICODE).split()


def plain_exact(gold, said):
    return int(" ".join(plain_words(gold)) == " ".join(plain_words(said)))


def plain_f1(gold, said):
    gold, said = plain_words(gold), plain_words(said)
    if not gold or not said:
        return int(gold == said)
    left, same = list(gold), 0
    for word in said:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(said), 1.0 * same / len(gold)
    return (2 * precision * recall) / (precision + recall)


def plain_turn(score, gold, said):
    total = 0.0
    if len(gold) > 1:
        for i in range(len(gold)):
            total += max(score(one, said) for one in gold[:i] + gold[i + 1 :])
    else:
        total += max(score(one, said) for one in gold)
    return total / max(1, len(gold))


@pytest.mark.parametrize(
    ("ours", "plain", "combine"),
    [
        (coqa_em_each, plain_exact, plain_turn),
        (coqa_f1_each, plain_f1, plain_turn),
        (squad_em_each, plain_exact, lambda score, gold, said: max(score(one, said) for one in gold)),
        (squad_f1_each, plain_f1, lambda score, gold, said: max(score(one, said) for one in gold)),
    ],
)
def test_a_thousand_random_answers_score_as_the_official_scripts_say(ours, plain, combine):
    predictions, people = cases()
    expected = [combine(plain, gold, said) for said, gold in zip(predictions, people)]
    np.testing.assert_allclose(ours(predictions, people), expected, rtol=0, atol=1e-15)
    assert 0.1 < np.mean(expected) < 0.9


# ---- by hand


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  The well-known  CAT! ", "wellknown cat"),
        ("a.m.", "am"),  # the full stop goes before the article is looked for
        ("An apple a day; the end", "apple day end"),
        ("theatre another", "theatre another"),
        ("“Quoted” – dash", "“quoted” – dash"),  # only ASCII marks count as punctuation
        ("The", ""),
    ],
)
def test_what_is_left_of_an_answer(text, words):
    assert normalize_answer(text) == words


def test_scores_are_means_with_intervals_by_story():
    predictions, people = cases(200)
    pairs = [(squad_em, squad_em_each), (squad_f1, squad_f1_each), (coqa_em, coqa_em_each), (coqa_f1, coqa_f1_each)]
    for metric, each in pairs:
        score = metric(predictions * 4, people * 4)
        by_story = metric(predictions * 4, people * 4, groups=list(range(200)) * 4)
        assert score.value == by_story.value == pytest.approx(each(predictions, people).mean())
        assert by_story.high - by_story.low > 1.6 * (score.high - score.low)
    assert coqa_f1(["cat"] * 20, [["cat"]] * 20).low < 0.9  # all right so far is not certainty
