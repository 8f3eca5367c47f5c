"""The tokenizer against the authors' ids, another library's RoBERTa and a BPE written out in plain Python."""

import functools
import gzip
import itertools
import json
import pickle
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from growth import growth
from hypothesis import given, settings
from hypothesis import strategies as st

import unimo
from unimo.errors import DataError, UsageError
from unimo.tokenizer import Tokenizer, positions

GOLDEN = json.loads((Path(__file__).parent / "golden" / "data" / "tokenizer.json").read_text())["data"]
ASSETS = Path(unimo.__file__).parent / "assets"
SPECIAL_SPELLINGS = [
    *("<s>", "</s>", "<pad>", "<unk>", "<mask>", "<|endoftext|>", "madeupword0000", "madeupword0001"),
    *("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.default()


# --- the authors' values


@pytest.mark.parametrize("sample", GOLDEN["samples"], ids=lambda sample: repr(sample["text"][:20]))
def test_published_ids_and_text(tokenizer, sample):
    assert tokenizer.encode(sample["text"]) == sample["ids"]
    assert tokenizer.decode(sample["ids"]) == sample["decoded"] == sample["text"]
    assert [tokenizer.decode([i]) for i in sample["ids"]] == sample["pieces"]


def test_published_special_ids(tokenizer):
    assert {name: getattr(tokenizer, name) for name in GOLDEN["special"]} == GOLDEN["special"]


def test_published_word_start_ids(tokenizer):
    ids = np.flatnonzero(tokenizer.starts_word).astype(np.int32)
    assert len(ids) == GOLDEN["word_start_ids_count"]
    assert ids[:40].tolist() == GOLDEN["word_start_ids_first"]
    assert zlib.crc32(ids.tobytes()) == GOLDEN["word_start_ids_crc32"]


def test_shipped_vocabulary_is_the_published_one(tokenizer, shared):
    folder = shared / "data" / "vocab" / "roberta_bpe"
    gpt2 = {i: piece for piece, i in json.loads((folder / "roberta_base_en.encoder.json").read_text()).items()}
    listed = (folder / "roberta_base_en.vocab.txt").read_text().splitlines()
    assert [gpt2[int(line)] if line.isdigit() else line for line in listed] == vocabulary()
    assert (folder / "roberta_base_en.vocab.bpe").read_text(encoding="utf-8").splitlines()[1:] == merges()


# --- second opinions


def vocabulary():
    return gzip.decompress((ASSETS / "roberta_vocabulary.txt.gz").read_bytes()).decode().splitlines()


def merges():
    return gzip.decompress((ASSETS / "roberta_merges.txt.gz").read_bytes()).decode().splitlines()


@functools.cache
def plain_bpe():
    """text -> ids by the textbook: split, then join the neighbours of lowest rank until none is listed."""
    regex = pytest.importorskip("regex")
    split = regex.compile(r"'(?:[sdmt]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    visible = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    rest = [b for b in range(256) if b not in visible]
    alphabet = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(rest)}
    ids = {piece: i for i, piece in enumerate(vocabulary())}
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(merges())}

    def encode(text):
        found = []
        for chunk in split.findall(text):
            parts = [alphabet[b] for b in chunk.encode()]
            while len(parts) > 1:
                rank, i = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(itertools.pairwise(parts)))
                if rank == len(ranks):
                    break
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            found += [ids[part] for part in parts]
        return found

    return encode


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """Another library's RoBERTa, built from files, told to read special tokens as text."""
    transformers = pytest.importorskip("transformers")
    names = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>", 50264: "<mask>"}
    folder = tmp_path_factory.mktemp("roberta")
    ids = {names.get(i, piece): i for i, piece in enumerate(vocabulary())}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges()) + "\n")
    return transformers.RobertaTokenizer.from_pretrained(folder, split_special_tokens=True)


