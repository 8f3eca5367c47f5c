"""Short written answers: exact match and word F1 as SQuAD defines them, and CoQA's way with several people's answers.

Legend: n questions · each with one predicted answer and one or more answers of people, plain strings.

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
from numpy.typing import ArrayLike, NDArray

from unimo.metrics.checks import check_answers
from unimo.metrics.intervals import Score, share_score

__all__ = [
    "coqa_em",
    "coqa_em_each",
    "coqa_f1",
    "coqa_f1_each",
    "normalise_answer",
    "squad_em",
    "squad_em_each",
    "squad_f1",
    "squad_f1_each",
]

References = Sequence[Sequence[str]]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalise_answer(text: str) -> str:
    """
    >>> normalise_answer(" The well-known  Cat!")
    'wellknown cat'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


# ---- SQuAD: the best of all references


def squad_em(
    predictions: Sequence[str], references: References, *, groups: ArrayLike | None = None, seed: int = 0
) -> Score:
    """Share of questions (n,) answered just as one of the references, after normalising."""
    return share_score(squad_em_each(predictions, references), groups=groups, seed=seed)


def squad_f1(
    predictions: Sequence[str], references: References, *, groups: ArrayLike | None = None, seed: int = 0
) -> Score:
    """Mean over questions of the word F1 with the best reference; groups: questions resampled together."""
    return share_score(squad_f1_each(predictions, references), groups=groups, seed=seed)


def squad_em_each(predictions: Sequence[str], references: References) -> NDArray[np.float64]:
    """1 or 0 of each question (n,). Raises DataError where a question has no reference."""
    return _each(predictions, references, _same, max)


def squad_f1_each(predictions: Sequence[str], references: References) -> NDArray[np.float64]:
    """F1 of each question (n,)."""
    return _each(predictions, references, _f1, max)


# ---- CoQA: the mean over people of the best of the other people's answers


def coqa_em(
    predictions: Sequence[str], references: References, *, groups: ArrayLike | None = None, seed: int = 0
) -> Score:
    """Mean of `coqa_em_each`; groups: the story of each question, so that a story is resampled as one."""
    return share_score(coqa_em_each(predictions, references), groups=groups, seed=seed)


def coqa_f1(
    predictions: Sequence[str], references: References, *, groups: ArrayLike | None = None, seed: int = 0
) -> Score:
    """Mean of `coqa_f1_each`, CoQA's score (the papers' column "Acc"); groups: the story of each question."""
    return share_score(coqa_f1_each(predictions, references), groups=groups, seed=seed)


def coqa_em_each(predictions: Sequence[str], references: References) -> NDArray[np.float64]:
    """Exact match of each question (n,), 0..1."""
    return _each(predictions, references, _same, _leaving_one_out)


def coqa_f1_each(predictions: Sequence[str], references: References) -> NDArray[np.float64]:
    """F1 of each question (n,): one person left out at a time, so that people can be scored by the same rule.

    A single reference is not left out.
    """
    return _each(predictions, references, _f1, _leaving_one_out)


def _each(
    predictions: Sequence[str],
    references: References,
    compare: Callable[[list[str], list[str]], float],
    combine: Callable[[list[float]], float],
) -> NDArray[np.float64]:
    check_answers(predictions, references)
    scores = []
    for said, wanted in zip(predictions, references):
        words = normalise_answer(said).split()
        scores.append(combine([compare(words, normalise_answer(answer).split()) for answer in wanted]))
    return np.array(scores, dtype=np.float64)


def _same(said: list[str], wanted: list[str]) -> float:
    return float(said == wanted)


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    common = (Counter(said) & Counter(wanted)).total()
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _leaving_one_out(scores: list[float]) -> float:
    if len(scores) == 1:
        return scores[0]
    return sum(max(scores[:person] + scores[person + 1 :]) for person in range(len(scores))) / len(scores)
