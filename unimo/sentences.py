"""Words and sentences of plain text, by rules."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SPACE = re.compile(r"\s+")
_STOP = re.compile(r"([.!?…])[\"'”’)\]]*$")
_OPENING = "\"'“‘(["
_CLOSING = "\"'”’)]"
_FINAL = frozenset(".!?…" + _CLOSING)
_ABBREVIATION = re.compile(
    r"mrs?|ms|[djs]r|prof|st|rev|hon|gen|col|capt|lt|sgt|gov|sen|rep|vs|etc|ca|cf|figs?|vol|pp|eds?|trans|approx|e\.g|i\.e|"
    r"u\.s|u\.k|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)
_WRAPPED = 90  # characters; a text whose lines nearly all end before has hard line breaks


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation. For languages that put spaces between words."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[tuple[int, int]]:
    """Stretches [first, last + 1) of characters that together are the whole text, cut before white space.

    Cut where a full stop, question or exclamation mark is followed by a capital or a figure, but not behind initials
    and common abbreviations of English; and at line ends, unless the text has hard line breaks: then at blank lines.
    """
    cuts = [0]
    paragraph = 2 if _hard_line_breaks(text) else 1
    for space in _SPACE.finditer(text):
        begin, end = space.span()
        inside = begin and end < len(text)
        if inside and (space.group().count("\n") >= paragraph or _ends_sentence(text, begin, end)):
            cuts.append(begin)
    return list(zip(cuts, [*cuts[1:], len(text)])) if text else []


def _hard_line_breaks(text: str) -> bool:
    lengths = sorted(len(line) for line in text.split("\n"))
    return len(lengths) >= 8 and lengths[len(lengths) * 9 // 10] <= _WRAPPED


def _ends_sentence(text: str, begin: int, end: int) -> bool:
    """Whether the white space [begin, end) parts two sentences."""
    if text[begin - 1] not in _FINAL:  # nearly always
        return False
    last = text[max(0, begin - 24) : begin].rsplit(None, 1)[-1]  # the word before, or its end
    stop = _STOP.search(last)
    following = text[end : end + 4].lstrip(_OPENING)[:1]
    if stop is None or not (following.isupper() or following.isdigit()):
        return False
    if stop.group(1) != ".":
        return True
    word = last.rstrip(_CLOSING).rstrip(".").lstrip(_OPENING)
    return not (_ABBREVIATION.fullmatch(word) or (len(word) == 1 and word.isupper()))
