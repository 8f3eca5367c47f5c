"""UNIMO and UNIMO-2: one model that learns from texts, pictures and pairs, and serves understanding and generation."""

from __future__ import annotations

from unimo.version import __version__

__all__ = ["__version__", "load"]


def load(source, **options):
    """The model of a run, a checkpoint, a saved folder or a name on the hub: see `unimo.answer.Answerer`."""
    from unimo.answer import load as load_answerer  # torch takes seconds to import; `unimo --help` should not

    return load_answerer(source, **options)
