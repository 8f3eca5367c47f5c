"""Shards behind an address: the samples, order and runs of local ones; breaks, changes and secrets."""

from __future__ import annotations

import gzip
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest
from corpora import Letters, files_in, image, images_of, jsonl, opened, pair, tar_of, texts_of
from tiny_run import bits_of, quiet, stream_of, tiny, train_until_done, write_tiny_world
from tiny_unimo2 import lively_model

from unimo.batch import sent
from unimo.corpus import remote
from unimo.corpus.check import check
from unimo.corpus.corpus import open_corpus
from unimo.data.workers import batches
from unimo.errors import DataError, UsageError
from unimo.file_access import Unread
from unimo.inference import Pipeline
from unimo.objectives import objective as objectives
from unimo.retrieval import build_index, open_index
from unimo.tokenizer import Tokenizer
from unimo.train.loop import train

fsspec = pytest.importorskip("fsspec", reason="addresses need fsspec (the extra remote)")
FORMS = {"pairs": ".tar", "images": ".tar", "texts": ".jsonl"}  # of the generated world
BRACES = "/train-{000..002}.tar"


@pytest.fixture(autouse=True)
def at_once(tmp_path, monkeypatch):
    """Indexes lie in a folder of the test, pieces are small, and nobody waits between requests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(remote, "PIECE", 1000)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for n in range(3):
        tar_of(folder / f"train-{n:03d}.tar", [member for i in range(n * 10, n * 10 + 4) for member in pair(i)])
    return folder


def in_memory(folder: Path) -> str:
    """The files of a folder, in fsspec's store of this process."""
    store = fsspec.filesystem("memory")
    for path in (path for path in folder.rglob("*") if path.is_file()):
        store.pipe(str(path), path.read_bytes())
    return f"memory:/{folder}"


def assert_same(there, here):
    assert list(there.keys) == list(here.keys) and there.fingerprint == here.fingerprint
    assert texts_of(there) == texts_of(here) and images_of(there) == images_of(here)
    assert [there.meta(i) for i in range(len(there))] == [here.meta(i) for i in range(len(here))]


# ---- a server


