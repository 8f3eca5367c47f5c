"""Word stems, from nltk: the one optional library of the metrics.

rouge-score stems with `nltk.stem.PorterStemmer` in its default mode, which departs from Porter's paper in a dozen words
("dying" -> "die"); another library's Porter stemmer would not give its numbers. METEOR stems with Snowball's English
stemmer, which nltk has too. Only code of nltk is used, none of its downloads.

Sources: Porter, "An algorithm for suffix stripping", Program 14, 1980; snowballstem.org/algorithms/english.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

from unimo.errors import UsageError

__all__ = ["porter", "snowball"]

Stemmer = Callable[[str], str]  # word -> stem, lower case


@cache
def porter() -> Stemmer:
    """ROUGE's stemmer; the last 100,000 distinct words are remembered. UsageError without nltk."""
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError as fault:
        raise _missing(fault) from fault
    return lru_cache(maxsize=100_000)(PorterStemmer().stem)


@cache
def snowball() -> Stemmer:
    """METEOR's stemmer, in the same way."""
    try:
        from nltk.stem.snowball import EnglishStemmer
    except ImportError as fault:
        raise _missing(fault) from fault
    return lru_cache(maxsize=100_000)(EnglishStemmer().stem)


def _missing(fault: ImportError) -> UsageError:
    return UsageError("word stems need nltk", got=fault, do="pip install nltk, or leave stemming out (stem=False)")
