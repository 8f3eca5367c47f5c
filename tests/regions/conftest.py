"""Images and a generated world for all tests of regions."""

from __future__ import annotations

from pathlib import Path

import pytest
from region_files import two_shards

from unimo.synthetic.dataset import write_world


@pytest.fixture
def shards(tmp_path) -> Path:
    return two_shards(tmp_path / "shards")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    write_world(folder, pairs=30, images=12, texts=1, heldout=4, compositional=4, classes=64)
    return folder
