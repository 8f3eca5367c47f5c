"""`unimo serve`: everything that can be wrong is found before the port answers, then one process serves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from unimo.errors import ResourceError, UsageError
from unimo.inference import Pipeline, load
from unimo.retrieval import open_index
from unimo.serve.app import create_app
from unimo.serve.collection import Runs, demo_collection, newest_run, open_collection
from unimo.serve.limits import Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    model: str | Path | Pipeline | None = None,
    *,
    index: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    device: str | None = None,
    limits: Limits | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serves a model until it is stopped.

    model: None is the index's own, else the newest run in runs/. index: what /search looks through; None is an index
    of the held-out scenes where the run has them. token: who does not send it gets 401.

    Raises ResourceError for a port in use, UsageError for another address, and what `load` and `open_index` raise.
    """
    limits = limits or Limits()
    if token is not None and not token.strip():
        raise UsageError("an empty token", where="token", expected="some characters", do="leave the option away")
    with contextlib.closing(bound(host, port)) as listening, tempfile.TemporaryDirectory(prefix="unimo-") as folder:
        if model is None:
            model = newest_run() if index is None else open_index(index, device=device).model
        pipeline = model if isinstance(model, Pipeline) else load(model, device=device)
        named = None if index is None else open_collection(index, pipeline, say)
        collection = named or demo_collection(pipeline, Path(folder), say)
        run = _run_of(Path(str(pipeline.facts.get("path", "model"))))
        options: dict[str, Any] = {"name": run.name, "limits": limits, "token": token}
        options["hosts"] = {*LOOPBACK, host} if host in LOOPBACK else None
        app = create_app(pipeline, collection, Runs.beside(run) if run.exists() else None, **options)
        if options["hosts"] is None and token is None:
            say(f"note: {host} may be reached by others; --token lets in only who knows it")
        address = f"[{host}]" if ":" in host else host
        say(f"{run.name} at http://{address}:{listening.getsockname()[1]}  (Ctrl-C stops)")
        if threading.current_thread() is threading.main_thread():
            # uvicorn ends by raising the signal anew, which by itself would leave the folder behind.
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        server(app, limits).run(sockets=[listening])


def server(app: Any, limits: Limits) -> uvicorn.Server:
    for noisy in ("uvicorn.error", "python_multipart"):  # strangers' nonsense would fill the log
        logging.getLogger(noisy).setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=_patient_for(limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=32_768,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def bound(host: str, port: int) -> socket.socket:
    """A socket that holds host and port; ResourceError where another has it, UsageError where it cannot be."""
    where = f"{host}:{port}"
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        expected = "a name or number of this machine"
        raise UsageError("no such address", where="--host", got=host, expected=expected) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            got, do = "another server listens there", f"stop it, or choose another: --port {port + 1}"
            raise ResourceError("the port is in use", where=where, got=got, do=do) from error
        do = "--port 8000 needs no rights, --host 127.0.0.1 is always there"
        what, expected = "cannot listen there", "an address of this machine"
        raise ResourceError(what, where=where, got=error.strerror, expected=expected, do=do) from error


def _run_of(path: Path) -> Path:
    """The folder of a run, whichever of its checkpoints was loaded."""
    return next((each.parent for each in path.parents if each.name in ("checkpoints", "best")), path)


def _patient_for(limits: Limits) -> type[H11Protocol]:
    """uvicorn's protocol, which itself waits for a slow client without end and lets in any number of them."""

    class Watched(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.since = self.loop.time()
            if len(self.connections) > limits.max_connections:
                transport.abort()
            else:
                self._watch()

        def on_response_complete(self) -> None:
            self.since = self.loop.time()
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            if self.cycle is None or self.cycle.response_complete:  # else it would stand in the middle of an answer
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

        def _watch(self) -> None:
            """Ends a connection whose next request, or whose reader, has been awaited too long."""
            answering = self.cycle is not None and not self.cycle.response_complete
            if answering and not self.transport.is_closing():
                self.since = self.loop.time()
            elif self.loop.time() - self.since > limits.idle:
                self.transport.abort()
                return
            if self in self.connections:
                self.loop.call_later(min(1.0, limits.idle), self._watch)

    return Watched
