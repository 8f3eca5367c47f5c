"""What is refused, by which status and with which words; and what is wrong before anything is served."""

from __future__ import annotations

import base64
import os
import socket
import struct
import sys
import threading
import time
import zlib

import pytest
from planted import random_pipeline
from serving import files, png, served
from tiny_task import write_start

import unimo.serve
from unimo.cli import main
from unimo.errors import ResourceError, UsageError, WeightsError
from unimo.inference import Pipeline
from unimo.serve.collection import demo_collection, newest_run
from unimo.serve.limits import Limits
from unimo.serve.server import bound, serve
from unimo.synthetic.dataset import write_world

NARROW = Limits(max_body=300_000, max_pixels=10_000, timeout=3, idle=1, max_requests=3, max_connections=12)


@pytest.fixture(scope="module")
def narrow(pipeline, collection):
    with served(pipeline, collection, limits=NARROW) as client:
        yield client


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG of many pixels in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


ONE, THREE = files("images", png()), files("images", *[png()] * 3)
REFUSED = {
    "no image": ("/caption", {}, None, 422, "curl -F images=@photo.jpg"),
    "not an image": ("/caption", {}, files("images", b"hello"), 422, "bytes of no known image format"),
    "an image cut off": ("/caption", {}, files("images", png()[:-300]), 422, "truncated"),
    "another format": ("/caption", {}, files("images", png(form="ICO")), 422, "no known image format"),
    "a bomb": ("/caption", {}, files("images", bomb()), 422, "900000000 pixels"),
    "more pixels than allowed": ("/caption", {}, files("images", png(size=(101, 100))), 422, "101 x 100"),
    "too many images": ("/embed", {}, files("images", *[png()] * 17), 422, "at most 16"),
    "too many texts": ("/embed", {"texts": ["a"] * 129}, None, 422, "at most 128"),
    "too long a text": ("/embed", {"texts": "a" * 10_001}, None, 422, "at most 10000 characters"),
    "too many pairs": ("/similarity", {"texts": ["a"] * 128, "by": "matching"}, THREE, 422, "at most 256"),
    "too many prompts": ("/classify", {"names": ["a", "b"], "prompts": ["{}"] * 9}, ONE, 422, "prompts"),
    "nothing to embed": ("/embed", {}, None, 422, "nothing to embed"),
    "no texts": ("/similarity", {}, ONE, 422, "texts"),
    "a class twice": ("/classify", {"names": ["a", "a"]}, ONE, 400, "named twice"),
    "a template without a place": ("/classify", {"names": "a", "prompts": "b"}, ONE, 400, "without a place"),
    "no head": ("/answer", {"texts": "a?"}, ONE, 400, "fine-tune"),
    "rows that do not fit": ("/answer", {"texts": ["a", "b"]}, ONE, 422, "2 texts"),
    "two masks": ("/fill-mask", {"text": "[MASK] [MASK]"}, None, 400, "2 x [MASK]"),
    "a text longer than the model": ("/fill-mask", {"text": "a " * 90 + "[MASK]"}, None, 400, "tokens"),
    "nothing to look for": ("/search", {}, None, 400, "an empty query"),
    "nothing to re-rank": ("/search", {"text": "a", "only": "texts", "rerank": 3}, None, 400, "second stage"),
    "too many beams": ("/caption", {"num_beams": 99}, ONE, 422, "num_beams"),
    "no number": ("/search", {"text": "a", "top_k": "many"}, None, 422, "'many'"),
    "a text in place of a file": ("/caption", {"images": "x"}, None, 422, "images"),
    "nothing to look up": ("/dictionary", {}, None, 422, "nothing to look up"),
    "no such run": ("/compare", {"runs": "../scenes"}, None, 404, "../scenes"),
    "a misspelt path": ("/captoin", {}, None, 404, "did you mean /caption?"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_a_refusal_says_what_is_wrong(narrow, case):
    path, fields, images, status, part = REFUSED[case]
    answer = narrow.post(path, data=fields, files=images)
    assert answer.status_code == status and part in answer.text, answer.text
    assert {"what"} < answer.json()["error"].keys() <= {"what", "where", "got", "expected", "do"}
    assert answer.headers["x-content-type-options"] == "nosniff"


FORM = "multipart/form-data; boundary=x"
FIELD = b'--x\r\nContent-Disposition: form-data; name="texts"\r\n\r\n%s--x--'
NO_FORMS = (
    ("application/json", b'{"texts": ["a"]}'),
    ("multipart/form-data", b"--x\r\n"),
    (FORM, b"--x\r\nnonsense"),
    (f"{FORM}; charset=undefined", FIELD % b"a\r\n"),
    (f"{FORM}; charset=utf-7", FIELD % b"+2AA-\r\n"),  # half a surrogate pair
)


@pytest.mark.parametrize("kind, body", NO_FORMS)
def test_a_body_that_is_no_form_is_refused(narrow, kind, body):
    answer = narrow.post("/embed", content=body, headers={"content-type": kind})
    assert 400 <= answer.status_code < 500 and answer.json()["error"]["what"], answer.text


def test_json_in_place_of_a_form_is_named(narrow):
    answer = narrow.post("/search", json={"text": "two dogs"})
    assert answer.status_code == 415 and "curl -F" in answer.json()["error"]["do"]


def test_a_large_body_is_refused_before_it_is_read_and_while_it_comes(narrow):
    said = narrow.post("/caption", files=files("images", bytes(400_000)))
    assert said.status_code == 413 and "400" in said.json()["error"]["got"]
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    parts = iter([head, *[b"a" * 10_000] * 40])
    kind = {"content-type": "multipart/form-data; boundary=x"}
    assert narrow.post("/caption", content=parts, headers=kind).status_code == 413


def test_too_many_requests_are_told_to_come_again(pipeline):
    busy, free = threading.Event(), threading.Event()
    slow = random_pipeline()

    def caption(images, **options):
        busy.set()
        free.wait()
        return ["a"] * len(images)

    slow.caption = caption
    with served(slow, limits=Limits(max_requests=2, max_batch=1, timeout=60)) as client:
        threads = [threading.Thread(target=client.post, args=("/caption",), kwargs={"files": ONE}) for _ in range(2)]
        for thread in threads:
            thread.start()
        busy.wait()
        while (answer := client.get("/runs")).status_code != 429:  # until both are in
            time.sleep(0.01)
        assert answer.headers["retry-after"] == "1" and client.get("/health").status_code == 200
        free.set()
        for thread in threads:
            thread.join()
        assert client.post("/embed", data={"texts": "a"}).status_code == 200


def test_who_waits_too_long_is_told_so(pipeline):
    free, slow = threading.Event(), random_pipeline()
    slow.caption = lambda images, **options: free.wait() and ["a"]
    with served(slow, limits=Limits(timeout=0.3)) as client:
        answer = client.post("/caption", files=ONE)
        free.set()
    assert answer.status_code == 429 and "0.3 s" in answer.json()["error"]["expected"]


def test_slow_clients_lose_their_connection(narrow):
    address = (narrow.base_url.host, narrow.base_url.port)
    head = b"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    for begun, answer in ((b"", b""), (head, b""), (head + b"Content-Length: 1000\r\n\r\n--x", b"HTTP/1.1 408")):
        with socket.create_connection(address, timeout=60) as slow:
            slow.sendall(begun)
            assert slow.recv(12) == answer[:12]
    crowd = [socket.create_connection(address, timeout=60) for _ in range(30)]
    assert sum(one.recv(1) == b"" for one in crowd) == 30  # beyond the twelfth at once, the others in their time
    for one in crowd:
        one.close()
    while True:
        try:
            assert narrow.get("/health").status_code == 200
            break
        except OSError:
            time.sleep(0.01)


def test_nonsense_instead_of_http_is_refused(narrow):
    with socket.create_connection((narrow.base_url.host, narrow.base_url.port), timeout=60) as line:
        line.sendall(b"\x16\x03\x01 TLS?\r\n\r\n")
        assert b"".join(iter(lambda: line.recv(4096), b"")).startswith(b"HTTP/1.1 400")


def test_a_token_lets_in_and_nothing_else_does(pipeline):
    def basic(word: str) -> str:
        return "Basic " + base64.b64encode(f"me:{word}".encode()).decode()

    with served(pipeline, token="sésame") as client:
        for header in (None, "", "Bearer", "Bearer wrong", "sésame", basic("wrong"), "Basic !!!", "Digest sésame"):
            answer = client.get("/", headers={} if header is None else {"authorization": header.encode()})
            assert answer.status_code == 401 and "token" in answer.json()["error"]["what"]
            assert answer.headers["www-authenticate"] == 'Bearer, Basic realm="unimo"'
        for header in ("Bearer sésame", "bearer sésame", basic("sésame")):
            assert client.get("/", headers={"authorization": header.encode()}).status_code == 200
        assert client.get("/health").status_code == 200


def test_only_its_own_names_are_answered_to(pipeline):
    with served(pipeline, hosts=("127.0.0.1", "localhost", "::1")) as client:
        for host, status in (
            ("localhost:80", 200),
            ("127.0.0.1", 200),
            ("[::1]:8000", 200),
            ("evil.example", 400),
            ("", 400),
        ):
            assert client.get("/health", headers={"host": host}).status_code == status


# ---- before anything is served


def quiet(line: str) -> None:
    """Progress nobody reads."""


def test_a_port_in_use_is_found_before_the_model_is_loaded(tmp_path):
    with bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=rf"the port is in use .* --port {port + 1}"):
            serve(tmp_path / "no model", port=port)
    with pytest.raises(ResourceError, match="cannot listen there"):
        bound("192.0.2.1", 0)
    with pytest.raises(UsageError, match="no such address"):
        bound("no such host", 0)
    with pytest.raises(UsageError, match="an empty token"):
        serve(tmp_path / "no model", token=" ")


def test_the_command_line_says_it_in_lines(monkeypatch, capsys):
    with bound("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["unimo", "serve", "no-model", "--port", port, "--wait-ms", "2"])
        with pytest.raises(SystemExit) as ended:
            main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == ResourceError.exit_code and lines[0] == "error: the port is in use"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["where", "got", "do"]


def test_an_index_of_other_weights_is_refused(collection):
    with pytest.raises(WeightsError, match="not the model the index was made with"):
        serve(random_pipeline(image_depth=2), index=collection.index.folder, port=0)


def test_without_a_name_the_newest_run_is_served(tmp_path):
    with pytest.raises(UsageError, match=r"no run here .* unimo pretrain scenes"):
        newest_run(tmp_path / "runs")
    for age, name in enumerate(("new", "old", "unfinished")):
        folder = tmp_path / "runs" / name
        if name != "unfinished":
            write_start(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text("{}")
        os.utime(folder / "settings.json", (10_000 - age, 10_000 - age))
    assert newest_run(tmp_path / "runs").name == "new"


def test_the_demo_is_searched_in_its_held_out_scenes(tmp_path, pipeline):
    write_world(tmp_path / "world", pairs=4, images=0, texts=0, heldout=8, compositional=0, classes=0, size=32)
    demo = Pipeline(
        pipeline.model, precision="fp32", facts={"settings": {"data": {"pairs": [str(tmp_path / "world/pairs")]}}}
    )
    found = demo_collection(demo, tmp_path / "own", quiet)
    assert found.index.rows == {"image": 8, "text": 16} and len(found.examples) == 6 and found.dictionary.pairs == 8
    assert demo_collection(pipeline, tmp_path / "own", quiet) is None  # a model that does not say what it learnt from


def test_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("unimo.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(unimo.serve, "server")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match=r"pip install 'unimo\[serve\]'"):
        unimo.serve.serve()
