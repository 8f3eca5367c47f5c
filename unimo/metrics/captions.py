"""BLEU, ROUGE-L and CIDEr-D as published caption scores compute them, without Java.

n images · each with one candidate and one or more references, all lists of words (`tokenize`). All scores are fractions
(BLEU, ROUGE-L: 0..1; CIDEr-D: 0..10, published x 100). Intervals resample images.

Sources: Papineni et al., ACL 2002 (BLEU); Lin, ACL workshop 2004 (ROUGE-L); Vedantam et al., CVPR 2015 (CIDEr-D);
conventions where the papers leave a choice: github.com/salaniz/pycocoevalcap, checked in `tests/metrics/`. METEOR and
SPICE are Java programs with data of their own and are not here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from unimo.metrics.checks import check_answers, check_word_pairs, check_words
from unimo.metrics.intervals import Score, Sums, mean_score, sums_score
from unimo.metrics.tokenize import ngram_counts, tokenize

Words = Sequence[str]
References = Sequence[Sequence[Words]]
Ngram = tuple[str, ...]

MAX_ORDER = 4  # n-gram orders of BLEU and CIDEr
MAX_WORD_PAIRS = 2**32  # of two texts in ROUGE-L: seconds, and 300 MB at most
_BETA = 1.2  # ROUGE-L: recall counts beta^2 times as much as precision
_SIGMA = 6.0  # CIDEr-D: width of the length penalty, in words


def caption_report(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, seed: int = 0
) -> dict[str, Score]:
    """{"BLEU-1".."BLEU-4", "ROUGE-L", "CIDEr-D"} of plain sentences: n candidates, n lists of references."""
    check_answers(candidates, references)
    words = [tokenize(sentence) for sentence in candidates]
    targets = [[tokenize(sentence) for sentence in sentences] for sentences in references]
    return {
        **bleu(words, targets, seed=seed),
        "ROUGE-L": rouge_l(words, targets, seed=seed),
        "CIDEr-D": cider_d(words, targets, seed=seed),
    }


# ---- BLEU


def bleu(candidates: Sequence[Words], references: References, *, seed: int = 0) -> dict[str, Score]:
    """Corpus BLEU-1..4 without smoothing, as {"BLEU-1": Score, ...}.

    Lengths are compared with the closest reference, the shorter of two equally close ones. An order without any match
    gives 0; coco-caption adds 1e-15 there and prints about 1e-5.
    """
    per_image = bleu_sums_each(candidates, references)
    return {f"BLEU-{order}": sums_score(per_image, of, seed=seed) for order, of in BLEU_OF_SUMS.items()}


def bleu_sums_each(candidates: Sequence[Words], references: References) -> Sums:
    """(n, 10), what each image adds: matches of order 1..4, n-grams of order 1..4, own length, closest length."""
    check_words(candidates, references)
    return np.array([_bleu_sums(words, targets) for words, targets in zip(candidates, references)])


def _bleu_sums(candidate: Words, references: Sequence[Words]) -> list[float]:
    allowed: Counter[Ngram] = Counter()
    for reference in references:
        allowed |= ngram_counts(reference, MAX_ORDER)  # the union keeps the larger count
    matches = [0.0] * MAX_ORDER
    for ngram, count in ngram_counts(candidate, MAX_ORDER).items():
        matches[len(ngram) - 1] += min(count, allowed[ngram])
    length = len(candidate)
    offered = [float(max(0, length - order)) for order in range(MAX_ORDER)]
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    return [*matches, *offered, float(length), float(closest)]


def bleu_of_sums(totals: Sums, order: int = MAX_ORDER) -> Sums:
    """BLEU (R,) of R summed rows (R, 10) of `bleu_sums_each`: for intervals and for `paired`."""
    matches, offered = totals[:, :order], totals[:, MAX_ORDER : MAX_ORDER + order]
    precision = matches / np.maximum(offered, 1)
    brevity = np.exp(np.minimum(0, 1 - totals[:, -1] / np.maximum(totals[:, -2], 1e-9)))
    return precision.prod(axis=1) ** (1 / order) * brevity


BLEU_OF_SUMS = {order: partial(bleu_of_sums, order=order) for order in range(1, MAX_ORDER + 1)}


def bleu_as_released(candidates: Sequence[Words], references: References) -> float:
    """BLEU-4 by the rule of the authors' evaluation code, to compare with numbers of that code alone.

    Lengths are compared with the shortest reference, and ratio + 1e-4 stands where the ratio of lengths should: texts
    just as long as their references score a little more than their precision.
    """
    totals = bleu_sums_each(candidates, references).sum(axis=0)
    precision = totals[:MAX_ORDER] / np.maximum(totals[MAX_ORDER : 2 * MAX_ORDER], 1)
    ratio = totals[-2] / max(sum(min(map(len, targets)) for targets in references), 1)
    brevity = 1.0 if ratio > 1 else np.exp(1 - 1 / (ratio + 1e-4))
    return float(precision.prod() ** (1 / MAX_ORDER) * brevity)


# ---- ROUGE-L


def rouge_l(candidates: Sequence[Words], references: References, *, seed: int = 0) -> Score:
    """Mean over images of the longest-common-subsequence F score (beta 1.2)."""
    return mean_score(rouge_l_each(candidates, references), seed=seed)


def rouge_l_each(candidates: Sequence[Words], references: References) -> NDArray[np.float64]:
    """ROUGE-L of each image (n,): best precision and best recall among its references, combined."""
    check_words(candidates, references)
    items = enumerate(zip(candidates, references))
    return np.array([_rouge_l(words, targets, f"ROUGE-L, item {i}") for i, (words, targets) in items])


def _rouge_l(candidate: Words, references: Sequence[Words], where: str) -> float:
    common = [_lcs_length(candidate, reference, where) for reference in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(candidate)
    recall = max(c / max(1, len(reference)) for c, reference in zip(common, references))
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _lcs_length(a: Words, b: Words, where: str) -> int:
    """Length of the longest common subsequence: a row of the usual table is one whole number, a bit for each word of
    the shorter text.

    Source: Hyyrö, "Bit-parallel LCS-length computation revisited", AWOCA 2004.
    """
    check_word_pairs(len(a), len(b), MAX_WORD_PAIRS, where)
    long, short = sorted((a, b), key=len, reverse=True)
    places: dict[str, int] = {}
    for place, word in enumerate(short):
        places[word] = places.get(word, 0) | 1 << place
    row = every = (1 << len(short)) - 1
    for word in long:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & every
    return len(short) - row.bit_count()


# ---- CIDEr-D


def cider_d(candidates: Sequence[Words], references: References, *, seed: int = 0) -> Score:
    """Mean CIDEr-D over images (n-grams 1..4, sigma 6, times 10).

    How rare an n-gram is comes from these references, so scores of different sets do not compare, and one image alone
    scores 0. The interval resamples images with the rarities held fixed.
    """
    return mean_score(cider_d_each(candidates, references), seed=seed)


def cider_d_each(candidates: Sequence[Words], references: References) -> NDArray[np.float64]:
    """CIDEr-D of each image (n,)."""
    check_words(candidates, references)
    counted = [[ngram_counts(reference, MAX_ORDER) for reference in targets] for targets in references]
    images_with: Counter[Ngram] = Counter()
    for counts in counted:
        images_with.update(set().union(*counts))
    unseen = float(np.log(len(references)))
    rarity = {ngram: float(unseen - np.log(n)) for ngram, n in images_with.items()}
    scores = np.zeros(len(candidates))
    for i, (candidate, targets, counts) in enumerate(zip(candidates, references, counted)):
        own = _weighted(ngram_counts(candidate, MAX_ORDER), rarity, unseen)
        for reference, reference_counts in zip(targets, counts):
            # coco-caption measures length in bigrams: an empty text is as long as one word
            gap = max(len(candidate) - 1, 0) - max(len(reference) - 1, 0)
            penalty = np.exp(-(gap**2) / (2 * _SIGMA**2))
            scores[i] += _clipped_cosine(own, _weighted(reference_counts, rarity, unseen)) * penalty / len(targets)
    return 10 * scores


Weighted = tuple[dict[Ngram, float], list[float]]  # counts times rarity, and the Euclidean norm of each order


def _weighted(counts: Mapping[Ngram, int], rarity: Mapping[Ngram, float], unseen: float) -> Weighted:
    weights = {ngram: count * rarity.get(ngram, unseen) for ngram, count in counts.items()}
    squares = [0.0] * MAX_ORDER
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return weights, [square**0.5 for square in squares]


def _clipped_cosine(candidate: Weighted, reference: Weighted) -> float:
    """Mean over orders of the cosine, the candidate's weights clipped: repeating a word gains nothing."""
    (own, own_norm), (other, other_norm) = candidate, reference
    products = [0.0] * MAX_ORDER
    for ngram in own:  # in the order of the text: a set of shared n-grams would be added up in an order of its own
        if ngram in other:
            products[len(ngram) - 1] += min(own[ngram], other[ngram]) * other[ngram]
    norms = [a * b for a, b in zip(own_norm, other_norm)]
    return sum(p / n for p, n in zip(products, norms) if n > 0) / MAX_ORDER
