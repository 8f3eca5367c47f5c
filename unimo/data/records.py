"""Records of text generation as the published readers lay them out (spec unimo §1.5, §1.6, §6.4).

    n tokens of a record, special ones included · t turns of a dialogue

    text       [CLS] source [SEP]                          [CLS] target [MASK]
    caption    [CLS] tags [SEP], or nothing                [CLS] words [SEP]
    positions    2   3 4 5 …                                 2   3 4 5 …
    dialogue   [CLS] passage [SEP] turn [SEP] turn [SEP]   [CLS] target [MASK]
    positions    2   3 4 5 …       3 4 …      3 4 …          2   3 4 5 …
    turns        t   0             t          t-1 … 1        0
    speakers   t%2   2             t%2        … 1            0

The release calls speakers "roles". The last turn, which is answered, always is turn 1 of speaker 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from unimo.batch import KNOWN, WRITTEN
from unimo.errors import DataError, UsageError, nearest
from unimo.tokenizer import Tokenizer, positions

Ids = Sequence[int] | np.ndarray

SPECIALS = {
    "[CLS]": Tokenizer.cls,
    "[PAD]": Tokenizer.pad,
    "[SEP]": Tokenizer.sep,
    "[UNK]": Tokenizer.unk,
    "[MASK]": Tokenizer.mask,
}
ANSWERER, ASKER, PASSAGE = range(3)  # speakers


@dataclass(frozen=True)
class Record:
    """What is given and, behind it, what is to be written.

    ids, positions: (n,) int64. target_begins: place of the target's [CLS]; n if the target is still unknown.
    speakers, turns: (n,) int64 who says a token of a dialogue and how many turns before the answer; else None.
    """

    ids: np.ndarray
    positions: np.ndarray
    target_begins: int
    speakers: np.ndarray | None = None
    turns: np.ndarray | None = None

    @property
    def roles(self) -> np.ndarray:
        """(n,) int64: the source is KNOWN, the target is WRITTEN."""
        return np.where(np.arange(len(self.ids)) < self.target_begins, KNOWN, WRITTEN)


def seq2seq_record(
    sources: Sequence[Ids],
    target: Ids | None,
    *,
    max_source_length: int,
    max_target_length: int,
    end: int = Tokenizer.mask,
    keep_end: bool = False,
    continuous: bool = False,
    where: object = "this record",
) -> Record:
    """A text, summary, question or caption that is written after its sources.

    sources: token ids of each source segment; none for a caption of an image alone. target: ids of what is written,
    None where it is unknown. max_source_length, max_target_length: tokens of a segment and of the target, special ones
    included; of several segments each may be that long. end: what follows the target, [SEP] for captions.
    keep_end: shorten a long target before its end, as published captions are. Other published targets lose it with the
    words cut off: such a text goes on. continuous: number positions through instead of beginning anew with each
    segment. where: named in errors.
    """
    segments = [_segment(ids, max_source_length, f"{where}, source {i}") for i, ids in enumerate(sources)]
    answer = None if target is None else _target(target, max_target_length, end, keep_end, f"{where}, target")
    return _laid_out(segments, answer, continuous, where)


def dialogue_record(
    turns: Sequence[Ids],
    target: Ids | None,
    *,
    passage: Ids | None = None,
    max_source_length: int,
    max_target_length: int,
    turn_rows: int = 16,
    continuous: bool = False,
    where: object = "this record",
) -> Record:
    """The answer to the last turn of a dialogue about a passage, or about nothing (CoQA).

    turns: ids of what was said, oldest first. turn_rows: rows of the model's table of turns. Row 0 is the passage's and
    the answer's, so the last turn_rows - 1 turns are kept. Everything else as for `seq2seq_record`; the passage and
    each turn may take max_source_length tokens.
    """
    if turn_rows < 2:
        what = "A table of turns without room for a turn"
        raise UsageError(what, where="turn_rows", got=turn_rows, expected="2 or more")
    if not len(turns):
        raise DataError("A dialogue without a turn", where=where, expected="at least the question to be answered")
    first = max(0, len(turns) - (turn_rows - 1))
    kept = [_segment(ids, max_source_length, f"{where}, turn {i}") for i, ids in enumerate(turns[first:], start=first)]
    segments = kept if passage is None else [_segment(passage, max_source_length, f"{where}, passage"), *kept]
    answer = None if target is None else _target(target, max_target_length, Tokenizer.mask, False, f"{where}, target")
    record = _laid_out(segments, answer, continuous, where)

    # A segment's turn tells who speaks, but for the passage, which nobody says.
    passage_turn = [] if passage is None else [0]
    turn = np.array([len(kept), *passage_turn, *range(len(kept), 0, -1), 0])
    speaker = np.where(turn % 2, ASKER, ANSWERER)
    if passage is not None:
        speaker[1] = PASSAGE
    lengths = [1, *(len(segment) for segment in segments), len(record.ids) - record.target_begins]
    return replace(record, speakers=np.repeat(speaker, lengths), turns=np.repeat(turn, lengths))


def read_field(field: str, tokenizer: Tokenizer | None = None, *, where: object = "this field") -> np.ndarray:
    """(n,) int64 ids of a field of the released data: GPT-2 ids in decimal, special tokens as words, spaces between."""
    from_gpt2 = (tokenizer or Tokenizer.default()).from_gpt2
    ids = np.empty(len(words := field.split()), dtype=np.int64)
    for i, word in enumerate(words):
        if word in SPECIALS:
            ids[i] = SPECIALS[word]
        elif word.isascii() and word.isdigit() and len(word) <= 5 and int(word) < len(from_gpt2):
            ids[i] = from_gpt2[int(word)]
        else:
            meant = None if word.isdigit() else nearest(word, SPECIALS)
            expected = f"0 to {len(from_gpt2) - 1}, or one of {' '.join(SPECIALS)}"
            do = f"did you mean {meant}?" if meant else "encode plain text with unimo.tokenizer instead"
            what = "Neither a GPT-2 id nor a special token"
            raise DataError(what, where=f"{where}, word {i}", got=word, expected=expected, do=do)
    return ids


def read_turns(field: str, tokenizer: Tokenizer | None = None, *, where: object = "this field") -> list[np.ndarray]:
    """The turns of a released dialogue field, which has [SEP] between them."""
    return [read_field(turn, tokenizer, where=f"{where}, turn {i}") for i, turn in enumerate(field.split("[SEP]"))]


def _segment(ids: Ids, max_length: int, where: str) -> np.ndarray:
    """ids [SEP], cut to leave room for the record's [CLS] before them."""
    row = _checked(ids, max_length, 3, where)
    return np.append(row[: max_length - 2], Tokenizer.sep)


