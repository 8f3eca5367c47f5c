"""Words and n-grams of the caption metrics.

Published caption scores are computed on Penn-Treebank-like words: coco-caption runs Stanford's
`PTBTokenizer -lowerCase` (Java) and then drops a list of punctuation tokens. The regular expressions below
follow that convention without Java: lower case, clitics split off ("isn't" -> "is n't", "dog's" -> "dog
's"), hyphens, slashes and decimal points kept inside a word, abbreviations keep their full stop, brackets
written "-lrb-", punctuation dropped, symbols ("$", "%", "&") kept. `tests/metrics/test_captions.py` says
how often the two agree.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from unimo.errors import DataError

_STRAIGHTEN = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": " - ", "—": " - ", "…": " ... ", "\u00a0": " "}
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPLIT_WORDS = {  # one written word, two Treebank words
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "gimme": ("gim", "me"),
    "lemme": ("lem", "me"),
}
_CLITIC = r"'(?:s|m|d|re|ve|ll)(?!\w)"
_TOKEN = re.compile(
    rf"""
      https?://\S+ | \S{{1,64}}@\w+\.\w+ | [@\#][a-z_]\w*        # addresses, handles, tags
    | n't(?!\w) | {_CLITIC} | '\d\ds?(?!\w) | 'n' | '(?:em|til|n)(?!\w)
    | 't(?=(?:is|was)(?!\w))                              # 'tis -> 't is
    | (?:\w+[-/&.])*\w+?(?=n't(?!\w))                     # the verb before n't
    | (?:[a-z]\.)+(?!\w)                                  # initials: p.m. u.s.
    | (?:mrs?|ms|dr|st|mt|ft|jr|sr|vs|etc|inc|co|corp|ltd|prof|gen|sgt|capt|rev|gov|sen|rep|ave|blvd|cos|bros
        |jan|feb|apr|aug|sept?|oct|nov|dec)\.(?![\w.])
    | no\.(?=\s*\d)
    | \.?\d+(?:[.,:/]\d+)+ (?![\w]) | \.\d+
    | \w+ (?: [-/&.]+(?<![-/&.]{{2}})\w+ | (?<=[a-z])(?!{_CLITIC})'(?=[a-z])\w+ )*
    | [!?]{{2,}} | \.{{2,}} | -+
    | [^\w\s]
    """,
    re.VERBOSE,
)
_DROPPED = re.compile(r"""['"`.,:;?!]|\.+|-+""")


def tokenize(text: str) -> list[str]:
    """Lower-case words of a caption without punctuation; may be empty.

    >>> tokenize("The dog's ball isn't black-and-white, it's red.")
    ['the', 'dog', "'s", 'ball', 'is', "n't", 'black-and-white', 'it', "'s", 'red']
    """
    if not isinstance(text, str):
        raise DataError("only texts have words", got=f"a {type(text).__name__}", expected="a string")
    words: list[str] = []
    for word in _TOKEN.findall(text.translate(_STRAIGHTEN).lower()):
        if not _DROPPED.fullmatch(word):
            words.extend(_SPLIT_WORDS.get(word) or (_BRACKETS.get(word, word),))
    return words


def ngram_counts(words: Sequence[str], max_length: int = 4) -> Counter[tuple[str, ...]]:
    """How often each run of 1..max_length words occurs; its length tells its order."""
    counts: Counter[tuple[str, ...]] = Counter()
    for length in range(1, max_length + 1):
        counts.update(zip(*(words[start:] for start in range(length))))
    return counts
