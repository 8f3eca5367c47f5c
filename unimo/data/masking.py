"""Two ways to corrupt a text: hide spans of it, or cut fragments out of it.

Both are pure functions of the ids and of a generator, of which they use no more than `random` and `integers`
(and, for the paper's fragments, `permutation`), in a fixed order: equal generators, equal outcomes.

    n tokens of a row, [CLS] and [SEP] included · k hidden positions · S source tokens · T target tokens
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unimo.errors import UsageError
from unimo.tokenizer import positions

FIRST_WORD_ID = 4  # ids below are special and never serve as a random replacement

Ids = Sequence[int] | np.ndarray


def mask_spans(
    ids: Ids,
    word_start: Ids,
    rng: np.random.Generator,
    *,
    ratio: float = 0.15,
    p: float = 0.2,
    max_length: int = 10,
    vocab_size: int,
    mask_id: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide whole words in random spans until ceil(ratio * n) tokens are hidden (UNIMO 2.2.1, UNIMO-2 4.2).

    ids: (n,) one row, special tokens included.
    word_start: (n,) 0 first piece of a word, 1 further piece, -1 special (`Tokenizer.word_starts`).
    p, max_length: words per span ~ geometric(p) on 0..max_length, where 0 still hides one word.

    Returns two new int64 arrays: (n,) the row with 80 % of the hidden tokens replaced by mask_id, 10 % by a
    random id and 10 % left as they were; (k,) the hidden positions, ascending, all of them to be predicted.

    The budget is kept to the token, so it may cut the last word. Special tokens are never hidden.
    """
    if len(word_start) != len(ids):
        raise UsageError("ids and word_start differ in length", got=len(word_start), expected=len(ids))
    hidden = _choose_spans(np.asarray(word_start), rng, ratio=ratio, length_steps=_length_steps(p, max_length))
    return hide(ids, hidden, rng, vocab_size=vocab_size, mask_id=mask_id), hidden


def hide(
    ids: Ids,
    places: np.ndarray,
    rng: np.random.Generator,
    *,
    vocab_size: int,
    mask_id: int,
    instead: np.ndarray | None = None,
) -> np.ndarray:
    """(n,) int64: the row with 80 % of (k,) places replaced by mask_id, 10 % by another id, 10 % left as they were.

    instead: (k,) the other ids; -1, or none given: random ones.
    """
    corrupted = np.array(ids, dtype=np.int64)
    replacements = rng.integers(FIRST_WORD_ID, vocab_size, size=len(corrupted))
    if instead is not None:
        replacements[places[instead >= 0]] = instead[instead >= 0]
    fate = rng.random(len(places))
    masked, swapped = places[fate < 0.8], places[(fate >= 0.8) & (fate < 0.9)]
    corrupted[masked] = mask_id
    corrupted[swapped] = replacements[swapped]
    return corrupted


def _choose_spans(
    word_start: np.ndarray, rng: np.random.Generator, *, ratio: float, length_steps: list[float]
) -> np.ndarray:
    """(k,) ascending positions to hide."""
    n = len(word_start)
    kinds = word_start.tolist()
    maskable = n - kinds.count(-1)
    budget = min(math.ceil(ratio * n), maskable)
    # Words are the intervals [bounds[u], bounds[u + 1]); so are special tokens, which no span enters.
    begins = word_start != 1
    begins[1:] |= word_start[:-1] == -1
    bounds = [*np.flatnonzero(begins).tolist(), n]

    hidden: set[int] = set()
    # Anchors are drawn anywhere and refused where taken. At usual ratios that seldom happens; the limit is
    # for ratios near 1, where it is better to hide a little less than to draw for ever.
    for _ in range(100 * budget):
        if len(hidden) >= budget:
            break
        words = max(1, bisect_right(length_steps, rng.random()))
        anchor = int(rng.integers(0, n))
        if anchor in hidden or kinds[anchor] == -1:
            continue
        first = bisect_right(bounds, anchor) - 1
        for unit in range(first, min(first + words, len(bounds) - 1)):
            begin, end = bounds[unit], bounds[unit + 1]
            if kinds[begin] == -1:
                break
            for i in range(begin, end):
                if len(hidden) >= budget:
                    break
                hidden.add(i)
    return np.array(sorted(hidden), dtype=np.int64)


@functools.cache
def _length_steps(p: float, max_length: int) -> list[float]:
    """Cumulative probabilities of 0..max_length words; a length is the number of steps up to a uniform draw."""
    if not 0 < p <= 1 or max_length < 0:
        got, expected = f"p {p}, max_length {max_length}", "0 < p <= 1, max_length >= 0"
        raise UsageError("Not a span length distribution", got=got, expected=expected)
    chances = p * (1 - p) ** np.arange(max_length + 1)
    steps = (chances / chances.sum()).cumsum()
    return (steps / steps[-1]).tolist()


@dataclass(frozen=True)
class Fragments:
    """A text cut in two: given the source, write the target from left to right.

    source_ids, source_positions: (S,) int64, what is given.
    target_ids, target_positions: (T,) int64, what is to be written.
    supervised: (s,) int64, the rows j of the target that are to predict target_ids[j + 1].
    """

    source_ids: np.ndarray
    source_positions: np.ndarray
    target_ids: np.ndarray
    target_positions: np.ndarray
    supervised: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """(s,) the ids to be predicted at the supervised rows."""
        return self.target_ids[self.supervised + 1]


