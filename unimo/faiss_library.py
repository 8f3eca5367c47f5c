"""The optional library of approximate search, for what prepares neighbours and what searches an index."""

from __future__ import annotations

from typing import Any

from unimo.errors import UsageError


def load_faiss(asked: str) -> Any:
    """The module, imported when first needed. asked: the setting or option that wants it, named where it is missing."""
    try:
        import faiss
    except ImportError:
        raise UsageError(
            "approximate search needs faiss",
            where=asked,
            do="pip install 'unimo[faiss]', or leave this setting away: the search is then exact",
        ) from None
    return faiss