def _target(ids: Ids, max_length: int, end: int, keep_end: bool, where: str) -> np.ndarray:
    """[CLS] ids end."""
    row = _checked(ids, max_length, 3 if keep_end else 2, where)
    words = row[: max_length - 2] if keep_end else row
    return np.concatenate([[Tokenizer.cls], words, [end]])[:max_length]


def _checked(ids: Ids, max_length: int, min_length: int, where: str) -> np.ndarray:
    if max_length < min_length:
        raise UsageError("No room for a word between special tokens", where=where, got=max_length, expected=min_length)
    row = np.asarray(ids)
    if not row.size:
        raise DataError("An empty segment", where=where, got="0 ids", expected="1 or more", do="leave the record out")
    if row.ndim != 1 or row.dtype.kind not in "iu":
        raise DataError("Not a row of ids", where=where, got=f"{row.dtype} {row.shape}", expected="whole numbers (n,)")
    if not 0 <= row.min() <= row.max() < Tokenizer.vocab_size:
        outside, expected = row[(row < 0) | (row >= Tokenizer.vocab_size)][0], f"0 to {Tokenizer.vocab_size - 1}"
        raise DataError("An id outside the vocabulary", where=where, got=outside, expected=expected)
    return row.astype(np.int64)


def _laid_out(segments: list[np.ndarray], target: np.ndarray | None, continuous: bool, where: object) -> Record:
    parts = [(np.array([Tokenizer.cls]), 2), *((segment, 3) for segment in segments)] if segments else []
    target_begins = sum(len(part) for part, _ in parts)
    if target is not None:
        parts.append((target, 2))
    if not parts:
        raise UsageError("A record without source and target", where=where, expected="one of both")
    ids = np.concatenate([part for part, _ in parts])
    begun_anew = np.concatenate([positions(len(part), start) for part, start in parts])
    return Record(ids, positions(len(ids)) if continuous else begun_anew, target_begins)
