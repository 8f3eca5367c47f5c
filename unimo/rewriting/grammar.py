"""What rewriting knows of English before any caption is read: function words, and which word class follows which."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

import numpy as np

Span = tuple[int, int]  # [begin, end) in characters of the caption

TAGS = "ADMJNLVBGXPRCOW."
_WORD = re.compile(r"[^\W_]+(?:['’\-/][^\W_]+)*|'s\b|[^\w\s]")
_NEGLIGIBLE = 0.01  # weight of a succession the grammar does not name


class Token(NamedTuple):
    text: str  # lower case; several words where they act as one: "in front of"
    span: Span


@dataclass(frozen=True)
class Grammar:
    """What is known before any caption is read: see assets/caption_grammar.txt."""

    tags: dict[str, str]  # word -> the tags it may have
    follow: np.ndarray  # (K + 1, K + 1) probabilities; the last row is the beginning, the last column the end
    plurals: frozenset[str]
    adjectives: dict[str, str]  # word -> group
    alike: tuple[frozenset[str], ...]
    opposites: dict[str, tuple[str, ...]]
    one_way: frozenset[str]  # relations of "A r B" and "B r A" of which at most one is true
    vague: frozenset[str]
    general: dict[str, frozenset[str]]  # object -> more general and more special words: may be true of the same
    phrases: dict[str, list[tuple[str, ...]]]  # first word -> the expressions it begins, longest first


@functools.cache
def grammar() -> Grammar:
    """The shipped grammar, read once per process."""
    sections: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in (resources.files("unimo") / "assets" / "caption_grammar.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            name = line.strip("[]")
        elif line and not line.startswith("#"):
            sections[name].append(line)
    tags: dict[str, str] = {}
    for tag, words in _rows(sections["tags"]):
        for word in words:
            tags[word] = tags.get(word, "") + tag * (tag not in tags.get(word, ""))
    groups = _rows(sections["adjectives"])
    adjectives = {word: group for group, words in reversed(groups) for word in words}
    opposites = {word.replace("_", " "): tuple(others) for word, others in _rows(sections["opposites"])}
    follow = np.full((len(TAGS) + 1, len(TAGS) + 1), _NEGLIGIBLE)
    states = TAGS + "^"
    for line in sections["follow"]:
        tag, _, listed = line.partition(": ")
        pairs = listed.split()
        for other, weight in zip(pairs[::2], pairs[1::2]):
            follow[states.index(tag), (TAGS + "$").index(other)] = float(weight)
    general: dict[str, frozenset[str]] = defaultdict(frozenset)
    for line in sections["general"]:
        names, things = (frozenset(part.split()) for part in line.split(": "))
        for thing in things:
            general[thing] |= names
        for name in names:  # "a person" may well be a girl
            general[name] |= things | names
    phrases: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for expression in sorted({*tags, *opposites}, key=len, reverse=True):
        parts = tuple(expression.split())
        if len(parts) > 1:
            phrases[parts[0]].append(parts)
    return Grammar(
        tags=tags,
        follow=follow / follow.sum(axis=1, keepdims=True),
        plurals=frozenset(word for line in sections["plurals"] for word in line.split()),
        adjectives=adjectives,
        alike=tuple(frozenset(line.split()) for line in sections["alike"]),
        opposites=opposites,
        one_way=frozenset(word.replace("_", " ") for line in sections["one_way"] for word in line.split()),
        vague=frozenset(word for line in sections["vague"] for word in line.split()),
        general=dict(general),
        phrases=dict(phrases),
    )


def _rows(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
    split = (line.partition(": ") for line in lines)
    return [(name, [word.replace("_", " ") for word in words.split()]) for name, _, words in split]


def tokens(caption: str) -> list[Token]:
    """Words, marks of punctuation, and the expressions that act as one word."""
    known = grammar().phrases
    words = [Token(match.group().lower().replace("’", "'"), match.span()) for match in _WORD.finditer(caption)]
    found: list[Token] = []
    i = 0
    while i < len(words):
        size = 1
        for expression in known.get(words[i].text, ()):
            if expression == tuple(word.text for word in words[i : i + len(expression)]):
                size = len(expression)
                break
        text = " ".join(word.text for word in words[i : i + size])
        found.append(Token(text, (words[i].span[0], words[i + size - 1].span[1])))
        i += size
    return found


def is_plural(word: str) -> bool:
    """Whether a noun is plural by its shape."""
    return word in grammar().plurals or (word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")))


def stem(word: str) -> str:
    """A word without its ending, the same for "dog" and "dogs", "run", "runs" and "running". Rough: only for telling
    that two words may be one."""
    irregular = {"men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot"}
    word = irregular.get(word, word)
    for ending, min_length in (
        ("ies", 3),
        ("ing", 5),
        ("ied", 4),
        ("ers", 6),
        ("er", 5),
        ("es", 4),
        ("ed", 4),
        ("s", 3),
    ):
        if word.endswith(ending) and len(word) > min_length and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]  # running -> runn -> run
    return word[:-1] if len(word) > 3 and word[-1] in "eiy" else word


def possible_tags(word: str) -> dict[str, float]:
    """The tags a word may have by its shape, with weights."""
    known = grammar()
    if word in known.tags:
        return dict.fromkeys(known.tags[word], 1.0)
    if not word[0].isalnum():
        return {".": 1.0}
    if word in known.adjectives:
        return {"J": 0.9, "N": 0.1}
    if word[0].isdigit():
        return {"M": 0.5, "N": 0.3, "J": 0.2}
    if word.endswith("ing") and len(word) > 4:
        return {"G": 0.7, "J": 0.12, "N": 0.18}
    if word.endswith("ly") and len(word) > 4:
        return {"R": 0.8, "J": 0.1, "N": 0.1}
    if word.endswith("ed") and len(word) > 3:
        return {"G": 0.55, "J": 0.4, "N": 0.05}
    if is_plural(word):
        return {"L": 0.6, "V": 0.38, "N": 0.02}
    if word.endswith(("ful", "ous", "ish", "less", "able", "y")) and len(word) > 4:
        return {"N": 0.5, "J": 0.45, "B": 0.05}
    return {"N": 0.6, "J": 0.2, "B": 0.17, "R": 0.03}
