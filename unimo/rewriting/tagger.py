"""Word classes of captions by a hidden Markov model, learnt without labels."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unimo.rewriting.grammar import TAGS, grammar, possible_tags, tokens

if TYPE_CHECKING:
    from typing_extensions import Self

_BEGIN = len(TAGS)  # row of the table for the beginning; the same column is the end
_PSEUDO_COUNT = 0.5  # how many sightings the shape of a word is worth beside how it is used
_ROUNDS = 6
_LEARNT_FROM = 50_000  # captions; more of them would not change a tag


class Tagger:
    """Word classes of captions: a hidden Markov model whose transitions are the grammar's and stay fixed.

    What words a class emits is learnt from the user's own captions by expectation maximisation (Merialdo 1994, "Tagging
    English text with a probabilistic model").
    """

    def __init__(self, words: Sequence[str], emissions: np.ndarray):
        """words: those that were learnt. emissions: (words, K) P(word | tag), up to a factor per tag."""
        self._row = {word: i for i, word in enumerate(words)}
        self._emissions = emissions
        self._rare = np.maximum(emissions.sum(axis=0), 1e-12) * 1e-3  # what a word never seen has of each tag
        follow = grammar().follow
        self._log_follow, self._follow = np.log(follow), follow

    @classmethod
    def learn(cls, captions: Iterable[str]) -> Self:
        """Learns the classes of words from captions. Equal captions give an equal tagger."""
        sentences: list[list[str]] = []
        for caption in captions:
            found = [token.text for token in tokens(caption)]
            if found:
                sentences.append(found)
            if len(sentences) == _LEARNT_FROM:
                break
        counts = Counter(word for sentence in sentences for word in sentence)
        words = sorted(counts)
        shape = np.stack([_shape(word) for word in words]) if words else np.zeros((0, len(TAGS)))
        prior = shape * _PSEUDO_COUNT
        expected = shape * np.array([counts[word] for word in words]).reshape(-1, 1)
        row = {word: i for i, word in enumerate(words)}
        batches: dict[int, list[list[int]]] = defaultdict(list)
        for sentence in sentences:
            batches[len(sentence)].append([row[word] for word in sentence])
        arrays = [np.array(batches[length]) for length in sorted(batches)]
        for _ in range(_ROUNDS):
            emissions = expected + prior
            tagger = cls(words, emissions / np.maximum(emissions.sum(axis=0), 1e-12))
            expected = np.zeros_like(expected)
            for ids in arrays:
                for some in np.array_split(ids, -(-len(ids) // 2048)):
                    posterior = tagger._posterior(tagger._emissions[some])
                    np.add.at(expected, some.ravel(), posterior.reshape(-1, len(TAGS)))
        emissions = expected + prior
        return cls(words, np.round(emissions / np.maximum(emissions.sum(axis=0), 1e-12), 12))

    def tag(self, words: Sequence[str]) -> str:
        """The most probable tags, one letter of TAGS per word (Viterbi)."""
        if not words:
            return ""
        with np.errstate(divide="ignore"):
            seen = np.log(np.stack([self._emission(word) for word in words]))
        score = self._log_follow[_BEGIN, :-1] + seen[0]
        back = np.zeros((len(words), len(TAGS)), dtype=np.int64)
        for t in range(1, len(words)):
            paths = score[:, None] + self._log_follow[:-1, :-1]
            back[t] = paths.argmax(axis=0)
            score = paths.max(axis=0) + seen[t]
        state = int((score + self._log_follow[:-1, -1]).argmax())
        states = [state]
        for t in range(len(words) - 1, 0, -1):
            state = int(back[t, state])
            states.append(state)
        return "".join(TAGS[state] for state in reversed(states))

    def _emission(self, word: str) -> np.ndarray:
        i = self._row.get(word)
        return self._emissions[i] if i is not None else _shape(word) * self._rare

    def _posterior(self, seen: np.ndarray) -> np.ndarray:
        """(S, T, K) P(tag | sentence), by the forward-backward algorithm, for S sentences of one length T."""
        follow = self._follow[:-1, :-1]
        forward, backward = np.empty_like(seen), np.empty_like(seen)
        forward[:, 0] = self._follow[_BEGIN, :-1] * seen[:, 0]
        for t in range(1, seen.shape[1]):
            forward[:, t] = (forward[:, t - 1] @ follow) * seen[:, t]
            forward[:, t] /= forward[:, t].sum(axis=1, keepdims=True)
        backward[:, -1] = self._follow[:-1, -1]
        for t in range(seen.shape[1] - 2, -1, -1):
            backward[:, t] = (backward[:, t + 1] * seen[:, t + 1]) @ follow.T
            backward[:, t] /= backward[:, t].sum(axis=1, keepdims=True)
        posterior = forward * backward
        return posterior / posterior.sum(axis=2, keepdims=True)


@functools.lru_cache(maxsize=100_000)
def _shape(word: str) -> np.ndarray:
    """(K,) P(tag) by the shape of a word alone."""
    row = np.zeros(len(TAGS))
    for tag, weight in possible_tags(word).items():
        row[TAGS.index(tag)] = weight
    row /= row.sum()
    row.setflags(write=False)
    return row
