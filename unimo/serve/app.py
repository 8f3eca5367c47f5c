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
from unimo.evaluation.compare import Tables
from unimo.inference import PROMPTS, Pipeline
from unimo.inference.mask_filling import MASK
from unimo.retrieval import RerankBy
from unimo.serve import failures, schemas
from unimo.serve.attention import rollout
from unimo.serve.batching import Batcher
from unimo.serve.collection import ImageCollection, Runs
from unimo.serve.guard import Guard, refused
from unimo.serve.inputs import Files, Inputs, OneFile, OneText, Row, Text, Texts, columns
from unimo.serve.limits import MAX_PAIRS, MAX_PROMPTS, Limits
from unimo.serve.metrics import Metrics
from unimo.serve.page import Page
from unimo.version import __version__

WithAttention = Annotated[bool, Form(description="also which patches reached each piece of the text")]
TopK = Annotated[int, Form(ge=1, le=100)]
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
    limits = limits or Limits()
    service = Service(pipeline, collection, runs or Runs({}), name, limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.batcher.close()

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
    app.get("/examples/{number}/regions", **shown)(service.example_regions)
    app.get("/", response_class=HTMLResponse, include_in_schema=False)(service.page)
    paths = ["/openapi.json", "/", *(route.path for route in app.routes if hasattr(route, "path"))]
    failures.handle(app, paths)
    app.add_middleware(Guard, limits=limits, metrics=service.metrics, paths=paths, token=token, hosts=hosts)
    return app


class Service:
    """What the endpoints share; each public coroutine is one of them."""

    def __init__(self, pipeline: Pipeline, collection: ImageCollection | None, runs: Runs, name: str, limits: Limits):
        self.pipeline, self.collection, self.known_runs = pipeline, collection, runs
        self.metrics, self.site, self.inputs = Metrics(), Page(pipeline, collection, name), Inputs(limits, pipeline)
        # Texts of a pass may change each other's answers (UNIMO-2 as released): then none are joined.
        max_batch = 1 if pipeline.encoder.batch_dependent else limits.max_batch
        self.batcher = Batcher(wait=limits.wait, max_batch=max_batch, on_pass=self.metrics.model_pass)
        self.metrics.waiting.set_function(lambda: self.batcher.waiting)

    # ---- the model ------------------------------------------------------------------------------------------------

    async def caption(
        self,
        images: Files,
        num_beams: Annotated[int, Form(ge=1, le=8)] = 1,
        max_length: Annotated[int, Form(ge=1, le=100)] = 50,
        attention: WithAttention = False,
    ) -> schemas.Captions:
        """A sentence for each image."""
        seen = await self.inputs.images(images)
        options: dict[str, Any] = {"num_beams": num_beams, "max_length": max_length}
        key = ("caption", num_beams, max_length)
        written = await self.batcher.submit(key, lambda rows: self.pipeline.caption(rows, **options), seen)
        maps = await self._attention(seen, written, written=True) if attention else None
        return schemas.Captions(captions=written, attention=maps)

    async def answer(
        self, texts: Texts = (), text_pairs: Texts = (), images: Files = (), attention: WithAttention = False
    ) -> schemas.Answers:
        """The likeliest answer or class of each row by the head of a fine-tuned model; of a regression, its number."""
        rows = await self.inputs.rows(texts, text_pairs, images)
        key = ("answer", *_sides(rows))
        answers = await self.batcher.submit(key, lambda rows: self.pipeline.answer(*columns(rows)), rows)
        maps = await self._attention([image for _, image in rows], texts) if attention and images else None
        return schemas.Answers(answers=answers, attention=maps)

    async def classify(
        self,
        images: Files = (),
        texts: Texts = (),
        text_pairs: Texts = (),
        names: Texts = (),
        prompts: Annotated[Sequence[Text], Form(max_length=MAX_PROMPTS)] = PROMPTS,
    ) -> schemas.Classes:
        """Probabilities of the named classes for each image (zero-shot), or of a fine-tuned model's own classes."""
        model = self.pipeline
        rows = await self.inputs.rows(() if names else texts, () if names else text_pairs, images)

        def run(rows: list[Row]) -> np.ndarray:
            read, seen = columns(rows)
            return model.classify(seen, names or None, texts=read, prompts=prompts)

        found = await self.batcher.submit(("classify", *_sides(rows), tuple(names), tuple(prompts)), run, rows)
        return schemas.Classes(names=list(names or model.labels), probabilities=[row.tolist() for row in found])

    async def embed(self, images: Files = (), texts: Texts = ()) -> schemas.Embeddings:
        """Embeddings of images, texts or both."""
        if not images and not texts:
            raise refused(422, "nothing to embed", where="images, texts", expected="at least one of either")
        seen, read = await self._embedded(await self.inputs.images(images), texts)
        return schemas.Embeddings(images=seen.tolist(), texts=read.tolist())

    async def similarity(
        self,
        images: Files,
        texts: Texts,
        by: Annotated[Literal["cosine", "matching"], Form(description="matching: read together (log-odds)")] = "cosine",
    ) -> schemas.Scores:
        """How well every image fits every text."""
        if by == "matching" and len(images) * len(texts) > MAX_PAIRS:
            got, expected = f"{len(images)} x {len(texts)}", f"at most {MAX_PAIRS}"
            raise refused(422, "too many pairs of images and texts", got=got, expected=expected)
        seen = await self.inputs.images(images)
        if by == "cosine":
            image, text = await self._embedded(seen, texts)
            return schemas.Scores(scores=(image @ text.T).tolist())
        pairs = [(text, image) for image in seen for text in texts]
        scores = await self.batcher.submit("matching", partial(_matched, self.pipeline), pairs)
        return schemas.Scores(scores=np.reshape(scores, (len(seen), len(texts))).tolist())

    async def fill_mask(
        self,
        text: Annotated[Text, Form(description=f"with one {MASK}")],
        image: OneFile = None,
        top_k: TopK = 5,
        attention: WithAttention = False,
    ) -> schemas.Filled:
        """The likeliest pieces at the one [MASK] of a text, beside an image or alone."""
        row = (text, *(await self.inputs.images([image]) or [None]))

        def run(rows: list[Row]) -> list[list[tuple[str, float]]]:
            texts, images = columns(rows)
            return self.pipeline.fill_masks(texts or [], images, top_k=top_k)

        (found,) = await self.batcher.submit(("fill-mask", *_sides([row]), top_k), run, [row])
        maps = await self._attention([row[1]], [text]) if attention and image else None
        return schemas.Filled(tokens=[x for x, _ in found], probabilities=[p for _, p in found], attention=maps)

    # ---- the collection -------------------------------------------------------------------------------------------

    async def search(
        self,
        text: OneText = None,
        image: OneFile = None,
        top_k: TopK = 10,
        only: Annotated[Literal["texts", "images"] | None, Form()] = None,
        rerank: Annotated[int, Form(ge=0, le=100, description="so many are read together with the query")] = 0,
        rerank_by: Annotated[RerankBy, Form(description="by the matching head, or by the likelihood of captions")] = (
            "matching"
        ),
        thumbnails: Annotated[bool, Form(description="with the image of each hit")] = False,
        meta: Annotated[bool, Form(description="with what its record says beside it")] = False,
    ) -> schemas.Hits:
        """What lies in the collection near a text, an image or both."""
        collection = self.collection
        if collection is None:
            do = "unimo index MODEL --images FOLDER --out INDEX, then unimo serve MODEL --index INDEX"
            raise refused(404, "nothing to search", where="/search", got="no index", expected="--index", do=do)
        query = (text, *(await self.inputs.images([image]) or [None]))
        options: dict[str, Any] = {"top_k": top_k, "only": only, "rerank": rerank, "rerank_by": rerank_by}
        # A second stage fills passes of its own; joined, it would only hold up the others.
        key = object() if rerank else ("search", top_k, only)
        (hits,) = await self.batcher.submit(key, lambda rows: collection.index.search_many(rows, **options), [query])
        nothing = [None] * len(hits)
        shown = await asyncio.to_thread(collection.thumbnails, hits) if thumbnails else nothing
        records = await asyncio.to_thread(list, map(collection.index.meta, hits)) if meta else nothing
        rows = zip(hits, shown, records)
        return schemas.Hits(hits=[schemas.Found(**hit.to_dict(), thumbnail=uri, meta=said) for hit, uri, said in rows])

    async def entries(self) -> schemas.Dictionary:
        """The entries of the grounded dictionary that the collection's pairs choose most, with patches and words."""
        if self.collection is None or self.collection.dictionary is None:
            expected = "a model with a dictionary, and an index of pairs"
            raise refused(404, "no dictionary to look into", where="/dictionary", expected=expected)
        return self.collection.dictionary

    async def dictionary(self, text: OneText = None, image: OneFile = None) -> schemas.Chosen:
        """The entries of the grounded dictionary that a text, an image or both choose."""
        model = self.pipeline
        if model.model.dictionary is None:
            raise refused(404, "this model has no dictionary", where="/dictionary", expected="model.dictionary > 0")
        if text is None and image is None:
            raise refused(422, "nothing to look up", where="text, image", expected="a text, an image or both")
        seen = await self.inputs.images([image])

        def codes() -> list[int]:
            images, texts = model.encode_images(seen) if seen else None, model.encode_texts([text]) if text else None
            found = model.encoder.codes(images, texts)
            assert found is not None, "the model has a dictionary"
            return list(dict.fromkeys(found.ravel().tolist()))

        return schemas.Chosen(entries=await self.batcher.alone(codes))

    async def example(self, number: int) -> Response:
        """An image of the page's examples."""
        data = self.site.example(number).data
        return Response(data, media_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg")

    async def example_regions(self, number: int) -> schemas.Regions:
        """The regions of an example, as a UNIMO model reads them in the place of an image."""
        found = self.site.example(number).regions
        if found is None:
            raise refused(404, "no regions here", got=number, expected="a UNIMO model and an index of its images")
        corners = found.boxes[1:, :4].tolist()  # without [IMG]; fractions are pixels of an image of 1 x 1
        whole, *features = found.features.tolist()
        return schemas.Regions(width=1, height=1, boxes=corners, features=features, whole=whole)

    # ---- runs, and the server itself ------------------------------------------------------------------------------

    async def runs(self) -> dict[str, list[str]]:
        """Evaluated runs beside the one that is served, and which of them have a report at /runs/NAME/report."""
        return {"runs": list(self.known_runs.folders), "reports": self.known_runs.reports()}

    async def compare(self, runs: Annotated[Sequence[Text], Form(min_length=1, max_length=6)]) -> Tables:
        """Settings and scores of up to six runs side by side; the first is what the others are held against."""
        for name in runs:
            if name not in self.known_runs.folders:
                near = nearest(name, self.known_runs.folders)
                do = f"did you mean {near}?" if near else "GET /runs names them"
                raise refused(404, "no such run", where="runs", got=name, do=do)
        return await asyncio.to_thread(self.known_runs.score_tables, runs)

    async def report(self, run: str) -> HTMLResponse:
        """The report of a run, one page without other files."""
        if run not in self.known_runs.reports():
            raise refused(404, "no report of this run", got=run, expected=", ".join(self.known_runs.reports()))
        return HTMLResponse(await asyncio.to_thread(self.known_runs.report, run))

    async def health(self) -> dict[str, Any]:
        """What is served: for probes, answered without a token."""
        return {"status": "ok", "model": self.site.facts}

    async def count(self) -> PlainTextResponse:
        """Counters as Prometheus text."""
        text = prometheus_client.generate_latest(self.metrics.registry)
        return PlainTextResponse(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def page(self) -> HTMLResponse:
        return self.site.response()

    # ---- inside ---------------------------------------------------------------------------------------------------

    async def _embedded(self, images: list[Any], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) and (M, D) of images and texts, either of which may be none."""
        model, width = self.pipeline, self.pipeline.model.width
        image = await self.batcher.submit("images", lambda rows: model.encode_image(rows), images) if images else []
        text = await self.batcher.submit("texts", lambda rows: model.encode_text(rows), [*texts]) if texts else []
        return np.reshape(image, (-1, width)), np.reshape(text, (-1, width))

    async def _attention(
        self, images: Sequence[Any], texts: Sequence[str], *, written: bool = False
    ) -> list[schemas.Attention]:
        """The maps of some texts beside some images, each pair a pass of its own."""
        found, model = [], self.pipeline
        if model.sees_regions:
            raise refused(422, "attention is shown on patches, and this model reads regions", where="attention")
        for image, text in zip(images, texts):
            ids = model.mask_filler.row_of(text)[0] if MASK in text else model.encoder.frame(text)
            maps = await self.batcher.alone(partial(rollout, model, image, ids, written=written))
            pieces = [MASK if i == model.tokenizer.mask else model.tokenizer.decode([i]) for i in ids]
            side = round(maps.shape[1] ** 0.5)
            found.append(schemas.Attention(side=side, pieces=pieces[1:-1], maps=maps[1:-1].round(5).tolist()))
        return found


def _sides(rows: list[Row]) -> tuple[bool, bool]:
    """Whether rows have texts, and whether they have images: only like ones are joined."""
    return rows[0][0] is not None, rows[0][1] is not None


def _matched(pipeline: Pipeline, rows: list[Row]) -> np.ndarray:
    """Matching scores of rows of a text and an image, each of which passes its tower once."""
    texts, images = list({text: None for text, _ in rows}), list({id(image): image for _, image in rows}.values())
    text_at, image_at = ({key: i for i, key in enumerate(keys)} for keys in (texts, map(id, images)))
    pairs = np.array([(image_at[id(image)], text_at[text]) for text, image in rows])
    return pipeline.match(pipeline.encode_images(images), pipeline.encode_texts(texts), pairs)
