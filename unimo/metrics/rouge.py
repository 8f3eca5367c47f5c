"""ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of summaries, as google's `rouge-score` computes them.

Legend: n texts · each with one candidate and one or more references, plain strings. A line of a text is a sentence for
ROUGE-Lsum. Not to be confused with `captions.rouge_l`, coco-caption's ROUGE-L: other words, other F.

Sources: Lin, "ROUGE", ACL workshop 2004; conventions where the paper leaves a choice:
github.com/google-research/google-research/tree/master/rouge. Checked against it in `tests/metrics/test_rouge.py`.
The papers' numbers come from ROUGE-1.5.5 (`-m`, so `stem=True` here; their R-L is ROUGE-Lsum of sentences on lines).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from unimo.errors import DataError, UsageError
from unimo.metrics.checks import check_answers
from unimo.metrics.intervals import Score, mean_score
from unimo.metrics.lcs import check_lengths, lcs_length, lcs_positions
from unimo.metrics.stem import porter

__all__ = ["KINDS", "PARTS", "rouge", "rouge_each", "rouge_words"]

KINDS = ("ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum")
PARTS = ("precision", "recall", "F")

_WORD = re.compile(r"[a-z0-9]+")
MOST_LINE_PAIRS = 2**22  # of ROUGE-Lsum, which compares each line with each
_STEMMED_FROM = 4  # shorter words are left as they are

Lines = list[list[str]]


def rouge(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    stem: bool = False,
    part: str = "F",
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> dict[str, Score]:
    """Mean over texts of each kind, as {"ROUGE-1": Score, ...}, 0..1; part: "F", "precision" or "recall"."""
    if part not in PARTS:
        raise UsageError("unknown part of ROUGE", got=part, expected=", ".join(PARTS))
    values = rouge_each(candidates, references, stem=stem, kinds=kinds)
    column = PARTS.index(part)
    return {kind: mean_score(each[:, column], seed=seed) for kind, each in values.items()}


def rouge_each(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    stem: bool = False,
    kinds: Sequence[str] = KINDS,
) -> dict[str, NDArray[np.float64]]:
    """{kind: (n, 3)}: precision, recall and F of each text against that of its references with the largest F.

    A text without words scores 0. stem: compare Porter's stems of words of four and more letters (needs nltk).
    Raises DataError where references are missing or texts are too long (`lcs.check_lengths`), UsageError for an unknown
    kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError("unknown kind of ROUGE", got=kind, expected=", ".join(KINDS))
    check_answers(candidates, references)
    result = {kind: np.zeros((len(candidates), len(PARTS))) for kind in kinds}
    for text, (candidate, wanted) in enumerate(zip(candidates, references)):
        said = _lines(candidate, stem)
        rivals = [_lines(reference, stem) for reference in wanted]
        for kind, each in result.items():
            try:
                each[text] = max((_score(kind, said, rival) for rival in rivals), key=lambda parts: parts[2])
            except DataError as error:
                error.where = f"{kind}, item {text}"
                raise
    return result


def rouge_words(text: str, stem: bool = False) -> list[str]:
    """Lower-case runs of a-z and 0-9, all else is a gap; optionally stemmed."""
    words = _WORD.findall(text.lower())
    if not stem:
        return words
    stem_of = porter()
    return [stem_of(word) if len(word) >= _STEMMED_FROM else word for word in words]


def _lines(text: str, stem: bool) -> Lines:
    return [rouge_words(line, stem) for line in text.split("\n")]


def _score(kind: str, candidate: Lines, reference: Lines) -> tuple[float, float, float]:
    if kind == "ROUGE-Lsum" and (len(candidate) > 1 or len(reference) > 1):
        said, wanted = sum(map(len, candidate)), sum(map(len, reference))
        return _parts(_union_hits(candidate, reference), said, wanted)
    own, other = _joined(candidate), _joined(reference)
    if kind in ("ROUGE-L", "ROUGE-Lsum"):  # a single line each: the union is the subsequence itself
        return _parts(lcs_length(own, other), len(own), len(other))
    order = int(kind[-1])
    own_grams, other_grams = _grams(own, order), _grams(other, order)
    hits = sum(min(count, other_grams[gram]) for gram, count in own_grams.items())
    return _parts(hits, len(own) - order + 1, len(other) - order + 1)


def _union_hits(candidate: Lines, reference: Lines) -> int:
    """Words of the reference found in order in some line of the candidate, none counted more often than it occurs."""
    left = Counter(_joined(candidate))
    check_lengths(left.total(), sum(map(len, reference)))
    if len(candidate) * len(reference) > MOST_LINE_PAIRS:
        raise DataError(
            "two texts have too many lines to compare each with each",
            got=f"{len(candidate)} and {len(reference)} lines",
            expected=f"at most {MOST_LINE_PAIRS} pairs of lines",
            do="leave ROUGE-Lsum out, or cut the texts",
        )
    hits = 0
    for line in reference:
        found: set[int] = set()
        for own in candidate:
            found.update(lcs_positions(line, own))
        for place in sorted(found):
            if left[line[place]] > 0:
                left[line[place]] -= 1
                hits += 1
    return hits


def _parts(hits: int, offered: int, wanted: int) -> tuple[float, float, float]:
    if not hits:
        return 0.0, 0.0, 0.0
    precision, recall = hits / offered, hits / wanted
    return precision, recall, 2 * precision * recall / (precision + recall)


def _grams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order))))


def _joined(lines: Iterable[list[str]]) -> list[str]:
    return [word for line in lines for word in line]
