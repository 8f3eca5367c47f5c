"""A sample, and what the loader needs of a corpus and of what was prepared beside it, as protocols.

The stores behind the protocols are `unimo.corpus`, `unimo.regions`, `unimo.rewriting` and `unimo.neighbours`. They
import this room; nothing here imports them, so a loader can be fed from anywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from unimo.data.regions import ImageRegions


@dataclass(frozen=True)
class Sample:
    """What a source holds under one key, still undecoded.

    image is the encoded file (JPEG, PNG, WebP, GIF or BMP) or None; texts are a document or the captions;
    meta is the sample's JSON object, empty where there is none.
    """

    key: str
    image: bytes | None = None
    texts: tuple[str, ...] = ()
    meta: dict = field(default_factory=dict)


class Indexed(Protocol):
    """n documents, images or pairs, read by position (`unimo.corpus.corpus.Corpus`)."""

    caption_offsets: np.ndarray | None  # pairs: (n + 1,), captions of item i are [o[i], o[i + 1])
    token_counts: np.ndarray  # of documents, or of all captions
    validation: np.ndarray  # (n,) bool, items of the data's own validation split, which is not trained on

    @property
    def keys(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def tokens(self, i: int, j: int = 0) -> np.ndarray:
        """Ids of document i, or of caption j of pair i; no special ids."""
        ...

    def image_bytes(self, i: int) -> bytes: ...


class Regions(Protocol):
    """Regions of a corpus' images (`unimo.regions.store.RegionStore`)."""

    lengths: np.ndarray  # (n,), 0 where there are none

    def has(self, i: int) -> bool: ...

    def image(self, i: int) -> ImageRegions: ...


NodeKind = Literal["object", "attribute", "relation"]
NODE_KINDS: tuple[NodeKind, ...] = ("object", "attribute", "relation")


# Strata of rewritten captions (`unimo.rewriting.store.stratum`): in the first all things and their looks remain, and
# who is where does not; in the second so do all words, but for a relation.
RELATIONS = ("relation", "relation exchange", "object exchange")
BINDING = (*RELATIONS, "attribute exchange")


class Nodes(NamedTuple):
    """(k,) each, of words by which nodes of a caption's scene graph differ from what a rewrite puts in their place:
    "top" of "in the top left corner", "left" of "left of".

    places: among the caption's token ids, ascending. instead: an id that the rewrite has there, -1 where it has another
    number of tokens. kinds: index into NODE_KINDS. numbers: equal for the words of one node.
    """

    places: np.ndarray
    instead: np.ndarray
    kinds: np.ndarray
    numbers: np.ndarray

    def at(self, chosen: np.ndarray) -> Nodes:
        return Nodes(*(column[chosen] for column in self))


NO_NODES = Nodes(*np.zeros((4, 0), np.int64))


class Rewrites(Protocol):
    """Rewritten captions of a corpus of pairs (`unimo.rewriting.store.Rewrites`)."""

    def sample(
        self, i: int, j: int, rng: np.random.Generator, *, positives: int, negatives: int, only: Collection[str] = ()
    ) -> tuple[list[np.ndarray], list[np.ndarray]]: ...

    def nodes(self, i: int, j: int) -> Nodes: ...


class Neighbours(Protocol):
    """Related images and sentences of a corpus of pairs (`unimo.neighbours.store.Neighbours`)."""

    def images(self, item: int) -> np.ndarray: ...

    def sentences(self, item: int) -> np.ndarray: ...

    def tokens(self, sentence: int) -> np.ndarray: ...
