"""A search index of texts and images: encoded once, found again by a text, an image, or both.

passages    long documents as stretches that fit the model
store       the folder: a LanceDB table of rows, and what it was made from
build       `unimo index`
index       `unimo search`, `unimo.open_index`
"""

from __future__ import annotations

from unimo.retrieval.build import build_index
from unimo.retrieval.index import Hit, Index, open_index

__all__ = ["Hit", "Index", "build_index", "open_index"]
