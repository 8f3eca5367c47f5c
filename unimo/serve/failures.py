"""Everything that goes wrong in a request as JSON of one form: what, where, got, expected, do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from unimo.errors import UnimoError, UsageError, nearest
from unimo.serve.batching import Busy
from unimo.serve.guard import LATER, Refused, refused

_HELP = "GET /openapi.json names every path and field"
_EXAMPLES = {"images": "curl -F images=@photo.jpg", "texts": 'curl -F texts="a red circle"'}


def handle(app: FastAPI, paths: Sequence[str]) -> None:
    """Makes the application answer each of these as a `Refused` would be."""

    async def answer(request: Request, error: Exception) -> Response:
        return _as_refused(error, request, paths).response()

    for kind in (HTTPException, RequestValidationError, UnimoError, Busy, Exception):
        app.add_exception_handler(kind, answer)


def _as_refused(error: Exception, request: Request, paths: Sequence[str]) -> Refused:
    """Faults of the request are 4xx. A UsageError is one: the model says so of what it was given."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, RequestValidationError):
        return _of_field(error.errors()[0])
    if isinstance(error, HTTPException):
        return _of_http(error, request, paths)
    if isinstance(error, Busy):
        return refused(429, "too many rows are waiting for the model", do=LATER)
    if isinstance(error, UsageError):
        return Refused(400, error)
    logging.getLogger("unimo.serve").error("%s", error)
    if isinstance(error, UnimoError):
        return Refused(500, error)
    return refused(500, "a fault of the server's own", got=type(error).__name__, do="see what the server printed")


def _of_field(fault: Any) -> Refused:
    field, given, where = fault["loc"][1:2], fault.get("input"), ".".join(map(str, fault["loc"][1:])) or "body"
    got = repr(given)[:80] if isinstance(given, (str, int, float)) else f"a {type(given).__name__}"
    got = "nothing" if fault["type"] == "missing" else str(fault.get("ctx", {}).get("actual_length", got))
    do = _EXAMPLES.get(*field or ("",)) or _HELP
    return refused(422, "a field cannot be used", where=where, got=got, expected=fault["msg"], do=do)


def _of_http(error: HTTPException, request: Request, paths: Sequence[str]) -> Refused:
    if error.status_code == 404:
        near = nearest(request.url.path, paths)
        return refused(404, "no such path", got=request.url.path, do=f"did you mean {near}?" if near else _HELP)
    if error.status_code == 405:
        allowed = {name.lower(): value for name, value in (error.headers or {}).items()}.get("allow")
        return refused(405, "no such method here", where=request.url.path, got=request.method, expected=allowed)
    expected = "a form: multipart/form-data, or application/x-www-form-urlencoded without files"
    what = "the body cannot be read"
    return refused(error.status_code, what, where="body", got=error.detail, expected=expected, do=_HELP)
