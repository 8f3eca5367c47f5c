"""`unimo serve`: a model over HTTP and on a page.

server.py      the process: what is checked before anything is served, the port, slow clients
app.py         the HTTP API; inputs.py: what a form brings; schemas.py: what it answers; failures.py: how it refuses
batching.py    requests joined into one forward pass
guard.py       size, time, concurrency, token, by limits.py; metrics.py: counters
collection.py  what is searched, dictionary entries, example images, runs compared
attention.py   which patches reached each piece of a text
page.py        the page, page.html.j2

The page is rendered here (Jinja2 and plain JavaScript), not by Gradio: it works offline, adds no dependency that the
report does not have, and whatever it does is a request of the public API, with its limits, token and tests.
"""

from __future__ import annotations

from typing import Any

from unimo.errors import UsageError

EXTRA = ("fastapi", "starlette", "pydantic", "uvicorn", "python_multipart", "prometheus_client")


def serve(*args: Any, **options: Any) -> None:
    """`unimo.serve.server.serve`; UsageError without the extra `serve`."""
    try:
        from unimo.serve import server
    except ImportError as error:
        if (error.name or "").split(".")[0] not in EXTRA:
            raise
        what, do = "the server needs some packages more", "pip install 'unimo[serve]'"
        raise UsageError(what, got=f"no {error.name}", do=do) from None
    server.serve(*args, **options)


__all__ = ["serve"]
