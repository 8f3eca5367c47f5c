"""One server of a tiny random model for all tests of this room."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def pipeline():
    from planted import random_pipeline

    return random_pipeline(grounded_depth=2)


@pytest.fixture(scope="session")
def collection(pipeline, tmp_path_factory):
    """Eight pairs, indexed."""
    from corpora import files_in, pairs_of

    from unimo.retrieval import build_index
    from unimo.serve.collection import open_collection

    folder = tmp_path_factory.mktemp("collection")
    pairs = files_in(folder / "pairs", pairs_of(f"{i:03d}" for i in range(8)))
    out = build_index(pipeline, folder / "index", pairs=str(pairs), say=lambda line: None)
    return open_collection(out, pipeline, lambda line: None)


@pytest.fixture(scope="session")
def client(pipeline, collection):
    from serving import served

    with served(pipeline, collection) as client:
        yield client
