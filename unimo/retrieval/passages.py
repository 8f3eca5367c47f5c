"""Long documents as passages: whole sentences side by side, as many as fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unimo.sentences import sentences
from unimo.tokenizer import Tokenizer

_FAR = 1000  # characters from the middle within which white space is looked for


@dataclass(frozen=True)
class Passage:
    """Characters [begin, end) of a document, without white space around them, and their ids (t,) int64."""

    begin: int
    end: int
    ids: np.ndarray


def passages(text: str, tokenizer: Tokenizer, max_length: int) -> list[Passage]:
    """The whole text but for white space, in order, in passages of at most `max_length` tokens; none if it is blank.

    A sentence that is too long by itself is halved at the white space nearest its middle until its pieces fit.
    """
    cuts = sentences(text)
    lengths = [len(ids) for ids in tokenizer.encode_batch([text[begin:end] for begin, end in cuts])]
    found: list[Passage] = []
    begin, filled = 0, 0
    for (first, _), length in zip(cuts, lengths):
        if filled and filled + length > max_length:
            found += _fitting(text, begin, first, tokenizer, max_length)
            begin, filled = first, 0
        filled += length
    return [*found, *_fitting(text, begin, len(text), tokenizer, max_length)]


def _fitting(text: str, begin: int, end: int, tokenizer: Tokenizer, max_length: int) -> Iterator[Passage]:
    piece = text[begin:end]
    begin += len(piece) - len(piece.lstrip())
    end = begin + len(piece.strip())
    if begin >= end:
        return
    ids = tokenizer.encode(text[begin:end])
    if len(ids) <= max_length or end - begin == 1:
        yield Passage(begin, end, np.asarray(ids[:max_length], np.int64))
        return
    middle = _white_space_near_the_middle(text, begin, end)
    yield from _fitting(text, begin, middle, tokenizer, max_length)
    yield from _fitting(text, middle, end, tokenizer, max_length)


def _white_space_near_the_middle(text: str, begin: int, end: int) -> int:
    """A place inside (begin, end); the middle itself where there is no white space near it."""
    middle = (begin + end) // 2
    for away in range(min((end - begin) // 2, _FAR)):
        for place in (middle - away, middle + away):
            if begin < place < end and text[place].isspace():
                return place
    return middle