class Server(ThreadingHTTPServer):
    """Serves a folder's files by range. breaks: after how many bytes the next answers end; lie: they say so.

    ranges: what is done about a range. asked: the ranges; tag: of every file."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.breaks, self.lie, self.ranges, self.tag = folder, list[int](), False, "bytes", "one"
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = self.server.folder / self.path[1:].partition("?")[0]
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", f"/forbidden/x.tar?X-Signature={SECRET}")
            self.end_headers()
        elif self.path.startswith("/forbidden/"):
            self.send_error(403)
        elif path.is_dir():
            page = "".join(f'<a href="{each.name}">x</a>' for each in path.iterdir()).encode()
            self.send(200, page, {"Content-Type": "text/html"})
        elif not path.is_file():
            self.send_error(404)
        else:
            self.file(path.read_bytes(), self.headers["Range"])

    def file(self, data: bytes, asked: str | None):
        headers = {"ETag": f'"{self.server.tag}"', "Accept-Ranges": self.server.ranges}
        if asked is None or self.server.ranges != "bytes":
            self.send(200, data, headers)
            return
        self.server.asked.append(asked)
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        self.send(206, data[first : last + 1], headers)

    def send(self, status: int, data: bytes, headers: dict[str, str]):
        most = self.server.breaks.pop(0) if self.server.breaks and status == 206 else len(data)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(most if self.server.lie else len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:most])

    def log_message(self, *_):
        pass


SECRET = "wJalrXUtnFEMI"


@pytest.fixture
def server(shards):
    pytest.importorskip("aiohttp", reason='http needs aiohttp: pip install "unimo[remote]"')
    found = Server(shards)
    yield found
    found.shutdown()
    found.server_close()


def served(folder: Path) -> str:
    pytest.importorskip("aiohttp", reason='http needs aiohttp: pip install "unimo[remote]"')
    return Server(folder).address


# ---- the same as on this machine


@pytest.mark.parametrize("pattern", [BRACES, "/*.tar", "/{train-002,train-000,train-001}.tar"])
def test_remote_shards_are_local_ones_and_indexed_once(shards, pattern, tmp_path):
    here, _ = opened("pairs", shards, index_dir=tmp_path)
    there, _ = opened("pairs", in_memory(shards) + pattern)
    assert_same(there, here)
    rows: list[dict] = []
    address = in_memory(shards)
    for again in (BRACES, pattern):
        opened("pairs", address + again, on_shard=rows.append)
    assert [row["built"] for row in rows] == [True] * 3 + [False] * 3  # written anew, then as it was
    assert {row["bytes"] for row in rows} == {path.stat().st_size for path in shards.glob("*.tar")}


def test_over_http_too_piece_by_piece_and_then_an_image_a_request(server, shards, tmp_path):
    here, _ = opened("pairs", shards, index_dir=tmp_path)
    for pattern in (BRACES, "/*.tar"):
        assert_same(opened("pairs", server.address + pattern)[0], here)
    server.asked.clear()
    there, _ = opened("images", server.address + BRACES)
    assert len(server.asked) == sum(-(-path.stat().st_size // remote.PIECE) for path in shards.glob("*.tar"))
    server.asked.clear()
    offset, length = there._image_at[5]
    assert there.image_bytes(5) == here.image_bytes(5) and server.asked == [f"bytes={offset}-{offset + length - 1}"]
    rows: list[dict] = []
    for server.tag in ("one", "two"):
        opened("images", server.address + BRACES, on_shard=rows.append)
    assert [row["built"] for row in rows] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "b.tsv.gz", "a.ndjson"])
def test_texts_are_read_from_tables_of_lines(name, tmp_path):
    between = "," if ".csv" in name else "\t"
    table = "".join(f"{i}{between}{text}\n" for i, text in (("n", "text"), (1, "one"), (2, "two"))).encode()
    data = jsonl([{"text": "one", "n": 1}, {"text": "two"}]) if "json" in name else table
    files_in(tmp_path / "texts", {name: gzip.compress(data) if name.endswith("gz") else data})
    here, _ = opened("texts", tmp_path / "texts" / name)
    there, _ = opened("texts", f"{in_memory(tmp_path / 'texts')}/{name}")
    assert there.fingerprint == here.fingerprint and texts_of(there) == texts_of(here) == ["one", "two"]
    assert there.meta(0) == here.meta(0) and there.formats() == here.formats()


def worlds(tmp_path, store):
    """The tiny run of a folder, and of the same files behind addresses. store: what makes an address of the folder."""
    world = write_tiny_world(tmp_path / "world")
    address = store(world)
    given = [f"data.{kind}={address}/{kind}/*{form}" for kind, form in FORMS.items()]
    there = tiny(world, "data.val_fraction=0.2", *given)
    return tiny(world, "data.val_fraction=0.2"), there


def bytes_of(batch) -> list[bytes]:
    found: list[bytes] = []
    sent(batch, lambda tensor: found.append(tensor.numpy().tobytes()) or tensor)
    return found


@pytest.mark.parametrize("store", [in_memory, served])
def test_batches_of_workers_are_those_of_local_shards(tmp_path, store):
    here, there = (stream_of(run, tmp_path / str(i)) for i, run in enumerate(worlds(tmp_path, store)))
    for plain, forked in zip(map(here.batch, range(4)), batches(there, 0, 4, workers=2)):
        assert bytes_of(plain) == bytes_of(forked) and plain.keys == forked.keys


def test_a_run_on_remote_shards_stopped_and_resumed_is_the_local_one(tmp_path, monkeypatch):
    here, there = worlds(tmp_path, in_memory)
    last = train(here, tmp_path / "here", say=quiet)
    real, stops = objectives.step, [1, 3]

    def told(model, batch, active):
        if stops and batch.step == stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(model, batch, active)

    monkeypatch.setattr(objectives, "step", told)
    assert bits_of(train_until_done(there, tmp_path / "there")) == bits_of(last) and not stops


def test_data_check_guesses_and_names_the_command(shards):
    lines: list[str] = []
    rows = check(None, in_memory(shards) + BRACES, tokenizer=Letters(), say=lines.append)
    assert len(rows) == 3 and lines[-1] == f"train on it: unimo pretrain photos --pairs '{in_memory(shards)}{BRACES}'"


def test_an_index_of_remote_images_is_searched_and_re_ranked_like_a_local_one(shards, tmp_path):
    pytest.importorskip("lancedb", reason="a search index needs lancedb (the extra index)")
    pipeline = Pipeline(lively_model(vocabulary=Tokenizer.vocab_size), precision="fp32")
    found = []
    for name, given in (("here", shards), ("there", in_memory(shards) + BRACES)):
        index = open_index(build_index(pipeline, tmp_path / name, pairs=given, say=str), model=pipeline)
        hits = index.search("caption", only="images", top_k=6, rerank=6)
        found.append([(hit.key, hit.score, Path(hit.path).name) for hit in hits])
    assert found[0] == found[1] and len(found[0]) == 6


# ---- what goes wrong


def test_broken_and_short_answers_are_asked_for_again(server, shards, tmp_path):
    here, _ = opened("pairs", shards, index_dir=tmp_path)
    server.breaks = [10, 0, 1000, 999, 3]
    assert_same(opened("pairs", server.address + BRACES)[0], here)
    there, _ = opened("pairs", server.address + BRACES)
    for server.lie in (True, False):
        server.breaks = [7, 7]
        assert there.image_bytes(2) == here.image_bytes(2) and not server.breaks
        server.breaks = [7] * 3
        with pytest.raises(Unread, match=rf"{server.address}/train-000\.tar, key 002") as caught:
            there.image_bytes(2)
        assert not server.breaks and caught.value.got.startswith("7 of") == server.lie


def test_a_server_that_sends_the_whole_instead_of_a_part_is_refused(server):
    server.ranges = "none"
    with pytest.raises(Unread, match="parts of a file"):
        opened("pairs", server.address + BRACES)
    server.ranges = "unknown"
    with pytest.raises(Unread, match=r"parts of a file.*train-000\.tar.*whole"):
        opened("pairs", server.address + BRACES)


def test_a_changed_shard_is_indexed_anew_and_never_taken_for_the_old(tmp_path, monkeypatch):
    path = tar_of(tmp_path / "s/a.tar", [member for i in range(3) for member in pair(i)])
    address = in_memory(path.parent) + "/a.tar"
    before, _ = opened("pairs", address)
    tar_of(path, [("000.png", image(7)), *pair(0)[1:], *pair(1), *pair(2)])
    after, _ = opened("pairs", in_memory(path.parent) + "/a.tar")
    assert after.fingerprint != before.fingerprint and after.image_bytes(0) == image(7)
    with pytest.raises(DataError, match=r"sample changed since it was indexed.*memory://.*a\.tar, key 000"):
        before.image_bytes(0)
    real = remote.Remote.read_range

    def changing(self, offset, length):
        if offset == 1000:
            in_memory(path.parent)
        return real(self, offset, length)

    monkeypatch.setattr(remote.Remote, "read_range", changing)
    with pytest.raises(DataError, match="changed while it was being indexed"):
        open_corpus("pairs", address, tokenizer=Letters(), index_dir=tmp_path / "other")


def test_missing_shards_and_other_files_are_named(shards):
    address = in_memory(shards)
    for name, said in {
        "/train-{002..007}.tar": r"missing.*train-003\.tar.*train-005\.tar and 2 more",
        "/train-*.parquet": r"no pairs found.*nothing matches.*WebDataset \.tar",
        "/": r"not a file.*a folder.*/\*\.tar",
    }.items():
        with pytest.raises(DataError, match=said):
            opened("pairs", address + name)
    with pytest.raises(DataError, match=r"no texts found.*train-000\.tar.*\.jsonl"):
        opened("texts", address + BRACES)


def test_a_refused_request_is_not_repeated_and_shows_no_signature(server):
    with pytest.raises(Unread) as caught:
        opened("pairs", server.address + "/moved/x.tar")
    assert "403" in caught.value.got and SECRET not in str(caught.value)
    with pytest.raises(Unread, match="file is missing"):
        opened("pairs", server.address + "/nothing.tar")


@pytest.mark.parametrize(
    "address",
    [
        f"https://me:{SECRET}@host/a.tar",
        f"https://{SECRET}@host/a.tar",
        f"s3://key:{SECRET}/x+y@bucket/a.tar",
        f"https://host/a.tar?X-Amz-Signature={SECRET}",
        f"az://container/a.tar?sig={SECRET}",
        f"ftp://me:{SECRET}@host/a.tar",
        "s3://bucket/a.zip::zip://b.tar",
        "memory://a//b.tar",
        "reference://x.tar",
        "sftp://host/a.tar",
        "file:///etc/passwd",
    ],
)
def test_secrets_and_other_ways_are_refused_before_anything_is_asked(address, monkeypatch):
    monkeypatch.setattr(remote, "_store", None)
    with pytest.raises(UsageError) as caught:
        open_corpus("pairs", [address], tokenizer=Letters())
    assert SECRET not in str(caught.value) and caught.value.do


def test_a_port_or_a_revision_is_no_secret():
    for address in ("http://host:80/a@b.tar", "hf://datasets/me/mine@main/a.tar", "abfs://c@account.host/a.tar"):
        remote._refuse_secrets(address)
        assert str(remote.Remote(address)) == address


def test_a_store_that_lacks_its_settings_says_which(monkeypatch):
    monkeypatch.setattr(fsspec.core, "url_to_fs", Mock(side_effect=ValueError("Must provide account_name")))
    with pytest.raises(Unread, match=r"az://c/a\.tar.*account_name"):
        opened("pairs", "az://c/a.tar")


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UsageError, match="pip install s3fs"):
        opened("pairs", "s3://bucket/a.tar")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UsageError, match=r'pip install "unimo\[remote\]"'):
        opened("pairs", "memory://a.tar")
