"""UNIMO and UNIMO-2: one model that learns from texts, images and pairs, and serves understanding and generation."""

from __future__ import annotations

from unimo.version import __version__

__all__ = ["__version__", "load", "open_index"]


def load(source, **options):
    """The model of a run, a checkpoint, a saved folder or a name on the hub: see `unimo.inference.Pipeline`."""
    from unimo.inference import load as load_pipeline  # torch takes seconds to import; `unimo --help` should not

    return load_pipeline(source, **options)


def open_index(folder, **options):
    """An index that `unimo index` wrote, ready to be searched: see `unimo.retrieval.index.open_index`."""
    from unimo.retrieval import open_index as open_retrieval_index

    return open_retrieval_index(folder, **options)
