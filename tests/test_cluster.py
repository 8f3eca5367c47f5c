"""A cluster prepares what one process does, also where images are bad, runs stop and workers are lost."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from corpora import image, tar_of

from unimo import cluster
from unimo.cluster import Map, on_ray
from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.check import check
from unimo.errors import ResourceError, UsageError
from unimo.neighbours.prepare import NeighbourSettings, neighbours
from unimo.regions.grid import Grid, Pixels
from unimo.regions.prepare import prepare_regions
from unimo.rewriting.prepare import Counts, rewrites
from unimo.sidecar import BLOCK

FEW = NeighbourSettings(images=3, sentences=3)
CAPTIONS = ["a red ball on a table", "two dogs run on the green grass", "a man rides a brown horse", "!!!"]


def quiet(_: str) -> None:
    pass


def in_another_process(work, pieces):
    """As a worker would get it, without one."""
    return map(pickle.loads(pickle.dumps(work)), pieces)


@pytest.fixture(scope="module")
def on_two_workers() -> Iterator[Map]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip('no Ray: pip install "unimo[ray]"')
    with mock.patch.dict(os.environ):
        try:
            run = on_ray("local", num_cpus=2, object_store_memory=2**27)
        except ResourceError as error:
            if "timed out during startup" not in str(error):
                raise
            pytest.skip("Ray, which takes 30 seconds to start at most, did not beside other work")
        yield run
        run.ray.shutdown()


@pytest.fixture(params=["in another process", "on two workers of Ray"])
def run(request) -> Map:
    ray = "Ray" in request.param
    return request.getfixturevalue("on_two_workers") if ray else in_another_process


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two shards of pairs, the first of several blocks and with an image that cannot be decoded."""
    folder = tmp_path_factory.mktemp("data")
    for shard, count in (("a", BLOCK + 8), ("b", 6)):
        members = []
        for i in range(count):
            picture = image(i, size=(24, 16))
            members.append((f"{shard}{i:02d}.png", picture[:-30] if i == 4 else picture))
            members.append((f"{shard}{i:02d}.json", json.dumps({"captions": [CAPTIONS[i % 4]]}).encode()))
        tar_of(folder / f"{shard}.tar", members)
    tar_of(folder / "images" / "images.tar", [(f"{i}.png", image(100 + i, size=(24, 16))) for i in range(9)])
    (folder / "texts.jsonl").write_text(json.dumps({"text": "A red ball lies on a table. A man has two dogs."}) + "\n")
    return folder


def of_folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prepared(step: str, data: Path, out: Path, run: Map) -> tuple[dict[str, bytes], list[list[str]]]:
    """What a step leaves in `out`, and the bad samples it names."""
    bad = BadSamples(out.with_suffix(".jsonl"))
    pairs = [data / "a.tar", data / "b.tar"]
    reading = {"index_dir": out / "index", "verify": "header", "bad_samples": bad, "run": run, "say": quiet}
    if step == "index":
        check("pairs", pairs, max_bad_fraction=1.0, **{**reading, "verify": "decode"})
    elif step == "regions":
        prepare_regions("pairs", pairs, "grid", words=8, feature_size=16, out=out, **reading)
    elif step == "rewrites":
        rewrites(pairs, out=out, counts=Counts(0, 4, 5, 6), **reading)
    else:
        whole = {**reading, "verify": "decode", "max_bad_fraction": 1.0}
        neighbours(pairs, data / "images", data / "texts.jsonl", out, settings=FEW, **whole)
    named = [json.loads(line) for line in bad.path.read_text().splitlines()] if bad.path.is_file() else []
    return of_folder(out), [[line["shard"], line["key"], line["what"]] for line in named]


@pytest.mark.parametrize("step", ["index", "regions", "rewrites", "neighbours"])
def test_equal_to_one_process(step, run, data, tmp_path):
    here, there = (prepared(step, data, tmp_path / name, one) for name, one in (("here", map), ("there", run)))
    assert here == there
    assert here[0] and ("a04" in {key for _, key, _ in here[1]}) == (step != "rewrites") and here[1]


def test_goes_on_where_a_run_stopped(run, data, tmp_path):
    def stopping(work, pieces):
        done = in_another_process(work, pieces)
        yield next(done)
        raise KeyboardInterrupt

    def of_shard_a(out: Path, run: Map) -> list[dict]:
        options = {"words": 8, "index_dir": tmp_path / "index", "verify": "header", "say": quiet}
        return prepare_regions("pairs", data / "a.tar", "grid", out=out, run=run, **options)

    of_shard_a(tmp_path / "whole", map)
    with pytest.raises(KeyboardInterrupt):
        of_shard_a(tmp_path / "stopped", stopping)
    assert of_shard_a(tmp_path / "stopped", run)[0]["resumed"] == BLOCK
    assert of_folder(tmp_path / "stopped") == of_folder(tmp_path / "whole")


def test_a_lost_worker(on_two_workers, data, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "RETRIES", 1)

    class Deadly(Grid):
        """A grid whose process ends at one image, as one that is out of memory does, while the file `at` is there."""

        def __init__(self, at: Path, once: bool):
            super().__init__(Pixels(), words=8)
            self.at, self.once = at, once

        def regions(self, image):
            if image.key == "a70" and self.at.exists():
                if self.once:
                    self.at.unlink()
                os._exit(1)
            return super().regions(image)

    options = {"index_dir": tmp_path / "index", "verify": "header", "say": quiet}

    def of_shard_a(name: str, run: Map, once: bool) -> list[dict]:
        deadly = Deadly(tmp_path / "deadly", once)
        return prepare_regions("pairs", data / "a.tar", deadly, out=tmp_path / name, run=run, **options)

    of_shard_a("whole", map, False)
    (tmp_path / "deadly").touch()
    assert of_shard_a("retried", on_two_workers, True)[0]["built"]
    (tmp_path / "deadly").touch()
    with pytest.raises(ResourceError, match=r"workers .* lost .*a\.tar, key a64, .*and 7 images behind it"):
        of_shard_a("lost", on_two_workers, False)
    (tmp_path / "deadly").unlink()
    assert of_shard_a("lost", map, False)[0]["resumed"] == BLOCK
    assert of_folder(tmp_path / "whole") == of_folder(tmp_path / "retried") == of_folder(tmp_path / "lost")


def test_errors_of_workers_are_those_of_one_process(on_two_workers):
    def refuse(piece: int) -> int:
        raise UsageError("no such piece", got=piece)

    with pytest.raises(UsageError, match=r"^no such piece \| got: 3$"):
        list(on_two_workers(refuse, [3]))
    with pytest.raises(UsageError, match="cannot be sent to workers"):
        list(on_two_workers(partial(print, threading.Lock()), [1]))


def listening(process: int) -> set[str]:
    """Addresses, in hexadecimal, at which a process and those below it listen."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    sockets = {row[9]: row[1] for table in tables for row in map(str.split, table) if row[3] == "0A"}
    children = [int(n) for one in Path(f"/proc/{process}/task").glob("*/children") for n in one.read_text().split()]
    own = {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir() if file.is_symlink()}
    found = {address.split(":")[0] for inode, address in sockets.items() if f"socket:[{inode}]" in own}
    return found.union(*map(listening, children))


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="no /proc that lists sockets")
def test_nobody_else_can_connect(on_two_workers):
    found = listening(os.getpid())
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert found and found <= loopback


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with mock.patch.dict(os.environ), pytest.raises(UsageError, match=r'pip install "unimo\[ray\]"'):
        on_ray("auto")
    assert list(on_ray(None)(abs, [-1, 2])) == [1, 2]
