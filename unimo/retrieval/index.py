"""`unimo search`: what lies in an index near a text, an image, or both.

    D width · k found

A query is one vector of length 1: its text (the mean of its passages, if long), its image, or the mean of both. Search
compares it with every row, or with some cells of an inverted file (IVF; Sivic and Zisserman, "Video Google", 2003).
Texts and images found together take turns: the best of both kinds, then the second best, at equal rank the larger
cosine first. Embeddings of the two modalities lie apart (Liang et al., "Mind the gap", 2022): by cosine alone, a text
finds nearly every text before the first image.

In a second stage the best are read together with the query, images with its text, texts with its image: scored by the
matching head (`Pipeline.match`) or by the likelihood of the text as a caption (`Pipeline.match_by_likelihood`). If the
query has both, the other side counts too: fused score + cosine, weighted as in the fused score. Each kind is then
ordered anew among the ranks it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.data.regions import ImageRegions
from unimo.errors import DataError, UsageError, WeightsError
from unimo.formats.columns import Fields, without
from unimo.formats.json_values import to_json
from unimo.inference import EncodedImages, EncodedTexts, ImageInput, Pipeline, identity, load
from unimo.inference.encoding import check_count
from unimo.inference.matching import BESIDE
from unimo.machine import free_memory
from unimo.paths import user_path
from unimo.regions.store import RegionStore
from unimo.retrieval import store
from unimo.retrieval.build import unit
from unimo.retrieval.hits import Hit, hit_of
from unimo.retrieval.passages import Passage, passages
from unimo.retrieval.store import KINDS, Kind

Only = Literal["texts", "images"]
RerankBy = Literal["matching", "likelihood"]
_COLUMNS = ("kind", "key", "path", "place", "text", "begin", "end", "data", "item", "vector")
_SPARE = 16  # more than are wanted: the library compares in single precision, so near ties may change places
_CELLS = 32  # of an inverted file that are compared with a query


@dataclass(frozen=True)
class _Query:
    vector: np.ndarray  # (D,)
    texts: EncodedTexts | None
    images: EncodedImages | None
    sides: dict[Kind, np.ndarray]  # the vector of each side it has


def open_index(
    folder: str | Path,
    *,
    model: Pipeline | str | Path | None = None,
    device: str | None = None,
    approximate: bool = False,
) -> Index:
    """Opens what `unimo index` wrote.

    model: the one it was made with, if it lies elsewhere by now. approximate: search the inverted file, if one was
    made; some of the nearest may be missed. Rows that are added later are not seen.

    Raises DataError for a folder that is unfinished or damaged; a model that is missing or another one raises
    WeightsError when it is first needed.
    """
    return Index(user_path(folder, "index"), model, device, approximate)


class Index:
    """An opened search index. rows: kind -> how many. table: its rows, of LanceDB, as `unimo.retrieval.store` says."""

    def __init__(
        self,
        folder: Path,
        model: Pipeline | str | Path | None = None,
        device: str | None = None,
        approximate: bool = False,
    ):
        self.folder, self.device, self.approximate = folder, device, approximate
        self.header = store.read_header(folder)
        if not self.header["finished"]:
            do = "run the same `unimo index` again: it goes on where it stopped"
            raise DataError("not a finished index", where=folder, do=do)
        self.table = store.open_finished(folder, self.header)
        if approximate and not self.table.list_indices():
            do = "make the index with --approximate, or search without"
            raise UsageError("the index has no inverted file", where=folder, do=do)
        with store.reading(folder):
            self.rows: dict[Kind, int] = {kind: self.table.count_rows(store.of(kind)) for kind in KINDS}
        self._vectors: dict[Kind, store.Vectors] = {}
        self._corpora: dict[int, tuple[Corpus, RegionStore | None]] = {}
        self._beside: EncodedImages | None = None
        self._model: Pipeline | None = None
        self._given = model

    def __len__(self) -> int:
        return sum(self.rows.values())

    @property
    def model(self) -> Pipeline:
        """The model that encodes queries, loaded when first needed. WeightsError if it is not the index's own."""
        if self._model is None:
            source = self._given or self.header["source"]
            if not source:
                what, expected = "the index does not say where its model is", "the model it was made with"
                raise WeightsError(what, where=self.folder, expected=expected, do="name it with --model")
            model = source if isinstance(source, Pipeline) else load(source, device=self.device)
            found, expected = identity(model)["sha256"], self.header["model"]["sha256"]
            if found != expected:
                raise WeightsError(
                    "this is not the model the index was made with",
                    where="the model given" if isinstance(source, Pipeline) else source,
                    got=f"sha256 {found[:16]}…",
                    expected=f"sha256 {expected[:16]}…",
                    do=f"name that model ({self.header['source'] or 'it was in memory'}), or make the index anew",
                )
            self._model = model
        return self._model

    def search(
        self,
        text: str | None = None,
        image: ImageInput | None = None,
        *,
        top_k: int = 10,
        only: Only | None = None,
        rerank: int = 0,
        rerank_by: RerankBy = "matching",
    ) -> list[Hit]:
        """The `top_k` rows nearest to a text, an image or both, best first; all, if there are fewer.

        only: texts or images. rerank: so many of the nearest are read together with the query; more than there are
        means all. rerank_by: by which score, `Pipeline.match` or `Pipeline.match_by_likelihood`. UNIMO's images are
        regions (`unimo.data.regions.image_regions`).

        Raises UsageError for an empty query, numbers below 1, a kind that is not in the index, and a second stage in
        which no image would meet a text; DataError when an image to re-rank is gone or has changed.
        """
        return self.search_many([(text, image)], top_k=top_k, only=only, rerank=rerank, rerank_by=rerank_by)[0]

    def search_many(
        self,
        queries: Sequence[tuple[str | None, ImageInput | None]],
        *,
        top_k: int = 10,
        only: Only | None = None,
        rerank: int = 0,
        rerank_by: RerankBy = "matching",
    ) -> list[list[Hit]]:
        """`search` for several queries, a text, an image or both each, which pass the towers together."""
        kinds = self._kinds(only)
        check_count("top_k", top_k)
        check_count("rerank", rerank, 0)
        if rerank_by not in get_args(RerankBy):
            expected = " or ".join(get_args(RerankBy))
            raise UsageError("unknown score", where="rerank_by", got=rerank_by, expected=expected)
        if rerank and rerank_by == "matching":
            self.model.matcher.require()
        if not queries:
            return []
        asked = self._queries(queries)
        vectors = np.stack([query.vector for query in asked])
        nearest = [self.nearest(vectors, kind, max(top_k, rerank)) for kind in kinds]
        return [
            self._found(query, dict(zip(kinds, rows)), top_k, rerank, rerank_by)
            for query, *rows in zip(asked, *nearest)
        ]

    def _found(
        self,
        query: _Query,
        nearest: dict[Kind, list[dict[str, Any]]],
        top_k: int,
        rerank: int,
        by: RerankBy,
    ) -> list[Hit]:
        """The two stages of one query, from the rows of each kind that are nearest to it."""
        fusible = [kind for kind in nearest if (query.texts if kind == "image" else query.images) is not None]
        if rerank and not fusible:
            raise UsageError(
                "a second stage reads images beside texts",
                got=f"{' and '.join(query.sides)} looking for {' and '.join(nearest)}",
                expected="a text looking for images, an image looking for texts, or both",
                do="leave --rerank away, or --only",
            )
        ranked = [(rank, -row["score"], row) for rows in nearest.values() for rank, row in enumerate(rows)]
        found = [row for *_, row in sorted(ranked, key=lambda one: one[:2])]
        for kind in fusible if rerank else ():
            self._rerank(query, kind, found, rerank, by)
        return [hit_of(1 + i, row) for i, row in enumerate(found[:top_k])]

    def image_bytes(self, hit: Hit) -> bytes | None:
        """The image file of a hit, or the one beside its caption; None for a text alone. Raises what `search` does."""
        corpus, _ = self._corpus(hit.data)
        return None if corpus.kind == "texts" else corpus.image_bytes(hit.item)

    def meta(self, hit: Hit) -> dict[str, Any] | None:
        """What the record of a hit says beside image, text and captions, as JSON can hold it: further columns of its
        table, fields of its JSON. None where the data are no longer there as they were indexed."""
        try:
            corpus, _ = self._corpus(hit.data)
            return to_json(without(corpus.meta(hit.item), corpus.fields.parts(corpus.kind)))
        except DataError:
            return None

    def regions(self, hit: Hit) -> ImageRegions | None:
        """What UNIMO reads of a hit's image; None for a model that sees pixels. Raises what `image_bytes` does."""
        _, regions = self._corpus(hit.data)
        return None if regions is None else regions.image(hit.item)

    def nearest(self, vectors: np.ndarray, kind: Kind, k: int) -> list[list[dict[str, Any]]]:
        """The k rows of a kind nearest to each vector (Q, D) of length 1, with their cosines as `score`, best first.

        Equal rows stand in the order they have in the index. Raises DataError where a row found is not of length 1.
        """
        with store.reading(self.folder):
            if self._too_large(kind):
                found = [self._scanned(vector, kind, k) for vector in vectors]
            else:
                found = self._exactly(vectors, kind, k)
        return [self._scored(rows, vector)[:k] for rows, vector in zip(found, vectors)]

    def _scored(self, found: list[dict[str, Any]], vector: np.ndarray) -> list[dict[str, Any]]:
        rows = []
        for row in found:
            stored = np.asarray(row["vector"], np.float64)
            length = float(np.linalg.norm(stored))
            if not abs(length - 1) <= store.UNIT_TOLERANCE:  # also true of NaN
                raise store.not_of_length_one(self.folder, row["key"], length)
            rows.append({**row, "vector": stored, "score": float(stored @ vector)})
        return sorted(rows, key=lambda row: (-np.float32(row["score"]), row["_rowid"]))

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _too_large(self, kind: Kind) -> bool:
        """Whether the vectors of a kind are not to be held in memory; those of an inverted file never are."""
        free = free_memory()
        needed = 2 * self.rows[kind] * self.header["width"]
        return self.approximate or (kind not in self._vectors and free is not None and 4 * needed > free)

    def _exactly(self, vectors: np.ndarray, kind: Kind, k: int) -> list[list[dict[str, Any]]]:
        """Of all queries with one look into the table, which costs more than comparing."""
        if kind not in self._vectors:
            self._vectors[kind] = store.vectors(self.folder, self.table, kind)
        found = self._vectors[kind].nearest(vectors, k)
        rows = {row["_rowid"]: row for row in store.at(self.table, np.unique(np.concatenate(found)), _COLUMNS)}
        return [[rows[number] for number in ids.tolist()] for ids in found]

    def _scanned(self, vector: np.ndarray, kind: Kind, k: int) -> list[dict[str, Any]]:
        """Somewhat more than k rows, by the library."""
        search = self.table.search(vector.astype(np.float32)).distance_type("dot").where(store.of(kind), prefilter=True)
        search = search.nprobes(_CELLS) if self.approximate else search.bypass_vector_index()
        return search.select([*_COLUMNS, "_distance"]).with_row_id(True).limit(k + _SPARE).to_arrow().to_pylist()

    def _kinds(self, only: Only | None) -> list[Kind]:
        known: dict[str | None, tuple[Kind, ...]] = {None: KINDS, "texts": ("text",), "images": ("image",)}
        if only not in known:
            raise UsageError("unknown kind", where="only", got=only, expected="texts or images")
        kinds = [kind for kind in known[only] if self.rows[kind]]
        if not kinds:
            raise UsageError(f"the index holds no {only}", where=self.folder, got=self.rows)
        return kinds

    def _queries(self, given: Sequence[tuple[str | None, ImageInput | None]]) -> list[_Query]:
        """Both towers once over everything that is given, and what each query has of it."""
        pieces = [self._passages(text, image) for text, image in given]
        ids = [piece.ids for some in pieces for piece in some]
        seen = [image for _, image in given if image is not None]
        texts = _portions(self.model.encode_texts(ids) if ids else None, [len(some) for some in pieces])
        images = _portions(self.model.encode_images(seen) if seen else None, [int(i is not None) for _, i in given])
        return [_query(*sides) for sides in zip(texts, images)]

    def _passages(self, text: str | None, image: ImageInput | None) -> list[Passage]:
        """Of a query's text; UsageError for a query of nothing."""
        if text is not None and not isinstance(text, str):
            raise UsageError("not a text", got=type(text).__name__, expected="a string")
        if image is None and not (text or "").strip():
            raise UsageError("an empty query", got=repr(text), expected="a text, an image or both")
        return passages(text or "", self.model.tokenizer, self.model.max_length - 2)

    # ---- second stage ----------------------------------------------------------------------------------------------

    def _rerank(self, query: _Query, kind: Kind, found: list[dict[str, Any]], k: int, by: RerankBy) -> None:
        """Orders the rows of a kind among the first k anew, by their fused score, among the ranks they hold."""
        ranks = [i for i, row in enumerate(found[:k]) if row["kind"] == kind]
        rows = [found[i] for i in ranks]
        if not rows:
            return
        if kind == "image":
            assert query.texts is not None
            images, texts = self.model.encode_images([self._image(row) for row in rows]), query.texts
        else:
            assert query.images is not None
            ids = self.model.tokenizer.encode_batch([row["text"] for row in rows])
            images, texts = query.images, self.model.encode_texts([np.asarray(row, np.int64) for row in ids])
        pairs = np.stack(np.divmod(np.arange(len(images) * len(texts)), len(texts)), axis=1)
        if by == "matching":
            scores = self.model.match(images, texts, pairs)
        else:
            beside = self._some_images() if kind == "text" else None
            scores = self.model.match_by_likelihood(images, texts, pairs, beside=beside)
        scores = scores.reshape(len(images), len(texts))
        fused = scores.mean(1) if kind == "image" else scores.mean(0)
        if kind in query.sides:
            cosine = np.stack([row["vector"] for row in rows]) @ query.sides[kind]
            fused = fused + self.model.matcher.cosine_score(cosine)
        for i, j in zip(ranks, np.argsort(-fused, kind="stable")):
            found[i] = {**rows[j], "fused": float(fused[j])}

    def _some_images(self) -> EncodedImages:
        """Images of the index by which its texts are judged in general, encoded once."""
        if not self.rows["image"]:
            raise UsageError(
                "how likely a text is in general is judged beside images of the index",
                where="rerank_by",
                got="likelihood, and an index without images",
                expected="an index of pairs or images",
                do="re-rank by matching",
            )
        if self._beside is None:
            with store.reading(self.folder):
                rows = store.some(self.table, "image", BESIDE, _COLUMNS)
            self._beside = self.model.encode_images([self._image(row) for row in rows])
        return self._beside

    def _image(self, row: dict[str, Any]) -> ImageInput:
        """What the model sees of an image."""
        corpus, regions = self._corpus(row["data"])
        return regions.image(row["item"]) if regions else corpus.image_bytes(row["item"])

    def _corpus(self, number: int) -> tuple[Corpus, RegionStore | None]:
        """A corpus of the index, and UNIMO's regions. DataError where it is not as it was when it was indexed."""
        if number not in self._corpora:
            entry = self.header["data"][number]
            options: dict[str, Any] = {
                "index_dir": entry["index_dir"],
                "bad_samples": BadSamples(),
                "max_bad_fraction": 1.0,
            }
            options |= {"tokenizer": self.model.tokenizer, "fields": Fields.of(entry["columns"])}
            corpus = open_corpus(entry["kind"], entry["paths"], **options)
            if corpus.fingerprint != entry["fingerprint"]:
                raise DataError(
                    "the images are not those that were indexed",
                    where=", ".join(entry["paths"]),
                    got=f"fingerprint {corpus.fingerprint[:16]}…",
                    expected=f"fingerprint {entry['fingerprint'][:16]}…",
                    do="restore them, make the index anew, or search without --rerank",
                )
            shown = self.model.sees_regions and corpus.kind != "texts"
            regions = RegionStore.open(entry["region_paths"] or None, corpus) if shown else None
            self._corpora[number] = corpus, regions
        return self._corpora[number]


def _portions(encoded: Any, counts: list[int]) -> list[Any]:
    """Encoded texts or images, so many for each query; None where it has none."""
    numbers = torch.arange(sum(counts)).split(counts)
    return [encoded.pick(some.to(encoded.embedding.device)) if len(some) else None for some in numbers]


def _query(texts: EncodedTexts | None, images: EncodedImages | None) -> _Query:
    given: dict[Kind, EncodedTexts | EncodedImages | None] = {"text": texts, "image": images}
    sides = {kind: _mean_direction(unit(side.embedding)) for kind, side in given.items() if side is not None}
    return _Query(_mean_direction(np.stack(list(sides.values()))), texts, images, sides)


def _mean_direction(vectors: np.ndarray) -> np.ndarray:
    """(n, D) of length 1 -> (D,) their mean, of length 1; UsageError where they cancel or one is not finite."""
    mean = vectors.astype(np.float64).mean(0)
    length = float(np.linalg.norm(mean))
    if not length > 1e-6:  # also true of NaN
        raise UsageError(
            "the query has no direction", got=f"length {length:g}", expected="an embedding that is not zero"
        )
    return mean / length
