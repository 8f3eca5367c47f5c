"""VQA accuracy against ten people, its soft targets, and DAQUAR's accuracy against a set of answers.

n questions · each with one predicted answer and the answers of m people (ten in VQA v2).

Answers are compared after VQA's own clean-up, with all its habits: a mark of punctuation is deleted where one of its
kind stands next to a space or a number has a thousands comma, else it becomes a space; numbers up to ten become digits
("none" too); articles go; "dont" becomes "don't". Where all people wrote the same string nothing is cleaned, neither
theirs nor the prediction, so "Yes" is wrong where ten people wrote "yes".

Sources: Antol et al., ICCV 2015, and the evaluation code at github.com/GT-Vision-Lab/VQA (accuracy); Teney et al.,
CVPR 2018 (soft targets); Malinowski and Fritz, NIPS 2014 (DAQUAR; their WUPS needs WordNet and is not here).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from unimo.errors import DataError, UsageError
from unimo.metrics.checks import check_answers, check_counts
from unimo.metrics.intervals import Groups, Score, fraction_score

Texts = Sequence[str]

_ENOUGH = 3  # people who must agree for full marks

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS = 32  # the published code passes a flag where the largest number of replacements belongs

_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = frozenset(("a", "an", "the"))

# Each is also written with any one of its apostrophes forgotten, and is put right.
_CONTRACTIONS = re.findall(
    r"\S+",
    """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
    """,
)
_REPAIRED = {
    word[:place] + word[place + 1 :]: word for word in _CONTRACTIONS for place, c in enumerate(word) if c == "'"
} | {"somebody'd": "somebodyd"}  # the published table has this one the wrong way round


def vqa_accuracy(
    predictions: Texts, answers: Sequence[Texts], *, groups: Groups = None, chance: float | None = None, seed: int = 0
) -> Score:
    """Mean of `vqa_accuracy_each`, 0..1; groups: the image of each question, so that an image is drawn as one."""
    return fraction_score(vqa_accuracy_each(predictions, answers), groups=groups, chance=chance, seed=seed)


def vqa_accuracy_each(predictions: Texts, answers: Sequence[Texts]) -> NDArray[np.float64]:
    """min(people who gave the answer / 3, 1), averaged over leaving each person out (n,). DataError without answers."""
    check_answers(predictions, answers)
    scores = []
    for prediction, people in zip(predictions, answers):
        prediction, people = _one_line(prediction), [_one_line(answer) for answer in people]
        if len(set(people)) > 1:
            prediction, people = clean_answer(prediction), [clean_answer(answer) for answer in people]
        scores.append(_accuracy(people.count(prediction), len(people)))
    return np.array(scores, dtype=np.float64)


def clean_answer(text: str) -> str:
    """
    >>> clean_answer("The two dogs, dont they?")
    "2 dogs don't they"
    """
    text = _one_line(text)
    thousands = bool(_COMMA_IN_NUMBER.search(text))
    marks = {
        ord(mark): "" if thousands or f"{mark} " in text or f" {mark}" in text else " "
        for mark in _PUNCTUATION
        if mark in text
    }
    text = _FULL_STOP.sub("", text.translate(marks), count=_FULL_STOPS)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_REPAIRED.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _accuracy(agreeing: int, people: int) -> float:
    """Leaving out one who agrees lowers the count; leaving out another does not."""
    if people == 1:
        return float(agreeing)  # ours: leaving out the only one would leave nobody
    with_one_less = agreeing * min((agreeing - 1) / _ENOUGH, 1)
    return (with_one_less + (people - agreeing) * min(agreeing / _ENOUGH, 1)) / people


# ---- DAQUAR: a set of answers


def daquar_accuracy(
    predictions: Sequence[str | Collection[str]],
    answers: Sequence[Collection[str]],
    *,
    rule: str = "all",
    groups: Groups = None,
    chance: float | None = None,
    seed: int = 0,
) -> Score:
    """Fraction of questions (n,) answered correctly, strings compared without case and outer spaces.

    A prediction is one answer or a collection. rule "all" (the published accuracy): the predicted set must be the set
    of answers. "any": one predicted answer among them is enough, for models that can name only one.
    """
    if rule not in ("all", "any"):
        raise UsageError("unknown rule of answer sets", got=rule, expected="all or any")
    check_counts(predictions, answers)
    hits = []
    for item, (prediction, targets) in enumerate(zip(predictions, answers)):
        if isinstance(targets, str):
            raise DataError("a question's answers are a set", where=f"item {item}", got=targets)
        own, right = _as_set([prediction] if isinstance(prediction, str) else prediction, item), _as_set(targets, item)
        if not right:
            raise DataError("a question without an answer", where=f"item {item}", expected="at least one")
        hits.append(own == right if rule == "all" else bool(own & right))
    return fraction_score(hits, groups=groups, chance=chance, seed=seed)


def _as_set(answers: Collection[str], item: int) -> frozenset[str]:
    if not isinstance(answers, Collection) or not all(isinstance(answer, str) for answer in answers):
        raise DataError("answers are texts", where=f"item {item}", got=answers, expected="one string, or several")
    return frozenset(answer.strip().lower() for answer in answers)
