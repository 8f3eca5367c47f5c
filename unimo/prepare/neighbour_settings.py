"""The choices of `unimo prepare neighbours`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unimo.config import setting
from unimo.errors import UsageError


@dataclass(frozen=True)
class NeighbourSettings:
    images: int = setting(100, "related pictures kept of each pair")
    sentences: int = setting(100, "related sentences kept of each pair")
    weighting: Literal["bm25", "tfidf"] = setting("tfidf", "how shared words are weighed")
    overlap: Literal["jaccard", "tfidf"] = setting("jaccard", "how shared objects are weighed")
    pool: int = setting(1000, "nearest candidates that objects (pictures) or embeddings (sentences) choose from")
    fewest_words: int = setting(4, "sentences with fewer words are left out")
    most_words: int = setting(50, "sentences with more words are left out")
    least_sentence: float = setting(0.0, "a sentence must score more, in its last ranking")
    least_image: float = setting(0.0, "a picture must have a larger cosine")
    least_overlap: float = setting(0.0, "a picture must share more of its objects, where objects are known")
    approximate_above: int | None = setting(None, "pictures beyond which the search is approximate (extra `faiss`)")

    def __post_init__(self) -> None:
        for name in ("images", "sentences", "pool", "fewest_words"):
            if getattr(self, name) < 1:
                raise UsageError("too few", where=name, got=getattr(self, name), expected="at least 1")
