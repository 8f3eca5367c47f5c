"""The page at /: one template and a little plain JavaScript over the HTTP API."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader

from unimo.html_pages import plain
from unimo.inference import Pipeline
from unimo.model.unimo2 import UNIMO2
from unimo.serve.collection import Example, ImageCollection, photographs
from unimo.serve.guard import refused
from unimo.serve.inputs import region_size
from unimo.version import __version__

# Nothing but the page's own script and style; images from here or made by the script.
POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page:
    """What the page shows at first. facts: of the model, also for /health."""

    def __init__(self, pipeline: Pipeline, collection: ImageCollection | None, name: str):
        self.facts = _facts(pipeline, collection, name)
        own = collection.examples if collection else []
        self.examples: list[Example] = own or ([] if pipeline.sees_regions else photographs())
        style: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "finalize": _printed}
        environment = Environment(loader=PackageLoader("unimo.serve", "."), autoescape=True, **style)
        self._template = environment.get_template("page.html.j2")

    def example(self, number: int) -> Example:
        if not 0 <= number < len(self.examples):
            raise refused(404, "no such example", got=number, expected=f"0 to {len(self.examples) - 1}")
        return self.examples[number]

    def response(self) -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        html = self._template.render(facts=self.facts, examples=self.examples, version=__version__, nonce=nonce)
        return HTMLResponse(html, headers={"content-security-policy": POLICY.format(nonce=nonce)})


def _printed(value: Any) -> Any:
    return plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _facts(pipeline: Pipeline, collection: ImageCollection | None, name: str) -> dict[str, Any]:
    model = pipeline.model
    head = None if model.head is None else model.head.settings
    return {
        "name": name,
        "member": "UNIMO-2" if isinstance(model, UNIMO2) else "UNIMO",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "pixels": pipeline.side,
        "region_size": region_size(pipeline),
        "dictionary": 0 if model.dictionary is None else len(model.dictionary.entries),
        "matching": model.matching is not None,
        "head": None if head is None else {"task": head.task, "kind": head.kind, "reads": head.reads},
        "collection": None if collection is None else dict(collection.index.rows),
        "entries": collection is not None and collection.dictionary is not None,
    }
