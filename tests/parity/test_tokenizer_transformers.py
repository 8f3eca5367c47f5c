"""Our tokenizer against transformers' RoBERTa on ten thousand strings of thirteen kinds.

Both stand on the same BPE library, each with its own splitting, byte alphabet and special tokens;
`tests/test_tokenizer.py` has the textbook in plain Python. Strings that spell a special token are compared apart:
transformers reads them as the token, ours never does.
"""

import json
import random
import unicodedata

import pytest
from test_tokenizer import merges, vocabulary

from unimo.tokenizer import Tokenizer

COUNT = 10_000
NAMES = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>", 50264: "<mask>"}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Makes transformers' RoBERTa from the vocabulary and merges that unimo ships."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("roberta")
    ids = {NAMES.get(i, piece): i for i, piece in enumerate(vocabulary())}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges()) + "\n", encoding="utf-8")
    return lambda **options: transformers.RobertaTokenizer.from_pretrained(folder, **options)


# ---- strings


def letters(*ranges):
    """A generator of words of the assigned characters of some ranges of code points."""
    pool = [chr(i) for low, high in ranges for i in range(low, high + 1) if unicodedata.category(chr(i)) != "Cn"]
    return lambda r: "".join(r.choices(pool, k=r.randint(1, 8)))


def emoji(r):
    """Faces, families joined by U+200D, skin tones, flags, keycaps, and some that are broken."""
    people, tones = "👨👩👧👦🧑👷🏻", "🏻🏼🏽🏾🏿"
    return r.choice(
        [
            chr(r.randint(0x1F300, 0x1FAFF)),
            "\u200d".join(r.choices(people, k=r.randint(2, 4))),
            r.choice(people) + r.choice(tones) + "\u200d" + r.choice("⚕⚖✈🚀🌾") + "\ufe0f",
            "".join(chr(0x1F1E6 + r.randrange(26)) for _ in range(r.randint(1, 3))),
            r.choice("0123456789#*") + "\ufe0f\u20e3",
            "\u200d" * r.randint(1, 3) + r.choice("❤☀⚽") + r.choice(["\ufe0e", "\ufe0f"]),
            "🏴" + "".join(chr(0xE0000 + ord(c)) for c in "gbsct") + "\U000e007f",
        ]
    )


def marked(r):
    """Letters under heaps of combining marks, some with no letter below them."""
    base = r.choice(["", "a", "é", "ı", "ﬁ", "क", "ا", "가"])
    return base + "".join(chr(r.randint(0x300, 0x36F)) for _ in range(r.randint(1, 6)))


def spaces(r):
    """Long runs of white space of one or of many kinds."""
    pool = " \t\n\r\x0b\x0c\x1c\x1f\x85\u00a0\u1680\u2003\u2009\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
    some = r.choice([" ", "\n", "\t", " \n", pool])
    return r.choice(["", "x", "."]) + "".join(r.choices(some, k=r.randint(1, 60))) + r.choice(["", "x", "!"])


def number(r):
    digits = r.choice(["0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "²³¹⁰", "ⅣⅫ½¾㊿"])
    parts = ["".join(r.choices(digits, k=r.randint(1, 12))) for _ in range(r.randint(1, 3))]
    return r.choice(["", "-", "$", "№"]) + r.choice([".", ",", "", ":", "/", "e", " "]).join(parts)


def contraction(r):
    """English clitics, in cases and with apostrophes that only some of them are split at."""
    word = r.choice(["I", "don", "WE", "it", "o", "rock", "y", "", "café", "五"])
    return word + r.choice("''''’ʼ`") + r.choice(["s", "t", "re", "ve", "m", "ll", "d", "S", "LL", "Ve", "n", "sd", ""])


def url(r):
    """Addresses, percent signs, paths and mail."""
    host = ".".join("".join(r.choices("abcdefghijklmnopqrstuvwxyz0123456789-", k=r.randint(1, 9))) for _ in range(2))
    tail = "".join(r.choices("abcXYZ019/?&=%#_~.+-;:@!$'()*,", k=r.randint(0, 40)))
    return r.choice(["https://", "http://www.", "ftp://", "mailto:me@", "//", "C:\\", ""]) + host + "/" + tail


def any_character(r):
    """Code points of all seventeen planes, assigned or not, without surrogates."""
    picked = []
    for _ in range(r.randint(1, 12)):
        point = r.randrange(0x10000) + 0x10000 * r.randrange(17)
        picked.append(chr(point) if not 0xD800 <= point < 0xE000 else "\ufffd")
    return "".join(picked)


ENGLISH = "a the man rides horses Photograph of two DOGS running (2021), isn't U.S. naïve co-op state-of-the-art"
KINDS = {
    "english": lambda r: " ".join(r.choices(ENGLISH.split(), k=r.randint(1, 12))),
    "emoji": emoji,
    "control": letters((0x00, 0x1F), (0x7F, 0x9F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F)),
    "marks": marked,
    "right to left": letters((0x590, 0x5FF), (0x600, 0x6FF), (0x700, 0x7BF), (0xFB50, 0xFDFF), (0x10840, 0x1085F)),
    "east asian": letters((0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x20000, 0x2A6DF), (0xFF00, 0xFFEF)),
    "indic": letters((0x900, 0xDFF), (0xE00, 0xEFF), (0x1780, 0x17FF), (0x11000, 0x1107F)),
    "european": letters((0xA1, 0x24F), (0x370, 0x58F), (0x10A0, 0x10FF), (0x1E00, 0x1FFF)),
    "any character": any_character,
    "spaces": spaces,
    "numbers": number,
    "contractions": contraction,
    "addresses": url,
}


def strings(count):
    """(kinds, text) pairs: each kind alone, then mixtures. None spells a special token."""
    r = random.Random(2107)
    found = []
    while len(found) < count:
        kinds = [list(KINDS)[len(found) % len(KINDS)]]
        if len(found) >= count // 2:
            kinds += r.choices(list(KINDS), k=r.randint(1, 5))
        glue = r.choice([" ", "", "  ", "\n"])
        text = glue.join(KINDS[kind](r) for kind in kinds for _ in range(r.randint(1, 3)))
        if not any(name in text for name in NAMES.values()):
            found.append((kinds, text))
    return found


def test_equal_ids_and_the_text_comes_back(build):
    drawn = strings(COUNT)
    assert len({text for _, text in drawn}) > 0.95 * COUNT
    texts = [text for _, text in drawn]
    ours, ids = Tokenizer.default(), Tokenizer.default().encode_batch(texts)
    theirs = build()(texts, add_special_tokens=False)["input_ids"]
    for (kinds, text), mine, other in zip(drawn, ids, theirs, strict=True):
        assert mine == other, (kinds, text)
        assert ours.decode(mine) == text, (kinds, text)


SPELLINGS = [*NAMES.values(), "[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "<|endoftext|>", "madeupword0000"]
FORMS = ["{}", "a {} b", "{0}{0}", " {}", "{}\n", "x{}y", "\u200b{}"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_special_token_in_a_text_is_text(build, spelling):
    """For ours always. For transformers only on demand, and then the ids are equal."""
    ours, reads_tokens, reads_text = Tokenizer.default(), build(), build(split_special_tokens=True)
    for form in FORMS:
        text = form.format(spelling)
        ids = ours.encode(text)
        assert not ours.special_ids.intersection(ids)
        assert ours.decode(ids) == text
        assert ids == reads_text(text, add_special_tokens=False)["input_ids"]
        parsed = reads_tokens(text, add_special_tokens=False)["input_ids"]
        assert (parsed != ids) == (spelling in NAMES.values())  # the reason why such strings are kept apart
