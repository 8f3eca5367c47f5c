"""METEOR 1.5 for English with two of its four modules, exact and stem: a substitute, and its name in reports says so.

What is missing, and why: METEOR is a Java program that also matches synonyms (WordNet) and paraphrases (a table of 60
MB); neither Java nor those data are part of this package. Its formula, parameters, function words and way of pairing
words are followed, so that this equals the program run with `-l en -lower -m "exact stem" -w "1.0 0.6"`, and stays a
few percent below what it gives with all modules; `docs/metrics.md` says how much on real captions and summaries.
Compare it with itself, not with published tables.

Legend: n texts · each with one candidate and one or more references, all lists of words (`tokenise.tokenise`).

Sources: Denkowski and Lavie, "Meteor Universal", WMT 2014 (formula, parameters), and "Meteor 1.3", WMT 2011 (pairing);
where they leave a choice, METEOR 1.5 as it runs. Checked against it in `tests/metrics/test_meteor.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimo.errors import DataError
from unimo.metrics.captions import References, Words
from unimo.metrics.checks import check_words
from unimo.metrics.intervals import Score, sums_score
from unimo.metrics.stem import Stemmer, snowball

__all__ = ["METEOR_EXACT_NAME", "METEOR_NAME", "meteor", "meteor_each", "meteor_of_sums", "meteor_sums_each"]

METEOR_NAME = "METEOR substitute (1.5, exact and stem modules only)"
METEOR_EXACT_NAME = "METEOR substitute (1.5, exact module only)"

_ALPHA = 0.85  # weight of recall in the mean
_BETA = 0.2  # how the penalty grows with the number of chunks
_GAMMA = 0.6  # the largest penalty
_DELTA = 0.75  # weight of a content word; a function word has the rest
_STEM = 0.6  # weight of a match of stems; an exact one has 1
MOST_PAIRS = 2**20  # of equal words of a candidate and its reference: each may be tried in each way
_BEAM = 40  # ways of pairing that are followed at once

_FUNCTION_WORDS = frozenset(  # each makes up at least a thousandth of English text
    """
    a about after all also an and are as at be been but by can could first for from had has have he her his i if
    in into is it its last more new no not of on one or other out over people s said she so some than that the their
    there they this time to two up was we were what when which who will with would year years you - 's 't $ -rrb-
    -lrb- -- , . " : ? ' ( ) “ ” ’ —
    """.split()  # noqa: SIM905 - words are easier to read without quotes
)

Pairs = list[tuple[int, int, bool]]  # place in the candidate, place in the reference, whether the words are equal


def meteor(
    candidates: Sequence[Words], references: References, *, stem: bool = True, seed: int = 0
) -> dict[str, Score]:
    """Score of all texts together, 0..1, under the one name it may be reported by: {METEOR_NAME: Score}.

    Not the mean of the texts' scores: matches, lengths and chunks are summed first, as METEOR does. stem=True needs
    nltk (UsageError without it).
    """
    name = METEOR_NAME if stem else METEOR_EXACT_NAME
    return {name: sums_score(meteor_sums_each(candidates, references, stem=stem), meteor_of_sums, seed=seed)}


def meteor_each(candidates: Sequence[Words], references: References, *, stem: bool = True) -> NDArray[np.float64]:
    """Score of each text (n,) with its best reference; 0 without any match."""
    return meteor_of_sums(meteor_sums_each(candidates, references, stem=stem))


def meteor_sums_each(candidates: Sequence[Words], references: References, *, stem: bool = True) -> NDArray[np.float64]:
    """(n, 6), what each text adds with its best reference.

    Columns: weight of its words, of the reference's words, of its matched words, of the reference's matched words,
    matched pairs, chunks (runs matched in the same order; 0 where one run is all of both texts).
    """
    check_words(candidates, references)
    stem_of = snowball() if stem else None
    best = []
    for item, (candidate, wanted) in enumerate(zip(candidates, references)):
        _check_lengths(item, candidate, wanted)
        rows = np.array(
            [_sums([w.lower() for w in candidate], [w.lower() for w in words], stem_of) for words in wanted]
        )
        best.append(rows[np.argmax(meteor_of_sums(rows))])
    return np.array(best, dtype=np.float64)


def _check_lengths(item: int, candidate: Words, wanted: Sequence[Words]) -> None:
    said = Counter(map(str.lower, candidate))
    pairs = max(sum(said[word.lower()] for word in words) for words in wanted)
    if pairs > MOST_PAIRS:
        raise DataError(
            "two texts are too long to pair their words",
            where=f"METEOR, item {item}",
            got=f"{pairs} pairs of equal words",
            expected=f"at most {MOST_PAIRS}",
            do="cut the texts, or leave METEOR out",
        )


def meteor_of_sums(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """METEOR (R,) of R summed rows (R, 6) of `meteor_sums_each`: for intervals and for `paired`."""
    own, other, own_matched, other_matched, pairs, chunks = totals.T
    some = pairs > 0
    precision, recall = own_matched / np.where(some, own, 1), other_matched / np.where(some, other, 1)
    mean = precision * recall / np.where(some, _ALPHA * precision + (1 - _ALPHA) * recall, 1)
    return mean * (1 - _GAMMA * (chunks / np.where(some, pairs, 1)) ** _BETA)


def _sums(own: list[str], other: list[str], stem_of: Stemmer | None) -> list[float]:
    pairs = _pairs(own, other, stem_of)
    paired = {(i, j) for i, j, _ in pairs}
    chunks = sum((i - 1, j - 1) not in paired for i, j in paired)
    if chunks == 1 and len(pairs) == len(own) == len(other):
        chunks = 0
    return [
        sum(map(_weight, own)),
        sum(map(_weight, other)),
        sum(_weight(own[i]) * (1 if same else _STEM) for i, _, same in pairs),
        sum(_weight(other[j]) * (1 if same else _STEM) for _, j, same in pairs),
        len(pairs),
        chunks,
    ]


def _weight(word: str) -> float:
    return 1 - _DELTA if word in _FUNCTION_WORDS else _DELTA


class _Way(NamedTuple):
    """One way of pairing the words gone through so far. Judged by its first three numbers, of which less is better."""

    missed: int = 0  # minus the pairs of equal words
    chunks: int = 0  # runs that have ended
    distance: int = 0
    next: int = -1  # the place in the candidate that would go on with the run, or -1
    used: int = 0  # places of the candidate, one bit each
    pairs: tuple = ()  # the last pair and those before it


_Move = tuple[int, int, int, int, _Way, "tuple[int, bool] | None"]  # missed, chunks, distance, turn, from, pair


def _pairs(own: list[str], other: list[str], stem_of: Stemmer | None) -> Pairs:
    """As many equal words as there are, in the fewest chunks, found by a beam that goes through `other`.

    Words that are each other's only partner are paired for certain. As METEOR 1.5 runs, and so that its numbers come
    out: pairs of stems do not count as matches here, and the distance of a pair whose words could also be paired
    otherwise is charged to the ways tried after it, not to its own.
    """
    partners = _partners(own, other, None if own == other else stem_of)
    courted = Counter(i for some in partners for i, _ in some)
    ways = [_Way()]
    for j, some in enumerate(partners):
        certain = len(some) == 1 and courted[some[0][0]] == 1
        moves: list[_Move] = []
        for way in ways:
            missed, chunks, distance, following, used, _ = way
            for i, same in some:
                if used >> i & 1:
                    continue
                breaks, apart = following not in (-1, i), abs(i - j)
                charged = distance + apart if certain else distance
                moves.append((missed - same, chunks + breaks, charged, len(moves), way, (i, same)))
                distance += apart
            if not certain:
                moves.append((missed, chunks + (following != -1), distance, len(moves), way, None))
        moves.sort()  # of equally good ones the one tried first: no two have the same number
        ways = [_moved(move, j) for move in moves[:_BEAM]]
    left = min(ways, key=lambda way: (way.missed, way.chunks + (way.next != -1), way.distance)).pairs
    pairs = []
    while left:
        pair, left = left
        pairs.append(pair)
    return pairs


def _moved(move: _Move, j: int) -> _Way:
    missed, chunks, distance, _, way, taken = move
    if taken is None:
        return _Way(missed, chunks, distance, -1, way.used, way.pairs)
    i, same = taken
    return _Way(missed, chunks, distance, i + 1, way.used | 1 << i, ((i, j, same), way.pairs))


def _partners(own: list[str], other: list[str], stem_of: Stemmer | None) -> list[list[tuple[int, bool]]]:
    """For each word of other: the places in own of equal words, then of words with the same stem."""
    places = _places(own)
    partners = [[(i, True) for i in places.get(word, ())] for word in other]
    if stem_of is not None:
        places = _places([stem_of(word) for word in own])
        for some, word in zip(partners, other):
            some.extend((i, False) for i in places.get(stem_of(word), ()) if own[i] != word)
    return partners


def _places(words: list[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        places.setdefault(word, []).append(place)
    return places
