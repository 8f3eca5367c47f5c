"""What a request may cost, and who may send one: checked before anything is read.

`Guard` wraps the whole application. It refuses strangers' hosts and tokens, large bodies, slow clients and too many
requests at once, always by a 4xx whose JSON names what, where, got, expected and what to do. A client above its
limit gets 429 and when to try again, never 503: nothing is wrong with the server.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import Collection
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from unimo.errors import UnimoError
from unimo.serve.limits import Limits
from unimo.serve.metrics import Metrics

OPEN = "/health"  # answered without a token and under any load: for probes
HEADERS = {b"x-content-type-options": b"nosniff", b"cache-control": b"no-store", b"referrer-policy": b"no-referrer"}
LATER = "come again later, or send less at once"
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class Refused(HTTPException):
    """A request that gets no answer: an HTTP status, and the error that says why."""

    def __init__(self, status: int, error: UnimoError):
        super().__init__(status)
        self.error = error

    def response(self) -> JSONResponse:
        headers = {401: {"www-authenticate": 'Bearer, Basic realm="unimo"'}, 429: {"retry-after": "1"}}
        return JSONResponse({"error": self.error.parts()}, self.status_code, headers.get(self.status_code))


def refused(status: int, what: str, **parts: Any) -> Refused:
    return Refused(status, UnimoError(what, **parts))


class Guard:
    """ASGI middleware. token: None lets everyone in. hosts: names a request may call the server by; None: any.

    paths: those of the application, for the metrics.
    """

    def __init__(
        self,
        app: Any,
        *,
        limits: Limits,
        metrics: Metrics,
        paths: Collection[str],
        token: str | None = None,
        hosts: Collection[str] | None = None,
    ):
        self.app, self.limits, self.metrics, self.paths = app, limits, metrics, frozenset(paths)
        self.token, self.hosts, self.in_flight = token, hosts and sorted(hosts), 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, path, status = time.monotonic(), scope["path"], 0

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS.items()]}
            await send(message)

        body = _Body(receive, self.limits.max_body)
        self.in_flight += 1
        try:
            self._admit(scope)
            await asyncio.wait_for(self.app(scope, body.receive, answer), self.limits.timeout)
        except Refused as refusal:
            await refusal.response()(scope, receive, answer)
        except asyncio.TimeoutError:
            if not status:
                await _late(body.complete, self.limits.timeout).response()(scope, receive, answer)
        finally:
            self.in_flight -= 1
            label = path if path in self.paths else "other"
            self.metrics.request(label, status or 499, time.monotonic() - began)

    def _admit(self, scope: Any) -> None:
        """Raises Refused for what is seen in the first lines of a request."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = _host(headers.get(b"host", ""))
        if self.hosts is not None and host not in self.hosts:
            # Another site's page that points its own name at this machine would else read the answers.
            known, do = ", ".join(self.hosts), "call it by its own address, or start it with --host"
            raise refused(400, "another host's name", where="header Host", got=host, expected=known, do=do)
        if scope["path"] == OPEN:
            return
        if self.token is not None and not self._has_token(headers.get(b"authorization", "")):
            do = 'send the header "Authorization: Bearer TOKEN"; in a browser, the token is the password'
            raise refused(401, "this server needs a token", where="header Authorization", do=do)
        if self.in_flight > self.limits.max_requests:
            raise refused(429, "too many requests at once", expected=f"at most {self.limits.max_requests}", do=LATER)
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if kind and kind not in FORMS:  # its fields would all seem to be missing
            do = 'curl -F text="two dogs" ADDRESS/search, or data= and files= of requests.post'
            raise refused(415, "not a form", where="header Content-Type", got=kind, expected=" or ".join(FORMS), do=do)
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and len(length) < 20 and int(length) > self.limits.max_body:
            raise _too_large(length, self.limits.max_body)

    def _has_token(self, header: str) -> bool:
        """Bearer TOKEN, or what a browser makes of a password."""
        kind, _, rest = header.partition(" ")
        given = rest.strip().encode("latin-1")  # the bytes that were sent
        if kind.lower() == "basic":
            with contextlib.suppress(ValueError):
                given = base64.b64decode(given, validate=True).partition(b":")[2]
        elif kind.lower() != "bearer":
            return False
        return secrets.compare_digest(given, (self.token or "").encode())


class _Body:
    """A request's body as it arrives. complete: whether all of it has. Raises Refused where it grows too large."""

    def __init__(self, receive: Any, max_bytes: int):
        self._receive, self._max, self._bytes, self.complete = receive, max_bytes, 0, False

    async def receive(self) -> Any:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._max:
            raise _too_large(f"more than {self._max}", self._max)
        self.complete = self.complete or not message.get("more_body", False)
        return message


def _late(complete: bool, seconds: float) -> Refused:
    if complete:
        return refused(429, "no answer in time", where="the queue", expected=f"one in {seconds:g} s", do=LATER)
    return refused(408, "the request came too slowly", expected=f"all of it in {seconds:g} s", do="send it faster")


def _too_large(got: str, most: int) -> Refused:
    do = "shrink the image, or send several requests"
    return refused(413, "the request is too large", where="body", got=f"{got} bytes", expected=f"at most {most}", do=do)


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdecimal() else header
    return name.strip("[]").lower()
