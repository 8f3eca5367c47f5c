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
from functools import partial

import numpy as np
from numpy.typing import NDArray

from unimo.metrics.checks import check_answers
from unimo.metrics.intervals import Groups, Score, fraction_score

Texts = Sequence[str]
References = Sequence[Sequence[str]]
Each = Callable[[Texts, References], NDArray[np.float64]]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """
    >>> normalize_answer(" The well-known  Cat!")
    'wellknown cat'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _exact(words: list[str], target: list[str]) -> float:
    return float(words == target)


def _f1(words: list[str], target: list[str]) -> float:
    common = (Counter(words) & Counter(target)).total()
    if not common:
        return float(words == target)  # nothing is left of either
    precision, recall = common / len(words), common / len(target)
    return 2 * precision * recall / (precision + recall)


def _leaving_one_out(scores: list[float]) -> float:
    """Mean, over leaving out one reference at a time, of the best of the others: so people, each scored against the
    others, can be compared with a model. A single reference is not left out."""
    if len(scores) == 1:
        return scores[0]
    return sum(max(scores[:i] + scores[i + 1 :]) for i in range(len(scores))) / len(scores)


def _each(
    compare: Callable[[list[str], list[str]], float],
    combine: Callable[[list[float]], float],
    predictions: Texts,
    references: References,
) -> NDArray[np.float64]:
    """(n,) scores of each question, 0..1. DataError where a question has no reference."""
    check_answers(predictions, references)
    scores = []
    for prediction, targets in zip(predictions, references):
        words = normalize_answer(prediction).split()
        scores.append(combine([compare(words, normalize_answer(target).split()) for target in targets]))
    return np.array(scores, dtype=np.float64)


def _mean(each: Each, predictions: Texts, references: References, *, groups: Groups = None, seed: int = 0) -> Score:
    """Mean over questions; groups: questions resampled together, such as those of a story."""
    return fraction_score(each(predictions, references), groups=groups, seed=seed)


squad_em_each: Each = partial(_each, _exact, max)
squad_f1_each: Each = partial(_each, _f1, max)  # F1 with the best reference
coqa_em_each: Each = partial(_each, _exact, _leaving_one_out)
coqa_f1_each: Each = partial(_each, _f1, _leaving_one_out)
squad_em = partial(_mean, squad_em_each)
squad_f1 = partial(_mean, squad_f1_each)
coqa_em = partial(_mean, coqa_em_each)
coqa_f1 = partial(_mean, coqa_f1_each)  # CoQA's score (the papers' column "Acc")
