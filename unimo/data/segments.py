"""One or several texts as one row of tokens: [CLS] A [SEP] B [SEP], a single [SEP] between them (spec unimo §1.5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimo.errors import UsageError
from unimo.tokenizer import Tokenizer


def joined(segments: Sequence[np.ndarray], max_length: int) -> np.ndarray:
    """(n,) int64 framed ids, n <= max_length. Too long rows lose the end of their longest segment, token by token.

    segments: token ids without special ones. An empty segment keeps its [SEP].
    """
    room = max_length - 1 - len(segments)
    if room < 1:
        raise UsageError(
            "no room for a word between special tokens",
            where="max_length",
            got=max_length,
            expected=f"at least {len(segments) + 2} for {len(segments)} texts",
        )
    parts = [Tokenizer.cls]
    for segment, kept in zip(segments, _shortened([len(segment) for segment in segments], room)):
        parts += [*segment[:kept].tolist(), Tokenizer.sep]
    return np.asarray(parts, np.int64)


def _shortened(lengths: list[int], room: int) -> list[int]:
    """Lengths after the longest (of equals the last) has given a token, again and again, until all fit into `room`."""
    kept = list(lengths)
    while (over := sum(kept) - room) > 0:
        top = max(kept)
        mine = max(i for i, n in enumerate(kept) if n == top)
        rest = max((n for i, n in enumerate(kept) if i != mine), default=0)
        kept[mine] -= max(1, min(over, top - rest))
    return kept