def varied_strings(count):
    """Words, scripts, emoji, controls, spaces and special spellings, mixed."""
    chance = random.Random(0)
    # One letter range per script, then marks, symbols, controls, private use and the far planes.
    ranges = [
        *((0x20, 0x7E), (0xA1, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x586), (0x5D0, 0x5EA)),
        *((0x620, 0x64A), (0x904, 0x939), (0x985, 0x9B9), (0xB85, 0xBB9), (0xE01, 0xE3A), (0x10D0, 0x10FA)),
        *((0x1200, 0x1248), (0x1780, 0x17B3), (0x3041, 0x30FF), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3)),
        *((0x300, 0x36F), (0x2000, 0x206F), (0x2190, 0x23FF), (0x0, 0x1F), (0x80, 0xA0), (0xE000, 0xE0FF)),
        *((0x1F300, 0x1F64F), (0x1F680, 0x1F6FF), (0x1D400, 0x1D7FF), (0x20000, 0x200FF), (0xFE00, 0xFE0F)),
        *((0xFFF0, 0xFFFF), (0x660, 0x669), (0x2160, 0x2188), (0xBC, 0xBE)),
    ]
    glue = ["", " ", " ", "  ", "\n", "\t ", "\r\n", "\u00a0", "\u3000", "\u2028", "'s ", "'LL", "\u200d", "."]
    english = ["a", "man", "riding", "horse", "doesn't", "we'll", "3:45pm", "U.S.A.", "$1,000.50", "(approx.)"]

    def word():
        kind = chance.random()
        if kind < 0.3:
            return chance.choice(english)
        if kind < 0.35:
            return chance.choice(SPECIAL_SPELLINGS)
        low, high = chance.choice(ranges)
        return "".join(chr(chance.randint(low, high)) for _ in range(chance.randint(1, 6)))

    return ["".join(word() + chance.choice(glue) for _ in range(chance.randint(1, 8))) for _ in range(count)]


def test_equal_to_roberta_and_to_the_textbook(tokenizer, roberta):
    texts = varied_strings(2000)
    ours = tokenizer.encode_batch(texts)
    theirs = roberta(texts, add_special_tokens=False)["input_ids"]
    textbook = plain_bpe()
    for text, ids, reference in zip(texts, ours, theirs):
        assert ids == reference == textbook(text), repr(text)
        assert tokenizer.decode(ids) == text


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_is_equal_to_roberta_and_comes_back(tokenizer, roberta, text):
    ids = tokenizer.encode(text)
    assert ids == roberta(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert not tokenizer.special_ids.intersection(ids)


# --- promises


@pytest.mark.parametrize("spelling", SPECIAL_SPELLINGS)
@pytest.mark.parametrize("form", ["{}", " {}", "x{}", "{0}{0}", "[CLS] {} [SEP]", "{}\n", "\u200b{}"])
def test_special_tokens_are_never_read_from_text(tokenizer, form, spelling):
    text = form.format(spelling)
    ids = tokenizer.encode(text)
    assert not tokenizer.special_ids.intersection(ids)
    assert tokenizer.decode(ids) == text


def test_specials_decode_to_nothing(tokenizer):
    ids = tokenizer.encode("a red bus")
    framed = [0, ids[0], 50264, *ids[1:], 3, 50260, 50261, 50262, 50263, 2, 1, 1]
    assert tokenizer.decode(framed) == tokenizer.decode(np.array(framed, dtype=np.uint16)) == "a red bus"
    assert tokenizer.decode([]) == tokenizer.decode(sorted(tokenizer.special_ids)) == ""


def test_broken_utf8_decodes_with_replacement(tokenizer):
    smile = tokenizer.encode("😀")
    assert len(smile) > 1
    for cut in range(1, len(smile)):
        assert tokenizer.decode([*smile[:cut], *tokenizer.encode(" ok")]).endswith(" ok")
        assert "\ufffd" in tokenizer.decode(smile[:cut])


def test_words(tokenizer):
    ids = tokenizer.encode("Two dogs play; one doesn't bark!")  # Two| dogs| play ;| one| doesn 't| bark !
    assert tokenizer.word_starts(ids).tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 1]
    assert tokenizer.word_starts([0, *ids, 2]).tolist() == [-1, 0, 0, 0, 1, 0, 0, 1, 0, 1, -1]
    assert tokenizer.word_starts([]).dtype == np.int8


def test_words_begin_anew_after_a_special_token(tokenizer):
    comma = tokenizer.encode(",")
    assert tokenizer.word_starts([0, *comma, 2, *comma, *comma, 50264, 50264, *comma]).tolist() == [
        *(-1, 0, -1, 0, 1, -1, -1, 0)
    ]


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.text(st.characters(codec="ascii", exclude_characters=" "), min_size=1), min_size=1))
def test_as_many_words_as_a_split_at_spaces(tokenizer, words):
    kinds = tokenizer.word_starts(tokenizer.encode(" ".join(words)))
    starts = int((kinds == 0).sum())
    if all(word.isprintable() for word in words):
        assert starts == len(words)
    else:  # a space before other white space may stand with it, or be a piece of its own
        assert 1 <= starts <= len(words)
    assert kinds[0] == 0 and set(kinds) <= {0, 1}


