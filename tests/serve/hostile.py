"""Requests nobody should send, as bytes for a socket, drawn from a random generator.

`python tests/serve/hostile.py --requests 10000` is the campaign before a release: a server of its own, every answer
counted, memory before and after. The suite plays some hundred of them (`test_serve_hostile.py`).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zlib
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))

from serving import PATHS, png

FIELDS = ("images", "image", "texts", "text", "names", "prompts", "num_beams", "top_k", "only", "rerank", "by", "runs",
          "attention", "max_length", "text_pairs", "thumbnails", "nonsense")  # fmt: skip
VALUES = (
    b"", b"\x00", b"a" * 9_000, "☃\u202e".encode(), b"\xff\xfe\xfa", b"[MASK]", b"[MASK]" * 500, b"-1", b"1e400",
    b"NaN", b"true", b"99999999999999999999", b"../../etc/passwd", b"{}{0}{x}", b"{" * 500, b"' OR 1=1 --", b"%s%n",
    b"<script>", b"\r\n\r\n", b"texts",
)  # fmt: skip
CHARSETS = (
    "utf-8",
    "utf-7",
    "utf-16",
    "undefined",
    "zlib",
    "rot13",
    "idna",
    "punycode",
    "unicode_escape",
    "\x7f",
    "x" * 300,
)
STRANGE_PATHS = (
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//caption", "/caption/", "/examples/-1", "/examples/" + "9" * 20,
    "/examples/../runs", "/runs/%00/report", "/runs/..%2f..%2f/report", "/" + "a" * 20_000, "/caption?a=" + "b" * 5000,
    "/%ff%fe", "*", "http://evil.example/", "/" + "%2f" * 500, "/\u2603", "/openapi.json", "/docs", "/.git/config", "",
)  # fmt: skip
STRANGE_HEADERS = (
    "X: " + "a" * 70_000, "\r\n".join(f"X-{i}: a" for i in range(900)), "Host: evil", "Host: a\r\nHost: b",
    "X\x00: a", ": a", "X : a", "Authorization: Basic " + "A" * 9000, "Expect: 100-continue", "X: \xff\xfe",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: a", "Accept-Encoding: " + "gzip," * 900,
    "Range: bytes=0-" + "9" * 400, "Cookie: " + "a=b;" * 2000,
)  # fmt: skip


def request(rng: random.Random) -> bytes:
    """One request; most ask to be closed after it."""
    return rng.choice([_form, _form, _form, _image, _image, _raw_body, _length, _path, _head, _no_http, _mutated])(rng)


def _post(path: str, body: bytes, kind: str, *headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode("utf-8", "surrogateescape") + body


def _part(name: bytes, value: bytes, filename: bytes | None = None) -> bytes:
    file = b"" if filename is None else b'; filename="' + filename + b'"'
    return b'--x\r\nContent-Disposition: form-data; name="' + name + b'"' + file + b"\r\n\r\n" + value + b"\r\n"


def _form(rng: random.Random) -> bytes:
    """Any fields with any values, perhaps cut off."""
    count = rng.choice([0, 1, 2, 5, 40, 1200])
    parts = []
    for _ in range(count):
        file = rng.choice([None, b"a.png", b"../../a", b"\x00", VALUES[rng.randrange(len(VALUES))][:300]])
        value = rng.choice(VALUES) if count < 100 else b"a"
        parts.append(_part(rng.choice(FIELDS).encode(), value, file))
    body = b"".join(parts) + b"--x--\r\n"
    if rng.random() < 0.2:
        body = body[: rng.randrange(len(body))]
    charset = rng.choice(["", "", f"; charset={rng.choice(CHARSETS)}"])
    return _post(rng.choice(PATHS), body, f"multipart/form-data; boundary=x{charset}")


def images(rng: random.Random) -> bytes:
    """A broken or enormous image."""
    good = bytearray(png(rng.randrange(5), form=rng.choice(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"])))
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(good[: rng.randrange(len(good))])
    if kind == 1:
        for _ in range(rng.randrange(1, 20)):
            good[rng.randrange(len(good))] = rng.randrange(256)
        return bytes(good)
    if kind == 2:
        return bomb(
            *rng.choice([(60_000, 60_000), (1, 4_000_000), (23_000, 1000), (0, 0), (2**31 - 1, 1)]),
            bits=rng.choice([1, 8, 16]),
        )
    if kind == 3:
        return rng.randbytes(rng.randrange(2000))
    if kind == 4:
        return b"BM" + struct.pack(
            "<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, *rng.choice([(20_000, 20_000), (-5, 3)]), 1, 24, 0, 0, 0, 0, 0, 0
        )
    return rng.choice(
        [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"II*\x00" + bytes(50), b"%PDF-1.4", b"\x89PNG\r\n\x1a\n"]
    )


def bomb(width: int, height: int, bits: int = 8) -> bytes:
    """A PNG that says it has so many grey pixels, with few bytes behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(200_000))) + chunk(b"IEND", b"")


def _image(rng: random.Random) -> bytes:
    path, field = rng.choice(
        [
            ("/caption", b"images"),
            ("/search", b"image"),
            ("/embed", b"images"),
            ("/fill-mask", b"image"),
            ("/dictionary", b"image"),
        ]
    )
    text = _part(b"text", b"a [MASK] b")
    return _post(path, text + _part(field, images(rng), b"a.png") + b"--x--\r\n", "multipart/form-data; boundary=x")


