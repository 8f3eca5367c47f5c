"""An index of texts and images, encoded once, and found again by a text, an image, or both.

passages     long documents as stretches that fit the model
files        the folder: parts, manifest, what is checked before anything is believed
build        `unimo index`
approximate  search that looks at some of the rows only (extra `faiss`)
index        `unimo search`, `unimo.open_index`
"""

from __future__ import annotations

from unimo.retrieval.build import build_index
from unimo.retrieval.index import Hit, Index, open_index

__all__ = ["Hit", "Index", "build_index", "open_index"]
