"""Longest common subsequences, one bit per word: a row of the usual table is one whole number.

Source: Hyyrö, "Bit-parallel LCS-length computation revisited", AWOCA 2004.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["lcs_length", "lcs_positions"]

Words = Sequence[str]


def lcs_length(a: Words, b: Words) -> int:
    """Length of the longest common subsequence: one pass over `b`."""
    return len(a) - _rows(b, a)[-1].bit_count()


def lcs_positions(a: Words, b: Words) -> list[int]:
    """Places in `a`, rising, of one longest common subsequence with `b`.

    Of several equally long ones it is the one that the usual walk back through the table finds (take a match; else drop
    a word of `b` where that keeps more; else drop a word of `a`), which is what rouge-score counts with.
    """
    rows = _rows(a, b)
    found = []
    i, j = len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            found.append(i - 1)
            i, j = i - 1, j - 1
        elif _length(rows[i], j - 1) > _length(rows[i - 1], j):
            j -= 1
        else:
            i -= 1
    return found[::-1]


def _rows(a: Words, b: Words) -> list[int]:
    """Row i of the table for the first i words of `a`: bit j is 0 where the j-th word of `b` makes it one longer."""
    places: dict[str, int] = {}
    for place, word in enumerate(b):
        places[word] = places.get(word, 0) | (1 << place)
    every = (1 << len(b)) - 1
    rows = [every]
    for word in a:
        row = rows[-1]
        hit = row & places.get(word, 0)
        rows.append(((row + hit) | (row - hit)) & every)
    return rows


def _length(row: int, columns: int) -> int:
    return columns - (row & ((1 << columns) - 1)).bit_count()
