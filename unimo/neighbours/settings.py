"""The choices of `unimo prepare neighbours`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unimo.config import Contradiction, setting


@dataclass(frozen=True)
class NeighbourSettings:
    images: int = setting(100, "related images kept of each pair", at_least=1)
    sentences: int = setting(100, "related sentences kept of each pair", at_least=1)
    pool: int = setting(
        1000, "nearest candidates that objects (images) or embeddings (sentences) choose from", at_least=1
    )
    min_words: int = setting(4, "sentences with fewer words are left out", at_least=1)
    max_words: int = setting(50, "sentences with more words are left out", at_least=1)
    min_sentence_score: float = setting(0.0, "a sentence must score more, in its last ranking")
    min_image_score: float = setting(0.0, "an image must have a larger cosine")
    min_overlap: float = setting(0.0, "an image must share more of its objects, where objects are known")

    def contradictions(self) -> Iterator[Contradiction]:
        if self.max_words < self.min_words:
            got = f"{self.min_words} to {self.max_words} words"
            yield Contradiction("no sentence is so long", ("min_words", "max_words"), got=got)
