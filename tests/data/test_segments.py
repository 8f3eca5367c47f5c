"""Joined segments: their frame, and who gives way when they are too long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimo.data.segments import joined
from unimo.errors import UsageError
from unimo.tokenizer import Tokenizer

CLS, SEP = Tokenizer.cls, Tokenizer.sep


def test_one_text_and_a_pair_have_one_separator_each():
    a, b = np.array([10, 11]), np.array([20])
    assert joined([a], 9).tolist() == [CLS, 10, 11, SEP]
    assert joined([a, b], 9).tolist() == [CLS, 10, 11, SEP, 20, SEP]
    assert joined([a, np.array([], int)], 9).tolist() == [CLS, 10, 11, SEP, SEP]


def one_by_one(lengths: list[int], room: int) -> list[int]:
    """The published rule, token by token: the longer one gives way, of equals the last."""
    kept = list(lengths)
    while sum(kept) > room:
        max_length = max(range(len(kept)), key=lambda i: (kept[i], i))
        kept[max_length] -= 1
    return kept


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(5, 60))
def test_the_longest_gives_way_token_by_token(lengths, max_length):
    segments = [np.arange(100 * i + 10, 100 * i + 10 + n) for i, n in enumerate(lengths)]
    row = joined(segments, max(max_length, len(lengths) + 2)).tolist()
    room = max(max_length, len(lengths) + 2) - 1 - len(lengths)
    expected = [CLS]
    for segment, kept in zip(segments, one_by_one(lengths, room)):
        expected += [*segment[:kept], SEP]
    assert row == expected and len(row) <= max(max_length, len(lengths) + 2)


def test_no_room_is_refused():
    with pytest.raises(UsageError, match="no room"):
        joined([np.arange(4), np.arange(4)], 3)
