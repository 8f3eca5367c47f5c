"""A search index of texts and images: encoded once, found again by a text, an image, or both.

passages.py    long documents as stretches that fit the model
store.py       the folder: a LanceDB table of rows, and what it was made from
build.py       `unimo index`
index.py       `unimo search`, `unimo.open_index`
hits.py        what was found, and how it is shown
"""

from __future__ import annotations

from unimo.retrieval.build import build_index
from unimo.retrieval.hits import Hit
from unimo.retrieval.index import Index, RerankBy, open_index

__all__ = ["Hit", "Index", "RerankBy", "build_index", "open_index"]
