"""What stands around the words of one text: its special tokens and its position numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimo.errors import UsageError
from unimo.tokenizer import Tokenizer


def with_specials(ids: Sequence[int] | np.ndarray, *, max_len: int) -> np.ndarray:
    """[CLS] ids [SEP] as (n,) int64, n <= max_len: too long a text loses its end, never its [SEP]."""
    if max_len < 2:
        raise UsageError("No room for [CLS] and [SEP]", where="max_len", got=max_len, expected="2 or more")
    kept = np.asarray(ids[: max_len - 2], dtype=np.int64)
    row = np.empty(len(kept) + 2, dtype=np.int64)
    row[0], row[1:-1], row[-1] = Tokenizer.cls, kept, Tokenizer.sep
    return row


def positions(n: int, start: int = 2) -> np.ndarray:
    """(n,) int64 position numbers of a row. They begin at 2 because, as in RoBERTa, 1 marks padding."""
    return np.arange(start, start + n, dtype=np.int64)
