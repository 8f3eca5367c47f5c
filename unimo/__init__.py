"""UNIMO and UNIMO-2: one model that learns from texts, pictures and pairs, and serves understanding and generation."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path, **options):
    """The model of a run's folder or checkpoint, ready to answer: see `unimo.answer.Answerer`."""
    from unimo.answer import load as load_answerer  # torch takes seconds to import; `unimo --help` should not

    return load_answerer(path, **options)
