"""Published weights by name: archives in the published format from a loopback server that breaks off and is gone."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import socket
import sys
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import unimo
from unimo import cli
from unimo.errors import ResourceError, UsageError, WeightsError
from unimo.weights import archives, published
from unimo.weights.convert import convert_published


class Server(ThreadingHTTPServer):
    """Serves `content`; every answer ends after `breaks.pop(0)` bytes, while there are any. asked: Range of each."""

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.asked, self.tag = content, list[int](), list[str | None](), '"one"'
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/model/unimo_base_en.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        if not self.path.startswith("/model/unimo"):
            self.send_error(404)
            return
        whole = asked is None or self.headers["If-Range"] != server.tag
        first = 0 if whole else int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(200 if whole else 206)
        self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(server.content) - first))
        self.end_headers()
        most = server.breaks.pop(0) if server.breaks else len(server.content)
        self.wfile.write(server.content[first : first + most])

    def log_message(self, *_):
        pass


def packed(folder, name="unimo_base_en") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(folder, name)
    return out.getvalue()


@pytest.fixture(scope="module")
def variables(golden, tmp_path_factory):
    """A published archive: a file for each variable, and its configuration."""
    folder = tmp_path_factory.mktemp("archive") / "unimo_base_en"
    shutil.copytree(golden / "checkpoints" / "paddle1_per_variable", folder)
    (folder / "unimo_base_en.json").write_text(json.dumps({"num_attention_heads": 2, "hidden_act": "gelu"}))
    return folder


@pytest.fixture
def server(variables, tmp_path, monkeypatch):
    found = Server(packed(variables))
    monkeypatch.setenv("UNIMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(archives, "CHUNK", 5000)
    monkeypatch.setattr(archives.time, "sleep", lambda _: None)
    entry = replace(published.PUBLISHED["unimo-base"], address=found.address)
    monkeypatch.setitem(published.PUBLISHED, "unimo-base", entry)
    yield found
    found.shutdown()
    found.server_close()


def test_a_download_that_breaks_off_three_times_is_resumed_checked_converted_and_loaded(server, variables, tmp_path):
    server.breaks = [7000, 6500, 11000]
    seen, lines = [], []
    folder = published.download("unimo-base", progress=lambda *some: seen.append(some), say=lines.append)
    assert server.asked == [None, "bytes=7000-", "bytes=13500-", "bytes=24500-"]
    assert seen[-1] == (len(server.content),) * 2 and [done for done, _ in seen] == sorted(done for done, _ in seen)
    digest = hashlib.sha256(server.content).hexdigest()
    assert f"{len(server.content):,} bytes, sha256 {digest}" in lines[0]
    found, model = unimo.load("unimo-base", device="cpu"), convert_published(variables).model
    assert found.model.encoder.layers[0].attention.heads == 2  # as the configuration in the archive says
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), model.parameters(), strict=True))
    facts = found.facts["facts"]
    assert facts["source"] == server.address and facts["archive"]["sha256"] == digest and "Apache" in facts["licence"]
    card = (folder / "README.md").read_text()
    assert server.address in card and "Apache-2.0" in card and "aclanthology" in card
    assert not list((tmp_path / "cache" / "downloads").iterdir())
    published.download("unimo-base", say=lines.append)
    assert "there already" in lines[-1] and len(server.asked) == 4


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server):
    server.breaks = [9000, 0, 0, 0]
    with pytest.raises(ResourceError, match=r"broke off.*9,000 bytes so far.*goes on"):
        published.download("unimo-base", say=str)
    assert published.download("unimo-base", say=str).is_dir() and server.asked[-1] == "bytes=9000-"


def test_a_file_that_changed_meanwhile_begins_anew(server):
    server.breaks = [9000, 0, 0, 0]
    with pytest.raises(ResourceError):
        published.download("unimo-base", say=str)
    server.tag = '"two"'
    assert published.download("unimo-base", say=str).is_dir()


def test_a_wrong_digest_is_refused_and_the_file_named(server, tmp_path):
    with pytest.raises(WeightsError, match=r"not the one that was expected.*unimo_base_en\.tar\.gz.*aaaa"):
        published.download("unimo-base", sha256="a" * 64, say=str)
    assert not (tmp_path / "cache" / "models").exists()
    folder = published.download("unimo-base", say=str)  # what is there is whole: nothing is fetched again
    assert len(server.asked) == 1
    shutil.rmtree(folder)
    server.content += b"\0"  # another archive of that name than the one that is remembered
    with pytest.raises(WeightsError, match="not the one that was expected"):
        published.download("unimo-base", say=str)


def test_no_network_is_said_at_once(server, monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/x.tar.gz"
    tries = []
    monkeypatch.setattr(archives.time, "sleep", tries.append)
    for address, what in ((closed, "no connection"), (closed.replace("127.0.0.1", "nowhere.invalid"), "no connection")):
        with pytest.raises(ResourceError, match=what):
            archives.fetch(address, tmp_path / "x.tar.gz")
    assert not tries
    with pytest.raises(WeightsError, match="HTTP 404"):
        archives.fetch(server.address.replace("/model/", "/old/"), tmp_path / "x.tar.gz")


def test_a_name_that_is_not_downloaded_says_the_command(server, monkeypatch):
    with pytest.raises(WeightsError, match="unimo download unimo-2-base"):
        unimo.load("unimo-2-base")
    with pytest.raises(UsageError, match="did you mean unimo-base"):
        published.download("unimo-bas")


def test_convert_takes_archives_and_addresses(server, variables, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.tar.gz").write_bytes(server.content)
    for number, source in enumerate((str(tmp_path / "a.tar.gz"), server.address)):
        monkeypatch.setattr(sys, "argv", ["unimo", "convert", source, str(tmp_path / f"out{number}")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (0, None), capsys.readouterr().err
        assert unimo.load(tmp_path / f"out{number}").model.width == 16
    assert not list((tmp_path / "cache").glob("unpacked-*"))


def member(name, data=b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def archive_of(*members, end=b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue() + end


LONG = tarfile.TarInfo("x")
LONG.type, LONG.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
HOSTILE = {
    "parent": archive_of(member("../outside", b"x")),
    "parent inside": archive_of(member("a/../../outside", b"x")),
    "link": archive_of(member("a", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "hard link": archive_of(member("a", type=tarfile.LNKTYPE, linkname="../outside")),
    "device": archive_of(member("a", type=tarfile.CHRTYPE)),
    "pipe": archive_of(member("a", type=tarfile.FIFOTYPE)),
    "too large": archive_of(member("a", bytes(3000)), member("b", bytes(3000))),
    "too many": archive_of(*(member(f"n{i}") for i in range(9))),
    "a name of gigabytes": gzip.compress(LONG.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)),
    "not packed": b"PK\3\4" + bytes(600),
    "nothing": b"",
    "two models": archive_of(member("a/word_embedding", b"x"), member("b/word_embedding", b"x")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_write_nothing_outside_and_are_refused(tmp_path, monkeypatch, case):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 8)
    monkeypatch.setattr(archives, "MAX_UNPACKED", 5000)
    (tmp_path / "w.tar.gz").write_bytes(HOSTILE[case])
    (tmp_path / "in").mkdir()
    with pytest.raises(WeightsError) as caught:
        archives.unpack(tmp_path / "w.tar.gz", tmp_path / "in")
    assert "w.tar.gz" in str(caught.value.where)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "w.tar.gz"]


def test_a_cut_archive_is_refused(variables, tmp_path):
    whole = packed(variables)
    for at in (len(whole) // 2, len(whole) - 9):
        (tmp_path / "w.tar.gz").write_bytes(whole[:at])
        with pytest.raises(WeightsError, match="damaged archive"):
            archives.unpack(tmp_path / "w.tar.gz", tmp_path / f"in{at}")
