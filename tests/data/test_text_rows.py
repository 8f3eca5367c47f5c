"""The frame of special tokens and the position numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimo.data.text_rows import positions, with_specials
from unimo.errors import UsageError


@given(ids=st.lists(st.integers(4, 50259), max_size=30), max_len=st.integers(2, 40))
def test_frame_keeps_the_beginning_and_both_ends(ids, max_len):
    for given_ids in (ids, np.array(ids, dtype=np.uint16)):
        row = with_specials(given_ids, max_len=max_len)
        assert row.dtype == np.int64
        assert row.tolist() == [0, *ids[: max_len - 2], 2]
        assert len(row) == min(len(ids) + 2, max_len)


def test_frame_needs_room_for_itself():
    with pytest.raises(UsageError, match=r"max_len.*got: 1"):
        with_specials([5], max_len=1)


def test_positions_leave_0_and_1_free():
    assert positions(4).tolist() == [2, 3, 4, 5]
    assert positions(3, start=7).tolist() == [7, 8, 9]
    assert positions(0).dtype == np.int64
