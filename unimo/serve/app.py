"""The HTTP API over one model: forms in, JSON out, each endpoint one method of `unimo.load`'s object.

Everything comes as a form (multipart where images are among it), so `curl -F images=@photo.jpg` works as it stands.
Images are decoded beside the model's thread, two at a time, and kept at the model's size only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import prometheus_client
from fastapi import FastAPI, Form
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from unimo.errors import nearest
from unimo.inference import PROMPTS, Pipeline
from unimo.inference.mask_filling import MASK
from unimo.serve import failures, schemas
from unimo.serve.attention import rollout
from unimo.serve.batching import Batcher, Run
from unimo.serve.collection import ImageCollection, Runs
from unimo.serve.guard import Guard, refused
from unimo.serve.inputs import Files, Inputs, OneFile, OneString, Strings, columns
from unimo.serve.limits import Limits
from unimo.serve.metrics import Metrics
from unimo.serve.page import Page
from unimo.version import __version__

WithAttention = Annotated[bool, Form(description="also which patches reached each piece of the text")]
POSTED = ("caption", "answer", "search", "embed", "similarity", "classify", "fill-mask", "dictionary", "compare")


def create_app(
    pipeline: Pipeline,
    collection: ImageCollection | None = None,
    runs: Runs | None = None,
    *,
    name: str = "model",
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """The application. collection: what is searched. runs: what may be compared. token, hosts: see `Guard`."""
    service = Service(pipeline, collection, runs or Runs({}), name, limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.batcher.close)

    # No /docs: its page would ask a stranger's host for scripts. /openapi.json is there.
    app = FastAPI(
        title="unimo", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    shown: dict[str, Any] = {"responses": {"4XX": {"model": schemas.Refusal}}}
    for path in POSTED:
        app.post(f"/{path}", **shown)(getattr(service, path.replace("-", "_")))
    app.get("/health")(service.health)
    app.get("/metrics", response_class=PlainTextResponse)(service.count)
    app.get("/dictionary", **shown)(service.entries)
    app.get("/runs")(service.runs)
    app.get("/runs/{run}/report", response_class=HTMLResponse, **shown)(service.report)
    app.get("/examples/{number}", response_class=Response, **shown)(service.example)
    app.get("/", response_class=HTMLResponse, include_in_schema=False)(service.page)
    paths = ["/openapi.json", "/", *(route.path for route in app.routes if hasattr(route, "path"))]
    failures.handle(app, paths)
    app.add_middleware(Guard, limits=service.limits, metrics=service.metrics, paths=paths, token=token, hosts=hosts)
    return app


class Service:
    """What the endpoints share; each public coroutine is one of them."""

    def __init__(self, pipeline: Pipeline, collection: ImageCollection | None, runs: Runs, name: str, limits: Limits):
        self.pipeline, self.collection, self.known_runs, self.limits = pipeline, collection, runs, limits
        self.metrics, self.site = Metrics(), Page(pipeline, collection, name)

    def start(self) -> None:
        """In the server's event loop, before the first request."""
        limits, side = self.limits, self.pipeline.side
        assert side is not None, "a served model sees pixels"
        self.batcher = Batcher(wait=limits.wait, max_batch=limits.max_batch, on_pass=self.metrics.model_pass)
        self.metrics.waiting.set_function(lambda: self.batcher.waiting)
        self.inputs = Inputs(limits, side)

    # ---- the model ------------------------------------------------------------------------------------------------

    async def caption(
        self,
        images: Files = None,
        num_beams: Annotated[int, Form(ge=1, le=8)] = 1,
        max_length: Annotated[int, Form(ge=1, le=100)] = 50,
        attention: WithAttention = False,
    ) -> schemas.Captions:
        """A sentence for each image."""
        seen = await self.inputs.images(images)
        options: dict[str, Any] = {"num_beams": num_beams, "max_length": max_length}
        key = ("caption", num_beams, max_length)
        written = await self._joined(key, lambda rows: self.pipeline.caption(rows, **options), seen)
        maps = await self._attention(seen, written, written=True) if attention else None
        return schemas.Captions(captions=written, attention=maps)

    async def answer(
        self,
        texts: Strings = None,
        text_pairs: Strings = None,
        images: Files = None,
        attention: WithAttention = False,
    ) -> schemas.Answers:
        """The likeliest answer or class of each row by the head of a fine-tuned model; of a regression, its number."""
        rows = await self.inputs.rows(texts, text_pairs, images)
        key = ("answer", *_sides(rows))
        answers = await self._joined(key, lambda rows: self.pipeline.answer(*columns(rows)), rows)
        maps = await self._attention([image for _, image in rows], texts or []) if attention and images else None
        return schemas.Answers(answers=answers, attention=maps)

    async def classify(
        self,
        images: Files = None,
        texts: Strings = None,
        text_pairs: Strings = None,
        names: Strings = None,
        prompts: Strings = None,
    ) -> schemas.Classes:
        """Probabilities of the named classes for each image (zero-shot), or of a fine-tuned model's own classes."""
        model = self.pipeline
        if not names:
            rows = await self.inputs.rows(texts, text_pairs, images)
            key = ("classify", *_sides(rows))
            found = await self._joined(key, lambda rows: _classified(model, rows), rows)
            return schemas.Classes(names=list(model.labels), probabilities=[row.tolist() for row in found])
        classes, templates = self.inputs.texts(names, "names"), self.inputs.texts(prompts, "prompts") or list(PROMPTS)
        self.inputs.few_enough("names x prompts", len(classes) * len(templates), self.limits.max_texts * len(PROMPTS))
        seen = await self.inputs.images(images)
        same = ("names", tuple(classes), tuple(templates))
        found = await self._joined(same, lambda rows: model.classify(rows, classes, prompts=templates), seen)
        return schemas.Classes(names=classes, probabilities=[row.tolist() for row in found])

    async def embed(self, images: Files = None, texts: Strings = None) -> schemas.Embeddings:
        """Embeddings of images, texts or both."""
        seen = await self.inputs.images(images, at_least=0)
        read = self.inputs.texts(texts, "texts", at_least=0 if seen else 1)
        vectors = await self._embedded(seen, read)
        return schemas.Embeddings(images=vectors[0].tolist(), texts=vectors[1].tolist())

    async def similarity(
        self,
        images: Files = None,
        texts: Strings = None,
        by: Annotated[Literal["cosine", "matching"], Form(description="matching: read together (log-odds)")] = "cosine",
    ) -> schemas.Scores:
        """How well every image fits every text."""
        seen, read = await self.inputs.images(images), self.inputs.texts(texts, "texts", at_least=1)
        if by == "matching":
            self.inputs.few_enough("images x texts", len(seen) * len(read), self.limits.max_fused)
            found = await self.batcher.alone(lambda: self.pipeline.itm_score(seen, read))
        else:
            image, text = await self._embedded(seen, read)
            found = image @ text.T
        return schemas.Scores(scores=found.tolist())

    async def fill_mask(
        self,
        text: Annotated[str, Form(description=f"with one {MASK}")],
        image: OneFile = None,
        top_k: Annotated[int, Form(ge=1, le=100)] = 5,
        attention: WithAttention = False,
    ) -> schemas.Filled:
        """The likeliest pieces at the one [MASK] of a text, beside an image or alone."""
        (read,) = self.inputs.texts([text], "text")
        seen = await self.inputs.images([image], at_least=0)
        shown = seen[0] if seen else None
        found = await self.batcher.alone(lambda: self.pipeline.fill_mask(read, shown, top_k=top_k))
        maps = await self._attention(seen, [read]) if attention and seen else None
        return schemas.Filled(tokens=[x for x, _ in found], probabilities=[p for _, p in found], attention=maps)

    # ---- the collection -------------------------------------------------------------------------------------------

    async def search(
        self,
        text: OneString = None,
        image: OneFile = None,
        top_k: Annotated[int, Form(ge=1, le=100)] = 10,
        only: Annotated[Literal["texts", "images"] | None, Form()] = None,
        rerank: Annotated[int, Form(ge=0, le=100, description="so many are read together with the query")] = 0,
        thumbnails: Annotated[bool, Form(description="with the image of each hit")] = False,
    ) -> schemas.Hits:
        """What lies in the collection near a text, an image or both."""
        index = self._collection().index
        read, seen = self.inputs.texts([text or ""], "text")[0], await self.inputs.images([image], at_least=0)
        options: dict[str, Any] = {"top_k": top_k, "only": only, "rerank": rerank}
        hits = await self.batcher.alone(lambda: index.search(read or None, seen[0] if seen else None, **options))
        shown = await asyncio.to_thread(self._collection().thumbnails, hits) if thumbnails else [None] * len(hits)
        found = [schemas.Found(**hit.to_dict(), thumbnail=uri) for hit, uri in zip(hits, shown)]
        return schemas.Hits(hits=found)

    async def entries(self) -> schemas.Dictionary:
        """The entries of the grounded dictionary that the collection's pairs choose most, with patches and words."""
        found = self._collection().dictionary
        if found is None:
            expected = "a model with a dictionary, and an index of pairs"
            raise refused(404, "no dictionary to look into", where="/dictionary", expected=expected)
        return found

    async def dictionary(self, text: OneString = None, image: OneFile = None) -> schemas.Chosen:
        """The entries of the grounded dictionary that a text, an image or both choose."""
        if self.pipeline.model.dictionary is None:
            raise refused(404, "this model has no dictionary", where="/dictionary", expected="model.dictionary > 0")
        seen = await self.inputs.images([image], at_least=0)
        read = self.inputs.texts([text or None], "text", at_least=0 if seen else 1)
        model = self.pipeline

        def codes() -> list[int]:
            images, texts = model.encode_images(seen) if seen else None, model.encode_texts(read) if read else None
            found = model.encoder.codes(images, texts)
            assert found is not None, "the model has a dictionary"
            return list(dict.fromkeys(found.ravel().tolist()))

        return schemas.Chosen(entries=await self.batcher.alone(codes))

    async def example(self, number: int) -> Response:
        """An image of the page's examples."""
        if not 0 <= number < len(self.site.examples):
            raise refused(404, "no such example", got=number, expected=f"0 to {len(self.site.examples) - 1}")
        data = self.site.examples[number].data
        return Response(data, media_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg")

    # ---- runs, and the server itself ------------------------------------------------------------------------------

    async def runs(self) -> schemas.Runs:
        """Evaluated runs beside the one that is served."""
        return schemas.Runs(runs=list(self.known_runs.folders), reports=self.known_runs.reports())

    async def compare(self, runs: Strings = None) -> schemas.Comparison:
        """Settings and scores of up to six runs side by side; the first is what the others are held against."""
        if not 1 <= len(runs or ()) <= 6:
            raise refused(422, "runs to compare", where="runs", got=len(runs or ()), expected="1 to 6 names")
        return await asyncio.to_thread(self.known_runs.compared, [self._run(run) for run in runs or ()])

    async def report(self, run: str) -> HTMLResponse:
        """The report of a run, one page without other files."""
        if run not in self.known_runs.reports():
            raise refused(404, "no report of this run", got=run, expected=", ".join(self.known_runs.reports()))
        return HTMLResponse(await asyncio.to_thread(self.known_runs.report, run))

    async def health(self) -> schemas.Health:
        return schemas.Health(status="ok", model=self.site.facts)

    async def count(self) -> PlainTextResponse:
        """Counters as Prometheus text."""
        text = prometheus_client.generate_latest(self.metrics.registry)
        return PlainTextResponse(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def page(self) -> HTMLResponse:
        return self.site.response()

    # ---- inside ---------------------------------------------------------------------------------------------------

    async def _joined(self, key: tuple[Any, ...], run: Run, rows: list[Any]) -> Any:
        """run(rows) with rows of other requests, unless texts of a pass change each other's answers (as released)."""
        return await self.batcher.submit(object() if self.pipeline.encoder.batch_dependent else key, run, rows)

    async def _embedded(self, images: list[np.ndarray], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) and (M, D) of images and texts, either of which may be none."""
        image = await self._joined(("image",), lambda rows: self.pipeline.encode_image(rows), images) if images else []
        text = await self._joined(("text",), lambda rows: self.pipeline.encode_text(rows), texts) if texts else []
        width = self.pipeline.model.width
        return np.reshape(image, (len(images), width)), np.reshape(text, (len(texts), width))

    def _collection(self) -> ImageCollection:
        if self.collection is None:
            do = "unimo index MODEL --images FOLDER --out INDEX, then unimo serve MODEL --index INDEX"
            raise refused(404, "nothing to search", where="/search", got="no index", expected="--index", do=do)
        return self.collection

    def _run(self, name: str) -> str:
        if name not in self.known_runs.folders:
            near = nearest(name, self.known_runs.folders)
            do = f"did you mean {near}?" if near else "GET /runs names them"
            raise refused(404, "no such run", where="runs", got=name, do=do)
        return name

    async def _attention(
        self, images: Sequence[np.ndarray], texts: Sequence[str], *, written: bool = False
    ) -> list[schemas.Attention]:
        """The maps of some texts beside some images, each pair a pass of its own."""
        found, model = [], self.pipeline
        for image, text in zip(images, texts):
            ids = model.mask_filler.row_of(text)[0] if MASK in text else model.encoder.frame(text)
            maps = await self.batcher.alone(partial(rollout, model, image, ids, written=written))
            pieces = [MASK if i == model.tokenizer.mask else model.tokenizer.decode([i]) for i in ids]
            side = round(maps.shape[1] ** 0.5)
            found.append(schemas.Attention(side=side, pieces=pieces[1:-1], maps=maps[1:-1].round(5).tolist()))
        return found


def _sides(rows: list[Any]) -> tuple[bool, bool]:
    """Whether rows have texts, and whether they have images: only like ones are joined."""
    return rows[0][0] is not None, rows[0][1] is not None


def _classified(pipeline: Pipeline, rows: list[Any]) -> np.ndarray:
    texts, images = columns(rows)
    return pipeline.classify(images, texts=texts)
