"""Short answers: exact match and word F1 of SQuAD, and of CoQA with several reference answers.

n questions · each with one predicted answer and one or more reference answers, plain strings.

Before anything is compared, letters are lowered, ASCII punctuation is deleted (not replaced: "well-known" becomes
"wellknown"), the words a, an, the go, and gaps become single spaces. Where that leaves nothing of one of the two
answers, both scores are 1 if it leaves nothing of either, else 0 (SQuAD 2.0 and CoQA; SQuAD 1.1 gives F1 0 there).

Sources: Rajpurkar et al., EMNLP 2016 and ACL 2018 (SQuAD); Reddy et al., TACL 2019, section 5 and the evaluation
script 1.0 at stanfordnlp.github.io/coqa (CoQA).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from unimo.metrics.checks import check_answers
from unimo.metrics.intervals import Groups, Score, fraction_score

Texts = Sequence[str]
References = Sequence[Sequence[str]]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """
    >>> normalize_answer(" The well-known  Cat!")
    'wellknown cat'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def squad_em(predictions: Texts, references: References, *, groups: Groups = None, seed: int = 0) -> Score:
    """Fraction of questions (n,) answered exactly as one of the references, after normalizing."""
    return fraction_score(squad_em_each(predictions, references), groups=groups, seed=seed)


def squad_f1(predictions: Texts, references: References, *, groups: Groups = None, seed: int = 0) -> Score:
    """Mean over questions of the word F1 with the best reference; groups: questions resampled together."""
    return fraction_score(squad_f1_each(predictions, references), groups=groups, seed=seed)


def coqa_em(predictions: Texts, references: References, *, groups: Groups = None, seed: int = 0) -> Score:
    """Mean of `coqa_em_each`; groups: the story of each question, so that a story is resampled as one."""
    return fraction_score(coqa_em_each(predictions, references), groups=groups, seed=seed)


def coqa_f1(predictions: Texts, references: References, *, groups: Groups = None, seed: int = 0) -> Score:
    """Mean of `coqa_f1_each`, CoQA's score (the papers' column "Acc"); groups: the story of each question."""
    return fraction_score(coqa_f1_each(predictions, references), groups=groups, seed=seed)


def squad_em_each(predictions: Texts, references: References) -> NDArray[np.float64]:
    """1 or 0 of each question (n,). Raises DataError where a question has no reference."""
    return _each(predictions, references, _exact, max)


def squad_f1_each(predictions: Texts, references: References) -> NDArray[np.float64]:
    """F1 of each question (n,)."""
    return _each(predictions, references, _f1, max)


def coqa_em_each(predictions: Texts, references: References) -> NDArray[np.float64]:
    """Exact match of each question (n,), 0..1."""
    return _each(predictions, references, _exact, _leaving_one_out)


def coqa_f1_each(predictions: Texts, references: References) -> NDArray[np.float64]:
    """F1 of each question (n,): the mean, over leaving out one reference at a time, of the best of the others.

    So people, each scored against the others, can be compared with a model. A single reference is not left out.
    """
    return _each(predictions, references, _f1, _leaving_one_out)


def _each(
    predictions: Texts,
    references: References,
    compare: Callable[[list[str], list[str]], float],
    combine: Callable[[list[float]], float],
) -> NDArray[np.float64]:
    check_answers(predictions, references)
    scores = []
    for prediction, targets in zip(predictions, references):
        words = normalize_answer(prediction).split()
        scores.append(combine([compare(words, normalize_answer(target).split()) for target in targets]))
    return np.array(scores, dtype=np.float64)


def _exact(words: list[str], target: list[str]) -> float:
    return float(words == target)


def _f1(words: list[str], target: list[str]) -> float:
    common = (Counter(words) & Counter(target)).total()
    if not common:
        return float(words == target)  # nothing is left of either
    precision, recall = common / len(words), common / len(target)
    return 2 * precision * recall / (precision + recall)


def _leaving_one_out(scores: list[float]) -> float:
    if len(scores) == 1:
        return scores[0]
    return sum(max(scores[:i] + scores[i + 1 :]) for i in range(len(scores))) / len(scores)
