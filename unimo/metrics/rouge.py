"""ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of summaries, by the `rouge-score` library (extra `metrics`).

n texts · each with one candidate and one or more references, plain strings. A line of a text is a sentence for
ROUGE-Lsum. Not to be confused with `captions.rouge_l`, coco-caption's ROUGE-L: other words, other F.

Sources: Lin, "ROUGE", ACL workshop 2004; github.com/google-research/google-research/tree/master/rouge. The papers'
numbers come from ROUGE-1.5.5 (`-m`, so `stem=True` here; their R-L is ROUGE-Lsum of sentences on lines).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimo.errors import UsageError
from unimo.extras import optional
from unimo.metrics.checks import check_answers, check_word_pairs
from unimo.metrics.intervals import Score, mean_score

KINDS = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL", "ROUGE-Lsum": "rougeLsum"}
PARTS = ("precision", "recall", "F")
MAX_WORD_PAIRS = 2**26  # the library's table of subsequences holds them all: half a gigabyte, and a minute
_WORD = re.compile("[A-Za-z0-9]+")


def rouge(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    stem: bool = False,
    part: str = "F",
    kinds: Sequence[str] = tuple(KINDS),
    seed: int = 0,
) -> dict[str, Score]:
    """Mean over texts of each kind, as {"ROUGE-1": Score, ...}, 0..1; part: "F", "precision" or "recall"."""
    if part not in PARTS:
        raise UsageError("unknown part of ROUGE", got=part, expected=", ".join(PARTS))
    values = rouge_each(candidates, references, stem=stem, kinds=kinds)
    return {kind: mean_score(each[:, PARTS.index(part)], seed=seed) for kind, each in values.items()}


def rouge_each(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    stem: bool = False,
    kinds: Sequence[str] = tuple(KINDS),
) -> dict[str, NDArray[np.float64]]:
    """{kind: (n, 3)}: precision, recall and F of each text against that of its references with the largest F.

    A text without words scores 0. stem: compare Porter's stems of words of four and more letters. Raises DataError
    where references are missing or texts are too long, UsageError for an unknown kind and without the library.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError("unknown kind of ROUGE", got=kind, expected=", ".join(KINDS))
    check_answers(candidates, references)
    scorer = scorer_class()([KINDS[kind] for kind in kinds], use_stemmer=stem)
    result = {kind: np.zeros((len(candidates), len(PARTS))) for kind in kinds}
    for item, (candidate, targets) in enumerate(zip(candidates, references)):
        if any(KINDS[kind].startswith("rougeL") for kind in kinds):
            _check_lengths(candidate, targets, f"ROUGE-L, item {item}")
        found = scorer.score_multi(targets, candidate)
        for kind, each in result.items():
            each[item] = found[KINDS[kind]]
    return result


def scorer_class() -> Any:
    """The library's scorer, or a UsageError: asked for before training, not after."""
    return optional("rouge_score.rouge_scorer", "ROUGE", 'pip install "unimo[metrics]"').RougeScorer


def _check_lengths(candidate: str, references: Sequence[str], where: str) -> None:
    words, *others = (len(_WORD.findall(text)) for text in (candidate, *references))
    check_word_pairs(words, max(others), MAX_WORD_PAIRS, where)
