"""BLEU, ROUGE-L and CIDEr-D as published caption scores compute them, without Java.

Legend: n images · each with one candidate and one or more references, all lists of words
(`tokenise.tokenise`). All scores are shares (BLEU, ROUGE-L: 0..1; CIDEr-D: 0..10, published x 100).
Intervals resample images.

Sources: Papineni et al., ACL 2002 (BLEU); Lin, ACL workshop 2004 (ROUGE-L); Vedantam et al., CVPR 2015
(CIDEr-D); conventions where the papers leave a choice: github.com/salaniz/pycocoevalcap. Checked against
its Python parts in `tests/metrics/test_captions.py`. SPICE needs Java and is not here; METEOR: see `meteor`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from unimo.errors import DataError
from unimo.metrics.checks import check_answers, check_words
from unimo.metrics.intervals import Score, mean_score, sums_score
from unimo.metrics.lcs import lcs_length
from unimo.metrics.tokenise import ngram_counts, tokenise

__all__ = [
    "bleu",
    "bleu_as_released",
    "bleu_of_sums",
    "bleu_sums_each",
    "caption_report",
    "cider_d",
    "cider_d_each",
    "rouge_l",
    "rouge_l_each",
]

Words = Sequence[str]
References = Sequence[Sequence[Words]]

LONGEST = 4  # n-gram orders of BLEU and CIDEr
_BETA = 1.2  # ROUGE-L: recall counts beta^2 times as much as precision
_SIGMA = 6.0  # CIDEr-D: width of the length penalty, in words


def caption_report(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, seed: int = 0
) -> dict[str, Score]:
    """{"BLEU-1".."BLEU-4", "ROUGE-L", "CIDEr-D"} of plain sentences: n candidates, n lists of references."""
    check_answers(candidates, references)
    generated = [tokenise(sentence) for sentence in candidates]
    wanted = [[tokenise(sentence) for sentence in sentences] for sentences in references]
    return {
        **bleu(generated, wanted, seed=seed),
        "ROUGE-L": rouge_l(generated, wanted, seed=seed),
        "CIDEr-D": cider_d(generated, wanted, seed=seed),
    }


# ---- BLEU


def bleu(candidates: Sequence[Words], references: References, *, seed: int = 0) -> dict[str, Score]:
    """Corpus BLEU-1..4 without smoothing, as {"BLEU-1": Score, ...}.

    Lengths are compared with the closest reference, the shorter of two equally close ones. An order without
    any match gives 0; coco-caption adds 1e-15 there and prints about 1e-5.
    """
    per_image = bleu_sums_each(candidates, references)
    return {
        f"BLEU-{order}": sums_score(per_image, partial(bleu_of_sums, order=order), seed=seed)
        for order in range(1, LONGEST + 1)
    }


def bleu_sums_each(candidates: Sequence[Words], references: References) -> NDArray[np.float64]:
    """(n, 10), what each image adds: matches of order 1..4, n-grams of order 1..4, own length, length aimed at."""
    check_words(candidates, references)
    return np.array([_bleu_sums(words, wanted) for words, wanted in zip(candidates, references)])


def _bleu_sums(candidate: Words, references: Sequence[Words]) -> list[float]:
    allowed: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        allowed |= ngram_counts(reference, LONGEST)  # the union keeps the larger count
    matches = [0.0] * LONGEST
    for ngram, count in ngram_counts(candidate, LONGEST).items():
        matches[len(ngram) - 1] += min(count, allowed[ngram])
    length = len(candidate)
    offered = [float(max(0, length - order)) for order in range(LONGEST)]
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    return [*matches, *offered, float(length), float(closest)]


def bleu_of_sums(totals: NDArray[np.float64], order: int = LONGEST) -> NDArray[np.float64]:
    """BLEU (R,) of R summed rows (R, 10) of `bleu_sums_each`: for intervals and for `paired`."""
    matches, offered = totals[:, :order], totals[:, LONGEST : LONGEST + order]
    length, wanted = totals[:, -2], totals[:, -1]
    precision = matches / np.maximum(offered, 1)
    brevity = np.exp(np.minimum(0, 1 - wanted / np.maximum(length, 1e-9)))
    return precision.prod(axis=1) ** (1 / order) * brevity


def bleu_as_released(candidates: Sequence[Words], references: References) -> float:
    """BLEU-4 by the rule of the authors' evaluation code, to compare with numbers of that code alone.

    Lengths are compared with the shortest reference, and ratio + 1e-4 stands where the ratio of lengths should: texts
    just as long as their references score a little more than their precision.
    """
    totals = bleu_sums_each(candidates, references).sum(axis=0)
    precision = totals[:LONGEST] / np.maximum(totals[LONGEST : 2 * LONGEST], 1)
    min_length = sum(min(len(reference) for reference in wanted) for wanted in references)
    ratio = totals[-2] / max(min_length, 1)
    brevity = 1.0 if ratio > 1 else np.exp(1 - 1 / (ratio + 1e-4))
    return float(precision.prod() ** (1 / LONGEST) * brevity)


# ---- ROUGE-L


def rouge_l(candidates: Sequence[Words], references: References, *, seed: int = 0) -> Score:
    """Mean over images of the longest-common-subsequence F score (beta 1.2)."""
    return mean_score(rouge_l_each(candidates, references), seed=seed)


def rouge_l_each(candidates: Sequence[Words], references: References) -> NDArray[np.float64]:
    """ROUGE-L of each image (n,): best precision and best recall among its references, combined."""
    check_words(candidates, references)
    scores = np.zeros(len(candidates))
    for i, (words, wanted) in enumerate(zip(candidates, references)):
        try:
            scores[i] = _rouge_l(words, wanted)
        except DataError as error:
            error.where = f"ROUGE-L, item {i}"
            raise
    return scores


def _rouge_l(candidate: Words, references: Sequence[Words]) -> float:
    if not candidate:
        return 0.0
    common = [lcs_length(candidate, reference) for reference in references]
    precision = max(common) / len(candidate)
    recall = max(c / max(1, len(reference)) for c, reference in zip(common, references))
    if precision == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


# ---- CIDEr-D


def cider_d(candidates: Sequence[Words], references: References, *, seed: int = 0) -> Score:
    """Mean CIDEr-D over images (n-grams 1..4, sigma 6, times 10).

    How rare an n-gram is comes from these references, so scores of different sets do not compare, and one
    image alone scores 0. The interval resamples images with the rarities held fixed.
    """
    return mean_score(cider_d_each(candidates, references), seed=seed)


def cider_d_each(candidates: Sequence[Words], references: References) -> NDArray[np.float64]:
    """CIDEr-D of each image (n,)."""
    check_words(candidates, references)
    counted = [[ngram_counts(reference, LONGEST) for reference in wanted] for wanted in references]
    images_with: Counter[tuple[str, ...]] = Counter()
    for counts in counted:
        images_with.update(set().union(*counts))
    all_images = np.log(len(references))
    rarity = {ngram: float(all_images - np.log(n)) for ngram, n in images_with.items()}

    scores = np.zeros(len(candidates))
    for i, (candidate, wanted, counts) in enumerate(zip(candidates, references, counted)):
        own, own_norm = _weighted(ngram_counts(candidate, LONGEST), rarity, float(all_images))
        for reference, reference_counts in zip(wanted, counts):
            other, other_norm = _weighted(reference_counts, rarity, float(all_images))
            # coco-caption measures length in bigrams: an empty text is as long as one word
            gap = max(len(candidate) - 1, 0) - max(len(reference) - 1, 0)
            penalty = np.exp(-(gap**2) / (2 * _SIGMA**2))
            scores[i] += _clipped_cosine(own, own_norm, other, other_norm) * penalty / len(wanted)
    return 10 * scores


def _weighted(
    counts: Mapping[tuple[str, ...], int], rarity: Mapping[tuple[str, ...], float], unseen: float
) -> tuple[dict[tuple[str, ...], float], list[float]]:
    """Counts times rarity, and the Euclidean norm of each order."""
    weights = {ngram: count * rarity.get(ngram, unseen) for ngram, count in counts.items()}
    squares = [0.0] * LONGEST
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return weights, [square**0.5 for square in squares]


def _clipped_cosine(
    own: Mapping[tuple[str, ...], float],
    own_norm: Sequence[float],
    other: Mapping[tuple[str, ...], float],
    other_norm: Sequence[float],
) -> float:
    """Mean over orders of the cosine, the candidate's weights clipped: repeating a word gains nothing."""
    products = [0.0] * LONGEST
    for ngram in own:  # in the order of the text: a set of shared n-grams would be added up in an order of its own
        if ngram in other:
            products[len(ngram) - 1] += min(own[ngram], other[ngram]) * other[ngram]
    norms = [a * b for a, b in zip(own_norm, other_norm)]
    return sum(p / n for p, n in zip(products, norms) if n > 0) / LONGEST
