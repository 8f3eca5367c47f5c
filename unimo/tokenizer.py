"""Text to ids and back: byte-level BPE in RoBERTa's id order, the vocabulary of both UNIMO and UNIMO-2.

Text is taken as given: no lower-casing, no Unicode normalisation, no space put in front. Special tokens stand
outside the BPE model, so no text, not even a literal "[MASK]" or "</s>", can spell one.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from unimo.errors import DataError, UsageError
from unimo.json_files import write_json

SPACE = "Ġ"  # how the byte alphabet of GPT-2 writes a space
WORTH_CORES = 8192  # characters; for fewer, waking the other cores takes longer than they save


class Tokenizer:
    """Byte-level BPE over RoBERTa's 50,265 ids (UNIMO 1.7, UNIMO-2 5.2).

    Ids 4 to 50259 are pieces of text. The others are special, are never made from text and decode to nothing:
    [CLS] 0, [PAD] 1, [SEP] 2, [UNK] 3, <|endoftext|> 50260, three unused words 50261 to 50263, [MASK] 50264.

    starts_word: (vocab,) bool, True where a piece begins with a space.
    from_gpt2: (50257,) int32, the id of each GPT-2 id, in which the authors' files of text are written.
    fingerprint: SHA-256 of pieces and merges; equal fingerprints give equal ids.
    """

    cls, pad, sep, unk, mask = 0, 1, 2, 3, 50264
    vocab_size = 50265
    special_ids = frozenset({0, 1, 2, 3, *range(50260, 50265)})

    @classmethod
    @functools.cache  # one per process: reading it takes 0.1 s, and nothing in it changes
    def default(cls) -> Tokenizer:
        """The vocabulary shipped with the package."""
        pieces = _asset_lines("roberta_vocabulary.txt.gz")
        merges = [line.split(" ") for line in _asset_lines("roberta_merges.txt.gz")]
        return cls(pieces, [(left, right) for left, right in merges])

    def __init__(self, pieces: Sequence[str], merges: Sequence[tuple[str, str]]):
        """pieces: the vocabulary in id order, in GPT-2's byte alphabet. merges: pairs of pieces, by rank."""
        if len(set(pieces)) != self.vocab_size:
            raise DataError("Not the vocabulary of UNIMO", got=f"{len(set(pieces))} pieces", expected=self.vocab_size)
        self._pieces, self._merges = list(pieces), list(merges)
        ids = {piece: i for i, piece in enumerate(pieces) if i not in self.special_ids}
        self._bpe = tokenizers.Tokenizer(models.BPE(ids, merges))
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        self._bpe.decoder = decoders.ByteLevel()

        # What an id is for the segmentation into words: 0 begins one, 1 continues one, -1 is special.
        self._place = np.array([0 if piece.startswith(SPACE) else 1 for piece in pieces], dtype=np.int8)
        self._place[list(self.special_ids)] = -1
        self.starts_word = self._place == 0
        self.starts_word.setflags(write=False)

        # GPT-2 numbers the bytes in the order of its alphabet, then what each merge makes, then its one special token.
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        place = {piece: i for i, piece in enumerate(pieces)}
        in_gpt2 = [*alphabet, *(left + right for left, right in merges), "<|endoftext|>"]
        self.from_gpt2 = np.array([place[piece] for piece in in_gpt2], dtype=np.int32)
        self.from_gpt2.setflags(write=False)

        written = "\n".join([*pieces, "", *(" ".join(pair) for pair in merges)])
        self.fingerprint = hashlib.sha256(written.encode()).hexdigest()

    def encode(self, text: str, *, max_bytes: int | None = None) -> list[int]:
        """Ids of a text, without special tokens.

        max_bytes: read only this many bytes of UTF-8 (rounded down to a whole character), which bounds time
        and memory for texts from strangers. English has 4 to 5 bytes per token, so 8 bytes for each token
        wanted seldom lose one.
        """
        return self.encode_batch([text], max_bytes=max_bytes)[0]

    def encode_batch(self, texts: Iterable[str], *, max_bytes: int | None = None) -> list[list[int]]:
        """`encode` for many texts, on all cores where there are enough of them."""
        texts = list(texts)
        try:
            heads = texts if max_bytes is None else [_head(text, max_bytes) for text in texts]
            if sum(map(len, heads)) < WORTH_CORES:
                rows = [self._bpe.encode(head, add_special_tokens=False) for head in heads]
            else:
                rows = self._bpe.encode_batch_fast(heads, add_special_tokens=False)
        except (AttributeError, TypeError, UnicodeEncodeError) as error:
            raise _not_text(texts) from error
        return [row.ids for row in rows]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The characters [begin, end) of `text` that each id of `encode(text)` stands for, a leading space among them;
        ids that share a character have it both."""
        try:
            return self._bpe.encode(text, add_special_tokens=False).offsets
        except (AttributeError, TypeError, UnicodeEncodeError) as error:
            raise _not_text([text]) from error

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of some ids; special ids are dropped. Bytes that are not UTF-8 become U+FFFD."""
        row = self._row(ids)
        return self._bpe.decode(row[self._place[row] >= 0].tolist(), skip_special_tokens=False)

    def word_starts(self, ids: Iterable[int] | np.ndarray) -> np.ndarray:
        """(n,) int8: 0 first piece of a word, 1 further piece, -1 special token (UNIMO-2 4.2).

        A word runs from a piece with a leading space, or from the first piece after a special token or at the
        very beginning, up to the next such piece. Punctuation belongs to the word it is written against.
        """
        place = self._place[self._row(ids)]
        follows_word = np.zeros(len(place), dtype=bool)
        follows_word[1:] = place[:-1] >= 0
        place[(place == 1) & ~follows_word] = 0
        return place

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, with which `transformers.AutoTokenizer` gives the same ids.

        There, unlike here, a text can spell special tokens: that is how their tokenizers are.
        """
        whole = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(self._pieces)}, self._merges))
        whole.pre_tokenizer, whole.decoder = self._bpe.pre_tokenizer, self._bpe.decoder
        names = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        names |= {"mask_token": "[MASK]"}
        whole.add_special_tokens(list(names.values()))
        whole.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B [SEP]",
            special_tokens=[("[CLS]", self.cls), ("[SEP]", self.sep)],
        )
        whole.save(str(Path(folder) / "tokenizer.json"))
        write_json(Path(folder) / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})

    def _row(self, ids: Iterable[int] | np.ndarray) -> np.ndarray:
        row = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), dtype=np.int64)
        if len(row) and not 0 <= row.min() <= row.max() < self.vocab_size:
            got, expected = int(row.min() if row.min() < 0 else row.max()), f"0 to {self.vocab_size - 1}"
            raise UsageError("An id outside the vocabulary", got=got, expected=expected)
        return row


def _head(text: str, max_bytes: int) -> str:
    """The longest beginning of a text that takes at most max_bytes in UTF-8."""
    # A character takes a byte or more, so the first slice loses nothing and spares encoding a huge text.
    return text[:max_bytes].encode()[:max_bytes].decode(errors="ignore")


def _not_text(texts: list) -> DataError:
    """The located error for the first entry that is no encodable string."""
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            return DataError("Not a text", where=f"text {i}", got=type(text).__name__, expected="str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            what, do = "A text holds half of a surrogate pair, which is no character", "repair its file"
            where, got = f"text {i}, character {error.start}", f"U+{ord(text[error.start]):04X}"
            return DataError(what, where=where, got=got, expected="characters that UTF-8 can write", do=do)
    return DataError("The tokenizer refused these texts", got=f"{len(texts)} texts")


def _asset_lines(name: str) -> list[str]:
    path = resources.files("unimo") / "assets" / name
    try:
        return gzip.decompress(path.read_bytes()).decode().splitlines()
    except (OSError, EOFError, zlib.error) as error:
        what, do = "The vocabulary shipped with unimo is damaged", "reinstall unimo"
        raise DataError(what, where=path, got=error, do=do) from error


FIRST_POSITION = 2  # as in RoBERTa, 1 marks padding (spec unimo2 §5.2)


def positions(n: int, start: int = FIRST_POSITION) -> np.ndarray:
    """(n,) int64 position numbers of a row of tokens."""
    return np.arange(start, start + n, dtype=np.int64)
