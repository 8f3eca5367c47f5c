"""Search against trying everything: the writer here is a table of random numbers, so no model is in the way."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from unimo.decoding.beam_search import GenerationConfig, beam, greedy, repeats_ngram, sample
from unimo.errors import UsageError

CLS, END, V = 0, 1, 5


class Table:
    """Logits are a fixed random function of (sequence, words written)."""

    def __init__(self, sequences):
        self.sequences, self.n = sequences, len(sequences)
        self.rows = [(sequence, ()) for sequence in sequences]

    def advance(self, words, parents):
        self.rows = [
            (self.rows[row][0], (*self.rows[row][1], word)) for row, word in zip(parents.tolist(), words.tolist())
        ]
        return torch.stack([logits(*row) for row in self.rows])


def logits(sequence, written):
    rng = np.random.default_rng([sequence, 9, *written])
    return torch.from_numpy(2 * rng.standard_normal(V)).float()


def everything(sequence, limits, penalty):
    """Every finished text, and every text cut off at the longest, with its normalised score; best first."""
    found = []
    free = [word for word in range(V) if word not in limits.blocked]
    for length in range(limits.max_length + 1):
        for words in itertools.product([word for word in free if word != END], repeat=length):
            total, written = 0.0, (CLS,)
            asked = (*words, END) if length < limits.max_length else words
            for place, word in enumerate(asked):
                row = logits(sequence, written)
                row[list(limits.blocked)] = float("-inf")
                if place < limits.min_length:
                    row[END] = float("-inf")
                total += float(row.log_softmax(-1)[word])
                written = (*written, word)
            if np.isfinite(total):
                found.append((total / ((5 + len(asked)) / 6) ** penalty, words))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.2])
@pytest.mark.parametrize("limits", [{}, {"min_length": 2}, {"blocked": (CLS, 3)}, {"max_length": 1}])
def test_a_wide_beam_finds_the_best_of_all_texts(penalty, limits):
    limits = GenerationConfig(**{"cls": CLS, "end": END, "max_length": 4, **limits})
    found = beam(Table([3, 4, 5]), limits, num_beams=V**4, length_penalty=penalty)
    for sequence, hypotheses in zip([3, 4, 5], found):
        possible = everything(sequence, limits, penalty)
        score, words = possible[0]
        assert hypotheses[0].words == words and hypotheses[0].score == pytest.approx(score, abs=1e-5)
        scores = [told.score for told in hypotheses]
        assert scores == sorted(scores, reverse=True)
        by_words = {words: score for score, words in possible}
        for told in hypotheses[:20]:
            assert told.score < -1e4 or told.score == pytest.approx(by_words[told.words], abs=1e-5)


def test_a_beam_of_one_without_penalty_is_greedy():
    limits = GenerationConfig(cls=CLS, end=END, max_length=6, min_length=1, blocked=(CLS,))
    sequences = list(range(40))
    narrow = beam(Table(sequences), limits, num_beams=1, length_penalty=0.0)
    assert [list(told[0].words) for told in narrow] == greedy(Table(sequences), limits)
    assert len({tuple(told[0].words) for told in narrow}) > 20


def test_neighbours_change_nothing():
    limits = GenerationConfig(cls=CLS, end=END, max_length=5)
    for search in (
        lambda w: [[(t.words, t.score) for t in told] for told in beam(w, limits, num_beams=3)],
        lambda w: greedy(w, limits),
    ):
        batch_size = search(Table([8, 2, 6]))
        assert [search(Table([i]))[0] for i in (8, 2, 6)] == batch_size


def test_words_are_drawn_as_often_as_they_are_likely():
    limits = GenerationConfig(cls=CLS, end=END, max_length=1)
    n = 4000
    for options, kept in (({}, V), ({"top_k": 2}, 2), ({"temperature": 0.5}, V), ({"top_p": 0.6}, None)):
        drawn = [tuple(words) for words in sample(Table([7] * n), limits, seed=1, **options)]
        p = (logits(7, (CLS,)) / options.get("temperature", 1.0)).softmax(-1).double().numpy()
        order = np.argsort(-p)
        if kept is None:
            kept = int(np.searchsorted(np.cumsum(p[order]), options["top_p"])) + 1
        wanted = np.zeros(V)
        wanted[order[:kept]] = p[order[:kept]] / p[order[:kept]].sum()
        share = np.array([drawn.count(() if word == END else (word,)) for word in range(V)]) / n
        assert np.abs(share - wanted).max() < 4 * np.sqrt(0.25 / n), options
    assert sample(Table([7] * 3), limits, seed=1) == sample(Table([7] * 5), limits, seed=1)[:3]


def test_a_batch_of_a_longer_list_draws_what_the_list_would():
    limits = GenerationConfig(cls=CLS, end=END, max_length=4)
    whole = sample(Table([3, 4, 5, 6]), limits, seed=2)
    assert sample(Table([5, 6]), limits, seed=2, numbers=[2, 3]) == whole[2:]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_what_cannot_be_drawn_is_refused(options):
    with pytest.raises(UsageError, match="drawn"):
        sample(Table([3]), GenerationConfig(cls=CLS, end=END), **options)


def test_a_wide_beam_never_returns_what_is_blocked():
    limits = GenerationConfig(cls=CLS, end=END, max_length=1, blocked=(CLS, 3))
    for told in beam(Table([3]), limits, num_beams=V)[0]:
        assert not {CLS, 3} & set(told.words) and told.score > -1e9


def test_repeated_trigrams_of_whole_words():
    starts = np.array([False, True, True, True, False, True])  # 4 goes on a word
    assert repeats_ngram((0, 1, 2, 3, 1, 2), 3, starts, 3)
    assert not repeats_ngram((0, 1, 2, 3, 1, 2), 5, starts, 3)
    assert not repeats_ngram((0, 1, 2, 4, 3, 1, 2), 3, starts, 3)  # the middle word was longer
    assert repeats_ngram((0, 1, 2, 4, 3, 1, 2, 4), 3, starts, 3)
    assert not repeats_ngram((1, 1), 1, starts, 3)  # three words at most: nothing stands before them

    class Monotone:
        n, rows = 1, 0

        def advance(self, words, parents):
            return torch.tensor([[-9.0, -9.0, 3.0, 2.0, 1.0, 0.0]]).repeat(len(words), 1)

    limits = GenerationConfig(cls=0, end=1, max_length=8)
    free = beam(Monotone(), limits, num_beams=2)[0][0].words
    blocked = beam(Monotone(), limits, num_beams=4, no_repeat_ngram_size=3, word_starts=np.ones(6, bool))[0][0].words
    trigrams = list(zip(blocked, blocked[1:], blocked[2:]))
    assert len(set(free)) == 1 and len(set(trigrams)) == len(trigrams)


def test_the_published_trigram_rule(golden):
    path = golden / "data" / "trigram_blocking.json"
    starts = np.array([i >= 4 and (i % 3 == 0 or i % 5 == 0) for i in range(300)])  # the file's word_start_rule
    for case in json.loads(path.read_text())["data"]["cases"]:
        got = [-65000.0 * repeats_ngram(case["prefix"], word, starts, 3) for word in case["candidates"]]
        np.testing.assert_array_equal(np.abs(got), np.abs(case["penalty"]))
