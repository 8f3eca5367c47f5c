"""`unimo search`: what lies in an index near a text, an image, or both.

    Q queries · n rows of a kind (text or image) · D width · k found

A query is one vector of length 1: its text (the mean of its passages, if long), its image, or the mean of both. Every
row is compared with it, some rows at a time, in double precision: the order is exact, and equal rows stand in the order
they have in the index. Texts and images found together take turns: the best of both kinds, then the second best, at
equal place the larger cosine first. Embeddings of the two modalities lie apart (Liang et al., "Mind the gap", 2022): by
cosine alone, a text finds nearly every text before the first image.

In a second stage the best are read together with the query (`Pipeline.match`): images with its text, texts with its
image. If the query has both, the other side counts too: fused score + cosine, weighted as in the fused score. Each
kind is then ordered anew among the places it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from unimo.corpus.bad_samples import Ledger
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.errors import DataError, UsageError
from unimo.inference import EncodedImages, EncodedTexts, ImageInput, Pipeline
from unimo.model.unimo2 import UNIMO2
from unimo.nearest import Found, nearest
from unimo.paths import user_path
from unimo.ragged import offsets_of
from unimo.regions.store import RegionStore
from unimo.retrieval.approximate import METHODS, Approximate, Method
from unimo.retrieval.files import KINDS, Kind, Row, open_parts, read_folder
from unimo.retrieval.models import check_same, load_same, unit
from unimo.retrieval.passages import passages

Only = Literal["texts", "images"]


@dataclass(frozen=True)
class Hit:
    """What was found. kind: text or image. path: its file; place: the byte its record begins at in a shard, or None.

    text: the passage or caption, characters [begin, end) of its document. score: cosine with the query; storage in
    float16 moves it by 0.001 at most. fused: score of the second stage, or None.
    """

    rank: int
    kind: Kind
    key: str
    path: str
    place: int | None
    text: str
    begin: int
    end: int
    score: float
    fused: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    verify: bool = True,
    approximate_above: int | None = None,
    method: Method = "ivf",
) -> Index:
    """Opens what `unimo index` wrote.

    model: the one it was made with, if it lies elsewhere by now. verify: read every byte and compare it with what was
    written; without, only sizes and structure are checked. approximate_above: rows of a kind beyond which the search is
    approximate (extra `faiss`), by `method`, ivf or hnsw.

    Raises DataError for a folder that is unfinished, damaged or hostile; a model that is missing or another one raises
    WeightsError when it is first asked.
    """
    folder = user_path(folder, "index")
    if method not in METHODS:
        raise UsageError("unknown approximate search", got=method, expected=" or ".join(METHODS))
    index = Index(folder, read_folder(folder, hashes=verify), model, device)
    index.approximate_above, index.method = approximate_above, method
    if verify:
        for part in index.parts:
            part.verify()
    return index


class Index:
    """An opened index. rows: kind -> how many."""

    def __init__(
        self,
        folder: Path,
        header: dict[str, Any],
        model: Pipeline | str | Path | None = None,
        device: str | None = None,
    ):
        self.folder, self.header, self.device = folder, header, device
        self.parts = open_parts(folder, header)
        self.of_kind: dict[Kind, list[int]] = {
            kind: [i for i, part in enumerate(header["parts"]) if part["kind"] == kind] for kind in KINDS
        }
        self._first = {kind: offsets_of([len(self.parts[i]) for i in some]) for kind, some in self.of_kind.items()}
        self.rows = {kind: int(first[-1]) for kind, first in self._first.items()}
        self.approximate_above: int | None = None
        self.method: Method = "ivf"
        self._approximate: dict[Kind, Approximate] = {}
        self._corpora: dict[int, tuple[Corpus, RegionStore | None]] = {}
        self._model: Pipeline | None = None
        self._named = model

    def __len__(self) -> int:
        return sum(self.rows.values())

    @property
    def model(self) -> Pipeline:
        """The model that encodes queries, loaded when first needed. WeightsError if it is not the index's own."""
        if self._model is None:
            expected = self.header["made_from"]["model"]
            if isinstance(self._named, Pipeline):
                check_same(self._named, expected, where="the model given")
                self._model = self._named
            else:
                source = self._named or self.header["model"]["source"]
                self._model = load_same(source, expected, device=self.device)
        return self._model

    def search(
        self,
        text: str | None = None,
        image: ImageInput | None = None,
        *,
        top_k: int = 10,
        only: Only | None = None,
        rerank: int = 0,
    ) -> list[Hit]:
        """The `top` rows nearest to a text, an image or both, best first; all, if there are fewer.

        only: texts or images. rerank: so many of the nearest are read together with the query; more than there are
        means all. UNIMO's images are regions (`unimo.data.regions.image_regions`).

        Raises UsageError for an empty query, numbers below 1, a kind that is not in the index, and a second stage in
        which no image would meet a text; DataError when an image to re-rank is gone or has changed.
        """
        kinds = self._kinds(only)
        if text is not None and not isinstance(text, str):
            raise UsageError("not a text", got=type(text).__name__, expected="a string")
        if top_k < 1 or rerank < 0:
            raise UsageError(
                "nothing to show", got=f"top_k {top_k}, rerank {rerank}", expected="top_k >= 1, rerank >= 0"
            )
        if image is None and not (text or "").strip():
            raise UsageError("an empty query", got=repr(text), expected="a text, an image or both")
        if rerank:
            self.model.require_matching()
        query = self._query(text, image)
        fusible = [kind for kind in kinds if (query.texts if kind == "image" else query.images) is not None]
        if rerank and not fusible:
            raise UsageError(
                "a second stage reads images beside texts",
                got=f"{' and '.join(query.sides)} looking for {only or 'the same'}",
                expected="a text looking for images, an image looking for texts, or both",
                do="leave --rerank away, or --only",
            )
        hits: list[tuple[int, Hit]] = []  # with the number among the rows of its kind; ranked within its kind for now
        for kind in kinds:
            (found,) = self.nearest(query.vector[None], kind, max(top_k, rerank))
            for i, (number, score) in enumerate(zip(*found)):
                hits.append((int(number), self._hit(i, kind, int(number), float(score))))
        hits.sort(key=lambda one: (one[1].rank, -one[1].score))
        for kind in fusible if rerank else ():
            self._rerank(query, kind, hits, rerank)
        return [replace(hit, rank=1 + i) for i, (_, hit) in enumerate(hits[:top_k])]

    def nearest(self, queries: np.ndarray, kind: Kind, k: int) -> list[Found]:
        """Of each query (Q, D) the numbers and cosines of the k nearest rows of a kind, best first."""
        parts = [self.parts[i] for i in self.of_kind[kind]]
        blocks = (block for part in parts for block in part.blocks())
        if self.approximate_above is None or self.rows[kind] <= self.approximate_above:
            return nearest(queries, blocks, k)
        if kind not in self._approximate:
            self._approximate[kind] = Approximate(blocks, self.rows[kind], self.header["width"], self.method)
        return self._approximate[kind].nearest(queries, k)

    def row(self, kind: Kind, number: int) -> Row:
        """Where the row of this number among its kind comes from."""
        part, i = self._place(kind, number)
        return self.parts[part].row(i)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _kinds(self, only: Only | None) -> list[Kind]:
        known: dict[str | None, tuple[Kind, ...]] = {None: KINDS, "texts": ("text",), "images": ("image",)}
        if only not in known:
            raise UsageError("unknown kind", where="only", got=only, expected="texts or images")
        kinds = [kind for kind in known[only] if self.rows[kind]]
        if not kinds:
            raise UsageError(f"the index holds no {only}", where=self.folder, got=self.rows)
        return kinds

    def _query(self, text: str | None, image: ImageInput | None) -> _Query:
        texts = images = None
        sides: dict[Kind, np.ndarray] = {}
        if (text or "").strip():
            assert text is not None
            pieces = passages(text, self.model.tokenizer, self.model.max_length - 2)
            texts = self.model.encode_texts([piece.ids for piece in pieces])
            sides["text"] = _mean_direction(unit(texts.embedding))
        if image is not None:
            images = self.model.encode_images([image])
            sides["image"] = _mean_direction(unit(images.embedding))
        return _Query(_mean_direction(np.stack(list(sides.values()))), texts, images, sides)

    def _place(self, kind: Kind, number: int) -> tuple[int, int]:
        """The part of a row, and its number there."""
        first = self._first[kind]
        at = int(np.searchsorted(first, number, side="right")) - 1
        return self.of_kind[kind][at], number - int(first[at])

    def _hit(self, rank: int, kind: Kind, number: int, score: float) -> Hit:
        row = self.row(kind, number)
        place = None if row.place < 0 else row.place
        source = self.header["sources"][row.source]
        path = Path(source["path"])
        if source["form"] == "loose":
            path = path / row.key
        elif source["form"] == "jsonl" and kind == "image":
            path = path.parent / row.key
        return Hit(rank, kind, row.key, str(path), place, row.text, row.begin, row.end, score)

    # ---- second stage ----------------------------------------------------------------------------------------------

    def _rerank(self, query: _Query, kind: Kind, hits: list[tuple[int, Hit]], most: int) -> None:
        """Orders the hits of a kind among the first `most` anew, by their fused score, among the places they hold."""
        places = [i for i, (_, hit) in enumerate(hits[:most]) if hit.kind == kind]
        if not places:
            return
        numbers = [hits[i][0] for i in places]
        if kind == "image":
            assert query.texts is not None
            images, texts = self.model.encode_images([self._image(number) for number in numbers]), query.texts
        else:
            assert query.images is not None
            ids = self.model.tokenizer.encode_batch([hits[i][1].text for i in places])
            images, texts = query.images, self.model.encode_texts([np.asarray(row, np.int64) for row in ids])
        pairs = np.stack(np.divmod(np.arange(len(images) * len(texts)), len(texts)), axis=1)
        scores = self.model.match(images, texts, pairs).reshape(len(images), len(texts))
        fused = scores.mean(1) if kind == "image" else scores.mean(0)
        if kind in query.sides:
            fused = fused + self._nearness(np.stack([self._embedding(kind, n) for n in numbers]) @ query.sides[kind])
        order = np.argsort(-fused, kind="stable")
        moved = [(numbers[j], replace(hits[places[j]][1], fused=float(fused[j]))) for j in order]
        for place, hit in zip(places, moved):
            hits[place] = hit

    def _nearness(self, cosine: np.ndarray) -> np.ndarray:
        """What a cosine weighs beside a fused score: as much as in that score; as it is where that has none (UNIMO)."""
        model = self.model.model
        if not isinstance(model, UNIMO2):
            return cosine
        if self.model.trained_weight is not None:
            return self.model.trained_weight * cosine
        with torch.inference_mode():
            return model.contrastive_temperature(torch.from_numpy(cosine).to(self.model.device)).cpu().numpy()

    def _embedding(self, kind: Kind, number: int) -> np.ndarray:
        part, i = self._place(kind, number)
        return np.asarray(self.parts[part].embeddings[i], np.float32)

    def _image(self, number: int) -> ImageInput:
        """What the model sees of an image. DataError where its corpus is not as it was when it was indexed."""
        part, i = self._place("image", number)
        c, item = self.header["parts"][part]["corpus"], int(self.parts[part].arrays["items"][i])
        entry = self.header["corpora"][c]
        if c not in self._corpora:
            corpus = open_corpus(
                entry["kind"],
                entry["paths"],
                tokenizer=self.model.tokenizer,
                index_dir=entry["index_dir"],
                ledger=Ledger(),
                max_bad_fraction=1.0,
            )
            if corpus.fingerprint != entry["fingerprint"]:
                raise DataError(
                    "the images are not those that were indexed",
                    where=", ".join(entry["paths"]),
                    got=f"fingerprint {corpus.fingerprint[:16]}…",
                    expected=f"fingerprint {entry['fingerprint'][:16]}…",
                    do="restore them, make the index anew, or search without --rerank",
                )
            sees_regions = self.model.sees_regions
            self._corpora[c] = corpus, RegionStore.open(entry["region_paths"] or None, corpus) if sees_regions else None
        corpus, store = self._corpora[c]
        return store.image(item) if store else corpus.image_bytes(item)


def table(hits: Sequence[Hit], width: int = 100) -> list[str]:
    """One line for each hit: rank, cosine, fused score if any, kind, where it is, and how its text begins."""
    lines = []
    for hit in hits:
        fused = "" if hit.fused is None else f"{hit.fused:9.3f}"
        where = hit.path if hit.path.endswith(hit.key) else f"{hit.path} {hit.key}"
        line = f"{hit.rank:3}  {hit.score:6.3f}{fused}  {hit.kind:<5}  {where}  {hit.text[:width]}"
        # A text may come from anyone: no line breaks and no control characters on a terminal.
        lines.append("".join(c if c.isprintable() else " " for c in line).rstrip())
    return lines


def _mean_direction(vectors: np.ndarray) -> np.ndarray:
    """(n, D) of length 1 -> (D,) their mean, of length 1; UsageError where they cancel or one is not finite."""
    mean = vectors.astype(np.float64).mean(0)
    length = float(np.linalg.norm(mean))
    if not length > 1e-6:  # also true of NaN
        raise UsageError(
            "the query has no direction", got=f"length {length:g}", expected="an embedding that is not zero"
        )
    return mean / length
