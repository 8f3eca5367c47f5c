"""How natural a rewritten caption reads, by a classifier of texts alone: it filters what gives rewrites away.

A model that tells a rewrite by its English need not look at the image. So more candidates are drawn than are wanted,
and those are kept that a text classifier takes for originals (adversarial filtering, Zellers et al. 2018). It is naive
Bayes over n-grams, over pairs of content words, and over how many of each no caption of another image has: its log-odds
are counted, so every machine finds the same. Rounds add up: each learns from what those before it let through. Two
halves of the images filter each other: no caption is judged by what was learnt from it.

What passes must not be asked about with the captions it was filtered by: it is like them, their chance traits included,
and a classifier that knows them finds less than a new one.

    n texts · L tokens · F features
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from unimo.rewriting.grammar import grammar, tokens

ROUNDS = 2
LET_THROUGH = 3  # while learning, one candidate in so many
_SLOTS = 1 << 20  # of hashed n-grams; 0: none
_KINDS = 6  # words; words 1, 2 and 3 apart; three in a row; two content words anywhere
_MOST_UNSEEN = 8  # so many unseen ones of a kind, or more, are one feature
_PAIRED = 12  # content words of a text, at most, that are paired with one another
_SMOOTHING = 2.0
_BEGIN, _END = "<", ">"


@dataclass(frozen=True)
class Drawn:
    """Features of a caption, (F,), and of candidates of one level, (n, F). half: of its image, 0 or 1."""

    level: str
    half: int
    original: np.ndarray
    candidates: np.ndarray


class Naturalness:
    """Scores of texts about an image of a corpus: the higher, the more they read like captions of the corpus."""

    def __init__(self, images: Sequence[Sequence[str]]):
        """images: the captions of each image."""
        self._images = images
        self._found = np.zeros(_SLOTS, np.int64)  # n-grams of all captions
        for captions in images:
            for grams in _grams(captions):
                np.add.at(self._found, grams, 1)
        self._weights: dict[tuple[str, int], np.ndarray] = {}  # (level, half) -> of each feature
        self.__setstate__({})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_own"}  # no other process could take it

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._own = lru_cache(maxsize=8)(self._own_counts)  # captions of one image come one after the other

    def scores(self, item: int, level: str, texts: Sequence[str]) -> np.ndarray:
        """(n,) of rewrites of one level about one image; all 0 where nothing was learnt of it."""
        weights = self._weights.get((level, item % 2))
        return np.zeros(len(texts)) if weights is None else weights[self._features(item, texts)].sum(axis=1)

    def drawn(self, item: int, level: str, original: str, candidates: Sequence[str]) -> Drawn:
        """What is learnt from: a caption of an image, and candidates of it."""
        features = self._features(item, [original, *candidates])
        return Drawn(level, item % 2, features[0], features[1:])

    def learn(self, sample: Sequence[Drawn]) -> None:
        """Adds up ROUNDS classifiers, each of originals against the candidates that passed the ones before."""
        levels = sorted({one.level for one in sample})
        for _ in range(ROUNDS):
            passed = [self._best(one) for one in sample]
            found = {(level, half): _log_odds(sample, passed, level, 1 - half) for level in levels for half in (0, 1)}
            self._weights = {key: weights + self._weights.get(key, 0.0) for key, weights in found.items()}

    def _best(self, one: Drawn) -> np.ndarray:
        """The candidates that pass; all of them before anything is learnt."""
        if (one.level, one.half) not in self._weights:
            return one.candidates
        scores = self._weights[one.level, one.half][one.candidates].sum(axis=1)
        return one.candidates[np.argsort(-scores, kind="stable")[: -(-len(scores) // LET_THROUGH)]]

    def _features(self, item: int, texts: Sequence[str]) -> np.ndarray:
        """(n, F) numbers of weights: each n-gram, and for each kind how many no other image's caption has."""
        slots, counts = self._own(item)
        found, unseen = [], []
        for kind, grams in enumerate(_grams(texts)):
            place = np.minimum(np.searchsorted(slots, grams), len(slots) - 1)
            own = np.where(slots[place] == grams, counts[place], 0)
            number = ((self._found[grams] <= own) & (grams > 0)).sum(axis=1)
            found.append(grams)
            unseen.append(_SLOTS + kind * _MOST_UNSEEN + np.minimum(number, _MOST_UNSEEN - 1))
        return np.concatenate([*found, np.stack(unseen, axis=1)], axis=1)

    def _own_counts(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams of an image's own captions, ascending, and how often they are found there."""
        return np.unique(np.concatenate([grams.ravel() for grams in _grams(self._images[item])]), return_counts=True)


def _log_odds(sample: Sequence[Drawn], chosen: Sequence[np.ndarray], level: str, half: int) -> np.ndarray:
    """Of each feature, that a text of one half is an original; the candidates of a caption weigh as much as it."""
    size = _SLOTS + _KINDS * _MOST_UNSEEN
    originals, candidates, n = np.full(size, _SMOOTHING), np.full(size, _SMOOTHING), 0
    for one, some in zip(sample, chosen):
        if (one.level, one.half) == (level, half):
            n += 1
            np.add.at(originals, one.original, 1.0)
            np.add.at(candidates, some, 1.0 / len(some))
    found = np.log(originals) - np.log(candidates) if n else np.zeros(size)
    found[0] = 0.0
    return found


def _grams(texts: Sequence[str]) -> Iterator[np.ndarray]:
    """Of each of the _KINDS an array (n, something) of slots."""
    rows = [[_number(word) for word in (_BEGIN, *(token.text for token in tokens(text)), _END)] for text in texts]
    ids = np.zeros((len(rows), max(map(len, rows)) + 3), np.uint64)  # 3: a text may be shorter than an n-gram
    for row, some in zip(ids, rows):
        row[: len(some)] = some
    yield _slots(0, ids)
    for apart in (1, 2, 3):
        yield _slots(apart, ids[:, :-apart], ids[:, apart:])
    yield _slots(4, ids[:, :-2], ids[:, 1:-1], ids[:, 2:])
    content = np.sort(ids * (ids % 2), axis=1)[:, -_PAIRED:]
    first, second = np.triu_indices(content.shape[1], k=1)
    yield _slots(5, content[:, first], content[:, second])


def _slots(kind: int, *words: np.ndarray) -> np.ndarray:
    """(n, f) word numbers, one array for each place of an n-gram -> (n, f) slots; 0 where a word is missing."""
    mixed = np.full(words[0].shape, kind + 1, np.uint64)
    for some in words:
        mixed = (mixed ^ some) * np.uint64(0x9E3779B97F4A7C15)  # wraps round; the high bits depend on all
        mixed ^= mixed >> np.uint64(32)
    slots = (mixed % np.uint64(_SLOTS - 1)).astype(np.int64) + 1
    return np.where(np.all([some > 0 for some in words], axis=0), slots, 0)


@lru_cache(maxsize=200_000)
def _number(word: str) -> int:
    """Of a word, above 0; odd for content words."""
    content = word[0].isalnum() and word not in grammar().tags
    return (zlib.crc32(word.encode()) << 1) + 2 + content