def cut_fragments(
    ids: Ids,
    rng: np.random.Generator,
    *,
    variant: Literal["paper", "lineage", "released"] = "paper",
    fraction: float = 0.25,
    min_length: int = 4,
    max_length: int = 32,
) -> Fragments:
    """Cut fragments out of a text; the rest is the source, the fragments are the target (UNIMO 2.2.2).

    ids: (n,) `[CLS] text [SEP]`. Tokens keep their positions in the text on both sides, so that a gap in the
    source tells where a fragment is missing and how long it is (as in the authors' code; the paper is mute).
    A fragment's [CLS] takes the position before its first token, an end mark the one after its last.

    paper: fragments of uniform(min_length, max_length) tokens until ceil(fraction * text) tokens are spent, the last
      one cut to fit, in any places that keep them apart. Target: `[CLS] fragment [SEP]` repeated.
    lineage: the authors' later code. The text is sliced from left to right into source and target slices in
      turn (lengths in `SLICES`; fraction, min_length and max_length play no part). Target: `[CLS] slice` repeated,
      with no end mark but the [SEP] of the text itself. A text of fewer than 6 tokens is all target.
    released: lineage with the faults of that code. Inner [CLS] are predicted; a source that runs to the end
      of the text has two [SEP]; the positions of a text that is all target count from 0.

    An inner [CLS] of the target is given, not predicted (except in released).
    """
    row = np.array(ids, dtype=np.int64)
    if len(row) < 2:
        raise UsageError("No [CLS] and [SEP] around the text", got=f"{len(row)} tokens", expected="2 or more")
    if variant == "paper":
        apart = _place_fragments(len(row) - 2, rng, fraction=fraction, min_length=min_length, max_length=max_length)
        return _assemble(row, apart, end_marks=True)
    if variant not in ("lineage", "released"):
        raise UsageError("Unknown way to cut a text", got=variant, expected="paper, lineage or released")
    slices = _slice_in_turn(len(row), rng)
    if slices is not None:
        return _assemble(row, slices, released=variant == "released")
    if variant == "lineage":
        return _assemble(row, [(1, len(row))])
    place = positions(len(row), start=0)
    return Fragments(row[[0, -1]], place[:2], row, place, np.arange(len(row) - 1))


def _place_fragments(
    words: int, rng: np.random.Generator, *, fraction: float, min_length: int, max_length: int
) -> list[tuple[int, int]]:
    """The paper's fragments as intervals of a row whose text takes rows 1..words."""
    if not 0 < fraction <= 0.5 or not 1 <= min_length <= max_length:
        got = f"fraction {fraction}, lengths {min_length} to {max_length}"
        expected = "0 < fraction <= 0.5 and 1 <= min_length <= max_length"
        raise UsageError("Fragments cannot be placed apart from each other", got=got, expected=expected)
    left = math.ceil(fraction * words)
    kept = words - left
    lengths: list[int] = []
    while left:
        lengths.append(min(left, int(rng.integers(min_length, max_length + 1))))
        left -= lengths[-1]
    # Different gaps between the kept tokens: every arrangement is equally likely and no two fragments touch.
    gaps = np.sort(rng.permutation(kept + 1)[: len(lengths)])
    begins = 1 + gaps + np.cumsum([0, *lengths[:-1]])[: len(lengths)]
    return [(int(begin), int(begin) + length) for begin, length in zip(begins, lengths)]


# Shortest and longest slice as (source, target), for each of two scales drawn anew for every slice.
SLICES = (((3, 12), (1, 4)), ((12, 96), (4, 32)))
SMALL_SCALE = 0.4  # chance of the first scale


def _slice_in_turn(n: int, rng: np.random.Generator) -> list[tuple[int, int]] | None:
    """The lineage's target slices as intervals of a row whose last slice takes [SEP]; None if too short."""
    if n < 2 + 3 + 1:  # specials and the two shortest slices
        return None
    target_first = int(rng.integers(0, 2))
    for _ in range(1000):  # a first slice that swallows the text is drawn again
        bounds, is_target = [1], bool(target_first)
        while (length := _slice_length(rng, is_target)) < n - bounds[-1]:
            bounds.append(bounds[-1] + length)
            is_target = not is_target
        if len(bounds) > 1:
            slices = list(zip(bounds, [*bounds[1:], n]))
            return slices[1 - target_first :: 2]
    return None


def _slice_length(rng: np.random.Generator, is_target: bool) -> int:
    scale = SLICES[0] if rng.random() < SMALL_SCALE else SLICES[1]
    low, high = scale[is_target]
    return low + int(rng.integers(0, high - low + 1))


def _assemble(
    row: np.ndarray, spans: list[tuple[int, int]], *, end_marks: bool = False, released: bool = False
) -> Fragments:
    """Move some intervals of a row to the target."""
    place, last = positions(len(row)), len(row) - 1

    kept = np.ones(len(row), dtype=bool)
    for begin, end in spans:
        kept[begin:end] = False
    given = np.flatnonzero(kept)
    if released or not kept[last]:  # every source ends in [SEP], also when the text's own went to the target
        given = np.append(given, last)

    # A fragment takes along the place before it, for its [CLS], and the place after it, for its end mark.
    pieces = [np.arange(begin - 1, end + end_marks) for begin, end in spans]
    written = np.concatenate([np.empty(0, dtype=np.int64), *pieces])
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    ends = lengths.cumsum()
    opens = ends - lengths
    target_ids = row[written]
    target_ids[opens] = row[0]
    if end_marks:
        target_ids[ends - 1] = row[last]

    supervised = np.arange(len(written) - 1)
    if not released:
        supervised = np.delete(supervised, opens[1:] - 1)  # these would ask for a [CLS]
    return Fragments(row[given], place[given], target_ids, place[written], supervised)
