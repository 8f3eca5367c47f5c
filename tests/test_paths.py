"""What is said of a path that is not there."""

from __future__ import annotations

import pytest

from unimo.errors import UsageError
from unimo.paths import missing_hint, user_path

FILES = ["wikipedia/train.jsonl.gz", "wikipedia/train.jsonl.gz.texts.index.safetensors", "wikipedia/dev.jsonl.gz"]
FILES += [f"flickr8k/train-0000{i}.tar" for i in range(3)] + ["flickr8k/dev-00000.tar", "Photos/a.jpg", "notes.txt"]


@pytest.mark.parametrize(
    ("given", "meant"),
    {
        "wikipedia/train": "wikipedia/train.jsonl.gz",
        "wikipedia/trian": "wikipedia/train.jsonl.gz",
        "wikipedia/dev.json": "wikipedia/dev.jsonl.gz",
        "wikpedia/dev.jsonl.gz": "wikipedia/dev.jsonl.gz",
        "wikpedia/more.jsonl": "wikipedia",
        "flickr8k/train": "flickr8k/train*.tar",
        "flickr8k/dev": "flickr8k/dev-00000.tar",
        "photos": "Photos",
        "notes.tx": "notes.txt",
    }.items(),
)
def test_the_name_that_was_meant(given, meant, tmp_path):
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert missing_hint(tmp_path / given) == f"did you mean {tmp_path / meant}?"


def test_nothing_like_it(tmp_path):
    (tmp_path / "images").mkdir()
    assert missing_hint(tmp_path / "zzz") == "correct the path"
    assert missing_hint(tmp_path / "zzz" / "a.csv") == f"there is no folder {tmp_path / 'zzz'} either; correct the path"
    assert "pattern" in missing_hint(tmp_path / "*.tar")


@pytest.mark.parametrize("given", [None, 5, b"runs/mine", ["runs/mine"]])
def test_what_is_no_path_is_said_so(given):
    with pytest.raises(UsageError, match="not a path"):
        user_path(given)
