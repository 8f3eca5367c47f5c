"""Answers of people with the scores they are worth (VQA v2; Goyal et al., CVPR 2017)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from unimo.corpus.text import checked_text
from unimo.errors import DataError

ASKED = 10  # people who answer a question of VQA v2


def plain_answer(answer: str) -> str:
    """Lower case, single spaces. The official normalisation belongs to the metric and can be handed in instead."""
    return " ".join(answer.lower().split())


def most_frequent(answers: Sequence[str]) -> str:
    """The answer given most often; of several, the one given first."""
    return Counter(answers).most_common(1)[0][0]


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Each distinct answer of n people and min(1, 0.3 n): what the official accuracy pays for it on average."""
    return {answer: min(1.0, 3 * count / 10) for answer, count in Counter(answers).items()}


def soft_answers(value: Any, where: str, *, normalise: Callable[[str], str]) -> dict[str, float] | None:
    """Answers in a cell: one, a set of right ones (1 each), those of ten people or more (soft), or {answer: score}.

    None where there is no answer. DataError for other types and for scores outside 0 to 1.
    """
    if isinstance(value, dict):
        scores: dict[str, float] = {}
        for answer, score in value.items():
            number = isinstance(score, (int, float)) and not isinstance(score, bool)
            if not (number and math.isfinite(score) and 0 <= score <= 1):
                raise DataError("not a score", where=where, got=repr(score)[:60], expected="a number from 0 to 1")
            scores[normalise(checked_text(answer, where, "answers"))] = float(score)
        return {answer: score for answer, score in scores.items() if answer} or None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        raise DataError(
            "wrong type of field", where=where, got=type(value).__name__, expected="an answer or a list of answers"
        )
    spoken = [normalise(checked_text(answer, where, "answers")) for answer in given]
    answers = [answer for answer in spoken if answer]
    if not answers:
        return None
    return soft_scores(answers) if len(given) >= ASKED else dict.fromkeys(answers, 1.0)
