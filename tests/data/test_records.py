"""Records of text generation: how tokens, positions, turns and speakers follow from the segments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimo.batch import KNOWN, WRITTEN
from unimo.data.records import dialogue_record, read_field, read_turns, seq2seq_record
from unimo.errors import DataError, UsageError
from unimo.tokenizer import Tokenizer

CLS, SEP, MASK = Tokenizer.cls, Tokenizer.sep, Tokenizer.mask
ROOMY = {"max_source_length": 99, "max_target_length": 99}
segment = st.lists(st.integers(4, 999), min_size=1, max_size=9)


def test_a_text_by_hand():
    record = seq2seq_record([[11, 12, 13], [21]], [31, 32], **ROOMY)
    assert record.ids.tolist() == [CLS, 11, 12, 13, SEP, 21, SEP, CLS, 31, 32, MASK]
    assert record.positions.tolist() == [2, 3, 4, 5, 6, 3, 4, 2, 3, 4, 5]
    assert record.target_begins == 7
    assert record.roles.tolist() == [KNOWN] * 7 + [WRITTEN] * 4
    assert record.speakers is None and record.turns is None
    assert record.ids.dtype == record.positions.dtype == np.int64


def test_a_caption_by_hand():
    caption = {"end": SEP, "keep_end": True, **ROOMY}
    assert seq2seq_record([[11]], [31, 32], **caption).ids.tolist() == [CLS, 11, SEP, CLS, 31, 32, SEP]
    alone = seq2seq_record([], [31, 32], **caption)  # of an image without tags
    assert alone.ids.tolist() == [CLS, 31, 32, SEP]
    assert alone.positions.tolist() == [2, 3, 4, 5] and alone.target_begins == 0
    assert seq2seq_record([], [31, 32, 33], **(caption | {"max_target_length": 4})).ids.tolist() == [CLS, 31, 32, SEP]


def test_a_dialogue_by_hand():
    record = dialogue_record([[11, 12], [21], [31]], [41], passage=[51], **ROOMY)
    assert record.ids.tolist() == [CLS, 51, SEP, 11, 12, SEP, 21, SEP, 31, SEP, CLS, 41, MASK]
    assert record.positions.tolist() == [2, 3, 4, 3, 4, 5, 3, 4, 3, 4, 2, 3, 4]
    assert record.turns.tolist() == [3, 0, 0, 3, 3, 3, 2, 2, 1, 1, 0, 0, 0]
    assert record.speakers.tolist() == [1, 2, 2, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0]


@settings(max_examples=100, deadline=None)
@given(
    sources=st.lists(segment, min_size=1, max_size=3),
    target=segment,
    max_source_length=st.integers(3, 12),
    max_target_length=st.integers(3, 12),
    keep_end=st.booleans(),
)
def test_limits_cut_words_and_a_target_s_end_only_where_said(
    sources, target, max_source_length, max_target_length, keep_end
):
    limits = {"max_source_length": max_source_length, "max_target_length": max_target_length, "keep_end": keep_end}
    record = seq2seq_record(sources, target, **limits)
    source, written = np.split(record.ids, [record.target_begins])
    cut = [[*words[: max_source_length - 2], SEP] for words in sources]
    assert source.tolist() == sum(cut, [CLS])
    assert len(written) == min(len(target) + 2, max_target_length)
    if keep_end:
        assert written.tolist() == [CLS, *target[: max_target_length - 2], MASK]
    else:  # a target cut short goes on beyond its last word, so nothing says that it ends there
        assert written.tolist() == [CLS, *target, MASK][:max_target_length]


@settings(max_examples=50, deadline=None)
@given(sources=st.lists(segment, min_size=1, max_size=3), target=st.none() | segment)
def test_continuous_positions_count_through_and_a_prompt_is_the_record_without_its_target(sources, target):
    record = seq2seq_record(sources, target, continuous=True, **ROOMY)
    assert record.positions.tolist() == list(range(2, 2 + len(record.ids)))
    prompt = seq2seq_record(sources, None, **ROOMY)
    assert prompt.ids.tolist() == record.ids[: record.target_begins].tolist()
    assert prompt.target_begins == len(prompt.ids)


@settings(max_examples=50, deadline=None)
@given(turns=st.lists(segment, min_size=1, max_size=20), passage=st.none() | segment, turn_rows=st.integers(2, 16))
def test_a_dialogue_is_its_last_turns_with_alternating_speakers(turns, passage, turn_rows):
    record = dialogue_record(turns, [7], passage=passage, turn_rows=turn_rows, **ROOMY)
    kept = turns[-(turn_rows - 1) :]
    sources = kept if passage is None else [passage, *kept]
    plain = seq2seq_record(sources, [7], **ROOMY)
    assert record.ids.tolist() == plain.ids.tolist() and record.positions.tolist() == plain.positions.tolist()
    assert record.turns[0] == record.turns.max() == len(kept) < turn_rows
    in_turns = record.turns > 0
    assert (record.speakers[in_turns] == record.turns[in_turns] % 2).all()
    assert set(record.speakers[~in_turns].tolist()) == ({0} if passage is None else {0, 2})
    # Read backwards from the answer, the turns are 1, 2, 3, ..., and turn 1 is the question: speaker 1.
    ends = np.flatnonzero(record.ids[: record.target_begins] == SEP)[::-1][: len(kept)]
    assert record.turns[ends].tolist() == list(range(1, len(kept) + 1))
    assert record.speakers[ends[0]] == 1


def test_a_dialogue_still_to_be_answered():
    asked = dialogue_record([[11], [12]], None, **ROOMY)
    answered = dialogue_record([[11], [12]], [13], **ROOMY)
    n = asked.target_begins
    assert n == len(asked.ids)
    for name in ("ids", "positions", "speakers", "turns"):
        assert getattr(asked, name).tolist() == getattr(answered, name)[:n].tolist()


def test_fields_of_the_released_files():
    tokenizer = Tokenizer.default()
    assert tokenizer.decode(read_field("64 582 17445 257 8223")) == "a man rides a horse"
    assert read_field(" [CLS] 64  [SEP]\n[MASK] [PAD] [UNK]").tolist() == [0, *tokenizer.encode("a"), 2, MASK, 1, 3]
    assert read_field("50256").tolist() == [50260]  # <|endoftext|>
    assert read_field("").shape == (0,)
    turns = read_turns("64 582 [SEP] 64")
    assert [tokenizer.decode(turn) for turn in turns] == ["a man", "a"]


@pytest.mark.parametrize("word", ["50257", "-1", "1.5", "[sep]", "</s>", "٣", "9" * 5000])
def test_words_that_are_no_tokens_are_refused_with_their_place(word):
    with pytest.raises(DataError, match="line 3, source, word 2"):
        read_field(f"64 [SEP] {word} 64", where="line 3, source")


def test_a_misspelt_special_token_is_recognised():
    with pytest.raises(DataError, match=r"did you mean \[MASK\]"):
        read_field("64 [MASKS]")
    with pytest.raises(DataError, match="this field, turn 1, word 0"):
        read_turns("64 [SEP] huh")


def test_bad_segments_are_refused_by_name():
    with pytest.raises(DataError, match=r"empty.*line 7, source 1"):
        seq2seq_record([[5], []], [6], where="line 7", **ROOMY)
    with pytest.raises(DataError, match=r"empty.*this record, target"):
        seq2seq_record([[5]], [], **ROOMY)
    with pytest.raises(DataError, match="turn 1"):
        dialogue_record([[5], [], [6]], [7], **ROOMY)
    with pytest.raises(DataError, match="turn 18"):  # named by its place in the whole dialogue, not among the kept
        dialogue_record([*[[5]] * 18, [], [6]], [7], **ROOMY)
    with pytest.raises(DataError, match=r"passage.*50265"):
        dialogue_record([[5]], [7], passage=[50265], **ROOMY)
    with pytest.raises(DataError, match=r"outside the vocabulary.*got: -1"):
        seq2seq_record([[5, -1]], None, **ROOMY)
    with pytest.raises(DataError, match="Not a row of ids"):
        seq2seq_record([[1.5]], None, **ROOMY)
    with pytest.raises(DataError, match="Not a row of ids"):
        dialogue_record([5, 6], None, **ROOMY)  # one turn's ids where turns belong
    with pytest.raises(DataError, match="without a turn"):
        dialogue_record([], [7], **ROOMY)


def test_impossible_limits_are_refused():
    with pytest.raises(UsageError, match="turn_rows"):
        dialogue_record([[5]], [7], turn_rows=1, **ROOMY)
    with pytest.raises(UsageError, match="source 0"):
        seq2seq_record([[5]], [7], max_source_length=2, max_target_length=9)
    with pytest.raises(UsageError, match="target"):
        seq2seq_record([[5]], [7], max_source_length=9, max_target_length=1)
    with pytest.raises(UsageError, match="without source and target"):
        seq2seq_record([], None, **ROOMY)
