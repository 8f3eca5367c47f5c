"""`scenes` with rewritten captions: made for its own world, done without on data of the user's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_run import log_of, quiet, write_tiny_world
from tiny_task import SIZES

from unimo import recipes
from unimo.config import override
from unimo.errors import UsageError
from unimo.train import loop as T
from unimo.train.settings import Data, check, needing_rewrites

WANTED = ["objectives.cmcl.negatives=2", "objectives.mlm.nodes=0.5", "objectives.mlm.relations=0.3"]
SMALL = [f"model.{name}={value}" for name, value in SIZES.items() if not name.startswith(("region_", "depth"))]
SMALL += ["steps=2", "minutes=none", "batch.pairs=4", "batch.images=2", "batch.text_tokens=64", "precision=fp32"]
SMALL += ["batch.passage_length=32", "log=none"]


def wanted(*changes: str):
    return override(recipes.find("scenes"), [*WANTED, *SMALL, *changes])


def test_its_world_is_rewritten_and_read(tmp_path, monkeypatch):
    counts = {"pairs": 24, "images": 12, "texts": 20, "heldout": 2, "compositional": 2, "classes": 2, "size": 32}
    monkeypatch.setitem(recipes.WORLDS, "scenes", ("scenes", counts))
    monkeypatch.setattr(T, "matmul_rate", lambda *_: 1e9)
    run = recipes.with_world("scenes", wanted(), tmp_path / "run", quiet)
    assert run.data.rewrites and run == recipes.with_world("scenes", wanted(), tmp_path / "run", quiet)
    T.train(run, tmp_path / "run", say=quiet)
    for record in log_of(tmp_path / "run"):
        assert record["loss"] < 100 and 0 <= record["cmcl.rewritten.accuracy"] <= 1
    bare = override(run, [f"{name}=0" for name in needing_rewrites(run)])
    bare = replace(bare, data=replace(bare.data, rewrites=None))
    assert recipes.with_world("scenes", bare, tmp_path / "other", quiet) == bare  # its data are named


def test_on_other_data_without_any_it_says_so_and_does_without(tmp_path):
    world, said = write_tiny_world(tmp_path / "mine"), []
    own = replace(wanted(), data=Data(pairs=(str(world / "pairs"),)))
    run = recipes.with_world("scenes", own, tmp_path / "run", said.append)
    assert not needing_rewrites(run) and "objectives.cmcl.negatives" in said[0]
    check(run, 1)
    named = replace(own, data=replace(own.data, rewrites="rewrites"))
    assert recipes.with_world("scenes", named, tmp_path / "run", said.append) == named
    with pytest.raises(UsageError, match="rewritten captions") as caught:
        check(own, 1)
    assert all(name.partition("=")[0] in caught.value.where for name in WANTED)
