"""A server of this process on a free port of the loopback, by the same steps as `unimo serve`."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
from PIL import Image

from unimo.serve.app import create_app
from unimo.serve.limits import Limits
from unimo.serve.server import bound, server

PATHS = (
    "/caption",
    "/answer",
    "/search",
    "/embed",
    "/similarity",
    "/classify",
    "/fill-mask",
    "/dictionary",
    "/compare",
)  # of posted forms


@contextlib.contextmanager
def served(pipeline, *args, limits: Limits | None = None, **options) -> Iterator[httpx.Client]:
    """A client of `create_app(pipeline, *args, **options)`; the server ends with the block."""
    limits = limits or Limits()
    listening = bound("127.0.0.1", 0)
    running = server(create_app(pipeline, *args, limits=limits, **options), limits)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive(), "the server ended while it started"
        time.sleep(0.01)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=120) as client:
            yield client
    finally:
        running.should_exit = True
        thread.join()
        listening.close()


def png(seed: int = 0, size: tuple[int, int] = (24, 20), form: str = "PNG") -> bytes:
    """A random image as a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def files(name: str, *images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    """Images as fields of a form."""
    return [(name, (f"{i}.png", data)) for i, data in enumerate(images)]
