"""A few shapes instead of a new one each step.

Matrix-product libraries prepare a kernel for every shape they meet and keep the last thousand. Packed rows are of
another length at every step, so nothing would ever be met twice: see docs/lab-notebook.md, 2026-11-22.
"""

from __future__ import annotations


def rounded(n: int, parts: int = 8) -> int:
    """The next of `parts` equal steps within an octave: at most 1 / parts more than n, and few values in all."""
    if n <= parts:
        return n
    step = 1 << max(0, (n - 1).bit_length() - parts.bit_length())
    return -(-n // step) * step
