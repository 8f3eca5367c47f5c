"""Longest common subsequences, one bit per word: a row of the usual table is one whole number.

    n, m words of the two texts · memory O(n + m) for the length, O(sqrt(n) m / 8) bytes for the places

Time is n steps of m / 64 machine words, so there is a limit, `MOST_PAIRS`, at which a pair of texts takes
some twenty seconds.

Source: Hyyrö, "Bit-parallel LCS-length computation revisited", AWOCA 2004.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from unimo.errors import DataError

__all__ = ["MOST_PAIRS", "check_lengths", "lcs_length", "lcs_positions"]

Words = Sequence[str]

MOST_PAIRS = 2**36  # two books of 262,144 words, or a sentence and a text of a thousand million
_KEPT_BYTES = 2**25  # of masks; those that do not fit are made again


def check_lengths(a: int, b: int) -> None:
    """DataError for two texts of so many words that comparing them would not end."""
    if a * b > MOST_PAIRS:
        raise DataError(
            "two texts are too long for their longest common subsequence",
            got=f"{a} and {b} words",
            expected=f"at most {MOST_PAIRS} pairs of words",
            do="cut the texts, or choose a metric without subsequences",
        )


def lcs_length(a: Words, b: Words) -> int:
    """Length of the longest common subsequence. DataError as `check_lengths`."""
    check_lengths(len(a), len(b))
    a, b = (a, b) if len(a) < len(b) else (b, a)
    masks, every = _Masks(b, a), (1 << len(b)) - 1
    row = every
    for word in a:
        row = _below(row, masks.of(word), every)
    return len(b) - row.bit_count()


def lcs_positions(a: Words, b: Words) -> list[int]:
    """Places in `a`, rising, of one longest common subsequence with `b`. DataError as `check_lengths`.

    Of several equally long ones it is the one that the usual walk back through the table finds (take a match; else drop
    a word of `b` where that keeps more; else drop a word of `a`), which is what rouge-score counts with.
    """
    check_lengths(len(a), len(b))
    table = _Table(a, b)
    found = []
    i, j = len(a), len(b)
    while i and j:
        word, row, above = a[i - 1], table.row(i), table.row(i - 1)
        if word != b[j - 1]:
            own, other = _length(row, j - 1), _length(above, j)
            row_bits, above_bits = table.bits(row), table.bits(above)
            while j and word != b[j - 1] and own > other:
                j -= 1
                other -= _is_zero(above_bits, j)
                own -= _is_zero(row_bits, j - 1) if j else 0
        if j and word == b[j - 1]:
            found.append(i - 1)
            j -= 1
        i -= 1
    return found[::-1]


class _Table:
    """Rows of the table, of which every sqrt(n)-th is kept and those between two of them are made again."""

    def __init__(self, a: Words, b: Words):
        self.a, self.masks, self.every = a, _Masks(b, a), (1 << len(b)) - 1
        self.bytes = len(b) // 8 + 1
        self.stride = math.isqrt(len(a)) + 1
        self.kept = [self.every]
        row = self.every
        for i, word in enumerate(a, start=1):
            row = _below(row, self.masks.of(word), self.every)
            if i % self.stride == 0:
                self.kept.append(row)
        self.block, self.rows = -1, [0]

    def row(self, i: int) -> int:
        """Of the first i words of `a`: bit j is 0 where the j-th word of `b` makes it one longer."""
        block, place = divmod(i, self.stride)
        if block != self.block:
            self.block, self.rows = block, [self.kept[block]]
            for word in self.a[block * self.stride : (block + 1) * self.stride - 1]:
                self.rows.append(_below(self.rows[-1], self.masks.of(word), self.every))
        return self.rows[place]

    def bits(self, row: int) -> bytes:
        return row.to_bytes(self.bytes, "little")


class _Masks:
    """Where each word of `text` that is also one of `wanted` stands, one bit per place."""

    def __init__(self, text: Words, wanted: Words):
        self.places: dict[str, list[int]] = {word: [] for word in wanted}
        self.kept: dict[str, int] = {}
        self.length, self.room = len(text), _KEPT_BYTES
        for place, word in enumerate(text):
            if word in self.places:
                self.places[word].append(place)

    def of(self, word: str) -> int:
        if word in self.kept:
            return self.kept[word]
        bits = bytearray(self.length // 8 + 1)
        for place in self.places[word]:
            bits[place >> 3] |= 1 << (place & 7)
        mask = int.from_bytes(bits, "little")
        if self.room >= len(bits):
            self.room -= len(bits)
            self.kept[word] = mask
        return mask


def _below(row: int, mask: int, every: int) -> int:
    hit = row & mask
    return ((row + hit) | (row - hit)) & every


def _length(row: int, columns: int) -> int:
    return columns - (row & ((1 << columns) - 1)).bit_count()


def _is_zero(bits: bytes, place: int) -> bool:
    return not bits[place >> 3] >> (place & 7) & 1
