"""Requests a second of `unimo serve` with and without batching, and how long one takes (p50, p99): results/serve.json.

    python scripts/serve_throughput.py runs/scenes --images FOLDER --out results/serve.json

Both servers run in turns, each in a process of its own; so many clients send one request after the other.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
import urllib.request
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

WAYS = {"one at a time": ["--max-batch", "1", "--wait-ms", "0"], "batched": []}


TEXT = "a red circle is [MASK] of a blue square"
FIELDS: dict[str, tuple[str, dict[str, str]]] = {  # path -> field of the image, other fields
    "/caption": ("images", {}),
    "/embed": ("images", {}),
    "/fill-mask": ("image", {"text": TEXT}),
    "/similarity": ("images", {"texts": TEXT, "by": "matching"}),
    "/search": ("image", {"text": TEXT}),
}


def form(path: str, image: bytes) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a request with an image."""
    name, others = FIELDS[path]
    parts = [(f'name="{key}"', value.encode()) for key, value in others.items()]
    parts.append((f'name="{name}"; filename="a"', image))
    head = "--x\r\nContent-Disposition: form-data; {}\r\n\r\n"
    body = b"".join(head.format(names).encode() + value + b"\r\n" for names, value in parts) + b"--x--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=x"}


def timed(address: str, path: str, forms: list[Any], clients: int, seconds: float) -> list[float]:
    """Seconds of every request that `clients` send one after the other for so long."""
    numbers, found, until = count(), list[float](), time.perf_counter() + seconds

    def client() -> None:
        line = http.client.HTTPConnection(address, timeout=120)
        while (began := time.perf_counter()) < until:
            line.request("POST", path, *forms[next(numbers) % len(forms)])
            answer = line.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            found.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def measured(
    model: str, images: list[bytes], paths: list[str], clients: int, seconds: float, options: list[str]
) -> Any:
    """One server's numbers for each path."""
    command = [sys.executable, "-m", "unimo", "serve", model, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        base = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        rows = {}
        try:
            for path in paths:
                forms = [form(path, image) for image in images]
                timed(base.removeprefix("http://"), path, forms, clients, 2)  # warm-up
                before = passes(base)
                took = timed(base.removeprefix("http://"), path, forms, clients, seconds)
                p50, p99 = np.percentile(took, [50, 99]) * 1000
                per_pass = len(took) / max(passes(base) - before, 1)
                rate = {"requests_per_second": round(len(took) / seconds, 1), "rows_per_pass": round(per_pass, 1)}
                rows[path] = {**rate, "p50_ms": round(p50, 1), "p99_ms": round(p99, 1)}
        finally:
            server.terminate()
    return rows


def passes(base: str) -> int:
    with urllib.request.urlopen(f"{base}/metrics") as answer:
        return int(float(re.findall(rb"^unimo_model_passes_total (\S+)", answer.read(), re.MULTILINE)[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--images", required=True, help="folder of example images")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--paths", nargs="+", default=["/caption", "/embed"], choices=FIELDS)
    parser.add_argument("--index", help="of the model; else its held-out scenes, for /search")
    parser.add_argument("--name", default="throughput", help="of the result in the JSON file")
    parser.add_argument("--out")
    given = parser.parse_args()
    images = [path.read_bytes() for path in sorted(Path(given.images).iterdir())[:64]]
    command = f"python scripts/serve_throughput.py RUN --images IMAGES --paths {' '.join(given.paths)}"
    found: dict[str, Any] = {"command": command, "clients": given.clients, "seconds": given.seconds}
    for way, options in WAYS.items():
        options = [*options, *(["--index", given.index] if given.index else [])]
        found[way] = measured(given.model, images, given.paths, given.clients, given.seconds, options)
    found["times_faster"] = {
        path: round(found["batched"][path]["requests_per_second"] / row["requests_per_second"], 2)
        for path, row in found["one at a time"].items()
    }
    print(json.dumps(found, indent=1))
    if given.out:
        keep(Path(given.out), given.name, found)


def keep(out: Path, name: str, found: dict[str, Any]) -> None:
    """Puts a result into a JSON file beside what is there, with the machine it was measured on."""
    kept = json.loads(out.read_text()) if out.exists() else {}
    processor = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    machine = {"cores": os.cpu_count(), "processor": processor[0] if processor else platform.machine()}
    machine |= {"load": round(os.getloadavg()[0], 1), "python": platform.python_version(), "torch": version("torch")}
    out.write_text(json.dumps({**kept, name: {**found, "machine": machine}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