def _raw_body(rng: random.Random) -> bytes:
    kind = rng.choice(
        [
            "application/json",
            "multipart/form-data",
            "text/plain",
            "application/x-www-form-urlencoded",
            "",
            "multipart/mixed; boundary=x",
            "a" * 500,
        ]
    )
    body = rng.choice(
        [b"", b"{" * 3000, b"[" * 50_000, b"&" * 5000, b"text=" + b"%" * 3000, b"=&" * 3000, rng.randbytes(500)]
    )
    return _post(rng.choice(PATHS), body, kind)


def _length(rng: random.Random) -> bytes:
    """Lengths that are not the body's, and bodies without one."""
    start = f"POST {rng.choice(PATHS)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    start += "Content-Type: multipart/form-data; boundary=x\r\n"
    said = rng.choice(["999999999999", "-5", "5, 5", "0x10", "1\r\nContent-Length: 2", "9" * 5000, "3"])
    chunks = rng.choice(["5\r\nhello\r\n0\r\n\r\n", "ffffffff\r\n", "zz\r\n", "5\r\nhel", "0\r\nX: " + "a" * 40_000])
    if rng.random() < 0.5:
        return f"{start}Content-Length: {said}\r\n\r\nhello".encode()
    return f"{start}Transfer-Encoding: {rng.choice(['chunked', 'gzip', 'chunked, chunked'])}\r\n\r\n{chunks}".encode()


def _path(rng: random.Random) -> bytes:
    path = rng.choice(STRANGE_PATHS)
    method = rng.choice(
        ["GET", "POST", "PUT", "DELETE", "TRACE", "CONNECT", "PROPFIND", "HEAD", "OPTIONS", "get", "A" * 300]
    )
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def _head(rng: random.Random) -> bytes:
    path = rng.choice(["/", "/health", "/metrics", "/search"])
    return f"GET {path} HTTP/1.1\r\n{rng.choice(STRANGE_HEADERS)}\r\nConnection: close\r\n\r\n".encode("latin-1")


def _no_http(rng: random.Random) -> bytes:
    return rng.choice(
        [
            b"\x16\x03\x01\x02\x00",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"",
            b"\r\n" * 500,
            rng.randbytes(300) + b"\r\n\r\n",
        ]
    )


def _mutated(rng: random.Random) -> bytes:
    """A good request with some bytes changed, left out or doubled."""
    good = bytearray(
        _post("/caption", _part(b"images", png(1), b"a.png") + b"--x--\r\n", "multipart/form-data; boundary=x")
    )
    for _ in range(rng.randrange(1, 12)):
        i = rng.randrange(len(good))
        good[i : i + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(good)


def play(address: tuple[str, int], rng: random.Random, patience: float = 60) -> str:
    """Sends one request, well or badly; the status of the answer, "closed", or "left" where this side goes first."""
    data = request(rng)
    manner = rng.choice(["whole"] * 16 + ["half", "left", "not read", "in pieces"])
    try:
        with socket.create_connection(address, timeout=patience) as line:
            if manner == "half":
                data = data[: len(data) // 2]  # and then nothing: the server must end it
            if manner == "in pieces":
                for i in range(0, min(len(data), 200)):
                    line.sendall(data[i : i + 1])
                data = data[200:]
            line.sendall(data)
            if manner in ("left", "not read"):
                return "left"
            answer = b"".join(iter(lambda: line.recv(65536), b""))
    except (ConnectionError, BrokenPipeError):
        return "closed"
    found = re.match(rb"HTTP/1\.1 (\d+)", re.sub(rb"^HTTP/1\.1 100[^\r]*\r\n\r\n", b"", answer))
    return found[1].decode() if found else "closed"


def play_many(address: tuple[str, int], requests: int, seed: int, threads: int = 8) -> Counter[str]:
    """Statuses of many requests; an AssertionError names the seed of the first that got a 5xx or no answer at all."""
    found: Counter[str] = Counter()
    faults: list[str] = []
    numbers = iter(range(requests))
    lock = threading.Lock()

    def some() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or faults:
                return
            try:
                status = play(address, random.Random(f"{seed} {number}"))
            except Exception as error:
                status = f"500, or worse: {type(error).__name__} {error}"
            with lock:
                found[status] += 1
                if status.startswith("5"):
                    faults.append(f"{status} for request {number} of seed {seed}")

    players = [threading.Thread(target=some) for _ in range(threads)]
    for player in players:
        player.start()
    for player in players:
        player.join()
    assert not faults, faults
    return found


def resident(base: str) -> int:
    """Bytes of the server's memory, by its own metrics."""
    with urllib.request.urlopen(f"{base}/metrics") as answer:
        return int(float(re.search(rb"^process_resident_memory_bytes (\S+)", answer.read(), re.M)[1].decode()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=24)
    parser.add_argument("--out", help="JSON file that takes the result")
    options = parser.parse_args()
    from tiny_task import write_start

    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "unimo",
            "serve",
            write_start(Path(folder) / "run"),
            "--port",
            "0",
            "--timeout",
            "10",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            base = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            host, port = base.removeprefix("http://").split(":")
            try:
                memory = [resident(base)]
                found: Counter[str] = Counter()
                for tenth in range(10):
                    found += play_many((host, int(port)), options.requests // 10, options.seed + tenth, options.threads)
                    memory.append(resident(base))
                    print(f"{sum(found.values())} requests, {memory[-1] / 1e6:.0f} MB", file=sys.stderr, flush=True)
            finally:
                server.terminate()
    megabytes = [round(one / 1e6) for one in memory]
    result = {"command": f"python tests/serve/hostile.py --requests {options.requests} --seed {options.seed}"}
    result |= {"requests": sum(found.values()), "answers": dict(sorted(found.items())), "megabytes": megabytes}
    print(json.dumps(result, indent=1))
    if options.out:
        sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
        from serve_throughput import keep

        keep(Path(options.out), "hostile", result)


if __name__ == "__main__":
    main()
