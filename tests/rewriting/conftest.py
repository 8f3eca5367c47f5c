"""Rewrites of a small generated world, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from rewrite_files import FEW, PAIRS, quiet

from unimo.corpus.corpus import Corpus, open_corpus
from unimo.rewriting.prepare import rewrites
from unimo.rewriting.store import Rewrites
from unimo.synthetic.dataset import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    write_world(folder, pairs=PAIRS, images=0, texts=0, heldout=0, compositional=0, classes=0, size=32)
    return folder / "pairs"


@pytest.fixture(scope="module")
def corpus(world) -> Corpus:
    return open_corpus("pairs", world)


@pytest.fixture(scope="module")
def out(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    rewrites(world, out=folder, counts=FEW, say=quiet)
    return folder


@pytest.fixture(scope="module")
def reader(corpus, out) -> Rewrites:
    return Rewrites.open(out, corpus)