def test_batch_equals_one_by_one(tokenizer):
    texts = varied_strings(50)
    assert tokenizer.encode_batch(iter(texts)) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("max_bytes", range(13))
def test_byte_limit_keeps_whole_characters(tokenizer, max_bytes):
    text = "né 😀 fin"  # characters end after bytes 1, 3, 4, 8, 9, 10, 11, 12
    head = tokenizer.decode(tokenizer.encode(text, max_bytes=max_bytes))
    following = text[len(head) : len(head) + 1]
    assert text.startswith(head)
    assert len(head.encode()) <= max_bytes
    assert not following or len((head + following).encode()) > max_bytes


def test_byte_limit_makes_a_huge_text_cheap(tokenizer):
    assert len(tokenizer.encode("x" * 10**7, max_bytes=4096)) < 4096
    assert growth(lambda text: tokenizer.encode(text, max_bytes=4096), "x" * 10**4, "x" * 10**7) < 100  # not 1000


@pytest.mark.parametrize("kind", ["letters", "one letter", "emoji", "marks", "spaces"])
def test_a_million_characters_without_a_break(tokenizer, kind):
    letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=10**6)
    unit = {"letters": "".join(letters), "one letter": "a", "emoji": "😀", "marks": "\u0301", "spaces": " "}[kind]
    text = unit * (10**6 // len(unit))
    # 10 would be linear, 100 quadratic; 20 is measured, as large texts leave the cache
    assert growth(tokenizer.encode, text[: 10**5], text, tries=2) < 50
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_what_is_no_text_is_refused_with_its_place(tokenizer):
    with pytest.raises(DataError, match=r"text 1, character 3.*U\+D83D"):
        tokenizer.encode_batch(["fine", "bad\ud83d"])
    with pytest.raises(DataError, match=r"text 2.*got: bytes"):
        tokenizer.encode_batch(["fine", "fine", b"bytes"], max_bytes=10)
    with pytest.raises(DataError, match="NoneType"):
        tokenizer.encode(None)


@pytest.mark.parametrize("wrong", [-1, 50265, 10**9])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, wrong):
    with pytest.raises(UsageError, match=f"got: {wrong}"):
        tokenizer.decode([5, wrong])
    with pytest.raises(UsageError, match=f"got: {wrong}"):
        tokenizer.word_starts([5, wrong])


def test_other_vocabularies_are_refused():
    with pytest.raises(DataError, match="50265"):
        Tokenizer(["a", "b"], [])


def test_fingerprint_follows_pieces_and_merges(tokenizer):
    pieces, pairs = vocabulary(), [tuple(line.split(" ")) for line in merges()]
    assert Tokenizer(pieces, pairs).fingerprint == tokenizer.fingerprint
    assert Tokenizer(pieces, pairs[:-1]).fingerprint != tokenizer.fingerprint
    pieces[100], pieces[101] = pieces[101], pieces[100]
    assert Tokenizer(pieces, pairs).fingerprint != tokenizer.fingerprint


def test_survives_the_way_to_a_loader_worker(tokenizer):
    twin = pickle.loads(pickle.dumps(tokenizer))
    text = "A man is riding a horse."
    assert twin.encode(text) == tokenizer.encode(text)
    assert twin.word_starts([0, 5, 4, 2]).tolist() == [-1, 0, 1, -1]


@pytest.mark.parametrize(
    "text", ["", "a red ring is left of it", "  two  spaces", "caf\u00e9 \u6f22\u5b57 x", "(a),b!"]
)
def test_spans_are_the_characters_of_each_id(text):
    tokenizer = Tokenizer.default()
    ids, spans = tokenizer.encode(text), tokenizer.spans(text)
    assert len(ids) == len(spans)
    for k, (begin, end) in enumerate(spans):
        if spans.count((begin, end)) == 1 and text[begin:end].isascii():
            assert tokenizer.decode([ids[k]]) == text[begin:end]
    assert not ids or (spans[0][0], spans[-1][1]) == (0, len(text))
    assert spans == sorted(spans)


def test_only_text_has_spans():
    with pytest.raises(DataError, match="Not a text"):
        Tokenizer.default().spans(3)


def test_positions_leave_0_and_1_free():
    assert positions(3).tolist() == [2, 3, 4] and positions(2, start=5).tolist() == [5, 6] and not len(positions(0))
