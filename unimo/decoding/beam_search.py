"""Which words to write: greedy, sampling and beam search, over any model that says how likely the next word is.

    n sequences · r rows being written · V words

A `Decoder` holds rows of words. Search asks it to append a word to some of its rows and reads the logits of the next;
whether the decoder computes everything again or remembers keys and values is its own affair. No answer depends on what
else is in the batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unimo import rng
from unimo.errors import UsageError

REPEAT_PENALTY = -65000.0  # the published graph's
FORBIDDEN = -1e18  # added to the end's logit while it is too early to end


class Decoder(Protocol):
    """n: sequences; writing begins with one empty row for each."""

    n: int

    def advance(self, words: Tensor, parents: Tensor) -> Tensor:
        """Row i becomes row parents[i] plus words[i]: (r,), (r,) -> float32 logits of the next word, (r, V)."""
        ...


@dataclass(frozen=True)
class GenerationConfig:
    """cls begins a row, end ends it; neither is part of an answer.

    max_length, min_length: words written; the end is not counted in `min_length`. blocked: ids never written.
    """

    cls: int
    end: int
    max_length: int = 50
    min_length: int = 0
    blocked: tuple[int, ...] = ()

    def apply(self, logits: Tensor, written: int) -> Tensor:
        """Logits with what may not be written now made impossible."""
        if self.blocked:
            logits[:, list(self.blocked)] = float("-inf")
        if written < self.min_length:
            logits[:, self.end] += FORBIDDEN
        return logits


def greedy(decoder: Decoder, limits: GenerationConfig) -> list[list[int]]:
    """The likeliest next word, again and again: n lists of ids."""
    return _one_row_each(decoder, limits, lambda logits, going, written: logits.argmax(-1).tolist())


def sample(
    decoder: Decoder,
    limits: GenerationConfig,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> list[list[int]]:
    """A random next word in proportion to its probability: n lists of ids.

    temperature divides the logits; only the top_k likeliest words (0: all) and the fewest that together have top_p of
    the probability can be drawn. Sequence i draws from (seed, i, place); numbers: other names for the sequences, so
    that a batch of a longer list draws what the list would.
    """
    if not 0 < temperature < float("inf") or top_k < 0 or not 0 < top_p <= 1:
        raise UsageError(
            "nothing can be drawn like that",
            where="temperature, top_k, top_p",
            got=f"{temperature}, {top_k}, {top_p}",
            expected="above 0, at least 0, in (0, 1]",
        )
    names = range(decoder.n) if numbers is None else numbers

    def pick(logits: Tensor, going: Sequence[int], written: int) -> list[int]:
        logits = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
        ordered, words = (logits / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # the probability of all likelier words
        ordered = ordered.masked_fill(before >= top_p, 0.0)
        if top_k:
            ordered[:, top_k:] = 0.0
        draws = [rng.generator("sample", seed, names[i], written).random() for i in going]
        reached = ordered.double().cumsum(-1)
        goal = torch.tensor(draws, device=logits.device)[:, None] * reached[:, -1:]
        return words.gather(1, torch.searchsorted(reached, goal, right=True).clamp_max(words.shape[1] - 1))[
            :, 0
        ].tolist()

    return _one_row_each(decoder, limits, pick)


def _one_row_each(
    decoder: Decoder, limits: GenerationConfig, pick: Callable[[Tensor, Sequence[int], int], list[int]]
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in range(decoder.n)]
    going = list(range(decoder.n))
    words, parents = [limits.cls] * decoder.n, list(range(decoder.n))
    for written in range(limits.max_length):
        if not going:
            break
        logits = limits.apply(decoder.advance(torch.tensor(words), torch.tensor(parents)), written)
        picked = pick(logits, going, written)
        parents = [row for row, word in enumerate(picked) if word != limits.end]
        words, going = [picked[row] for row in parents], [going[row] for row in parents]
        for sequence, word in zip(going, words):
            answers[sequence].append(word)
    return answers


@dataclass(frozen=True)
class Hypothesis:
    """words without [CLS] and end. score: log-probability over ((5 + length) / 6) ** penalty. ended: wrote the end."""

    words: tuple[int, ...]
    score: float
    ended: bool


def beam(
    decoder: Decoder,
    limits: GenerationConfig,
    *,
    num_beams: int = 5,
    length_penalty: float = 0.6,
    no_repeat_ngram_size: int = 0,
    word_starts: np.ndarray | None = None,
) -> list[list[Hypothesis]]:
    """The best hypotheses of every sequence that `num_beams` beams find, best first (spec unimo §6.5, with U6).

    Scores are kept length-normalised and un-normalised before each word is added. no_repeat_ngram_size: so
    many words in a row that come a second time are made (almost) impossible; 0: they are not. word_starts: (V,) bool,
    which ids begin a word.
    """
    rows = [
        (sequence, Hypothesis((), 0.0, False), sequence) for sequence in range(decoder.n)
    ]  # the third: row of the decoder
    last, parents = [limits.cls] * decoder.n, list(range(decoder.n))
    done: dict[int, list[Hypothesis]] = {}
    for written in range(limits.max_length):
        if not rows:
            break
        logits = limits.apply(decoder.advance(torch.tensor(last), torch.tensor(parents)), written)
        best, words = logits.log_softmax(-1).topk(min(num_beams, logits.shape[1]), dim=-1)
        proposals = list(zip(best.tolist(), words.tolist()))
        before, after = (((5 + t) / 6) ** length_penalty for t in (written, written + 1))
        candidates: dict[int, list[tuple[float, int, Hypothesis]]] = defaultdict(list)
        for place, (sequence, hypothesis, row) in enumerate(rows):
            if hypothesis.ended:
                candidates[sequence].append((hypothesis.score, place, hypothesis))
                continue
            for log_probability, word in zip(*proposals[row]):
                if log_probability == float("-inf"):  # blocked: a beam wider than the words that are left
                    continue
                repeats = no_repeat_ngram_size and repeats_ngram(
                    (limits.cls, *hypothesis.words), word, word_starts, no_repeat_ngram_size
                )
                if repeats:
                    log_probability += REPEAT_PENALTY
                score = (hypothesis.score * before + log_probability) / after
                ended = word == limits.end
                grown = Hypothesis(hypothesis.words if ended else (*hypothesis.words, word), score, ended)
                candidates[sequence].append((score, place, grown))
        survivors = []
        for sequence, found in candidates.items():
            kept = sorted(sorted(found, key=lambda one: -one[0])[:num_beams], key=lambda one: one[1])
            if all(hypothesis.ended for _, _, hypothesis in kept):
                done[sequence] = [hypothesis for _, _, hypothesis in kept]
            else:
                survivors += [(sequence, hypothesis, place) for _, place, hypothesis in kept]
        going = [i for i, (_, hypothesis, _) in enumerate(survivors) if not hypothesis.ended]
        last = [survivors[i][1].words[-1] for i in going]
        parents = [rows[survivors[i][2]][2] for i in going]
        row_of = {i: row for row, i in enumerate(going)}
        rows = [(sequence, hypothesis, row_of.get(i, -1)) for i, (sequence, hypothesis, _) in enumerate(survivors)]
    for sequence, hypothesis, _ in rows:
        done.setdefault(sequence, []).append(hypothesis)
    return [sorted(done.get(i, [Hypothesis((), 0.0, False)]), key=lambda one: -one.score) for i in range(decoder.n)]


def repeats_ngram(ids: Sequence[int], candidate: int, word_starts: np.ndarray | None, n: int) -> bool:
    """Whether the last n words of ids + candidate stand there before, as words (spec unimo §6.5).

    A word is a piece that begins one and the pieces after it; the first id always begins one. word_starts None: every
    piece is a word.
    """
    words: list[tuple[int, ...]] = []
    for place, piece in enumerate((*ids, candidate)):
        if place == 0 or word_starts is None or word_starts[piece]:
            words.append((piece,))
        else:
            words[-1] += (piece,)
    last = words[-n:]
    return len(words) > n and any(words[i : i + n] == last for i in range(len(words) - n))
