"""The rows of one part of an index: what the towers read of some items, and what cannot be encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from unimo.config import fingerprint
from unimo.corpus.corpus import Corpus
from unimo.data.images import load_rgb
from unimo.errors import DataError, NumericsError, UnimoError
from unimo.inference import ImageInput, Pipeline
from unimo.regions.store import RegionStore
from unimo.retrieval.files import Kind, Row, write_part
from unimo.retrieval.models import IMAGES_AT_ONCE, TEXTS_AT_ONCE, embed_images, embed_texts
from unimo.retrieval.passages import passages

Read = Iterator[tuple[Row, Any]]  # a row, and what its tower reads: ids of a passage, or an image


@dataclass(frozen=True)
class Work:
    """The items [first, end) of a corpus that become one part."""

    number: int
    corpus: int
    kind: Kind
    first: int
    end: int


class Bad(dict[tuple[int, int], dict[str, Any]]):
    """(item, caption) -> its key and the parts of its error, for what is left out. A document counts once."""

    def note(self, item: int, caption: int, key: str, error: UnimoError) -> None:
        self.setdefault((item, caption), {"item": item, "key": key, **error.parts()})


@dataclass
class Encoder:
    """Writes parts. stores: the regions of each corpus, or None. passage: tokens. dtype: of the embeddings.

    sources: every shard, as index.json lists them.
    """

    pipeline: Pipeline
    corpora: list[Corpus]
    stores: list[RegionStore | None]
    passage: int
    dtype: np.dtype
    made_from: dict[str, Any]

    def __post_init__(self) -> None:
        forms = {str(path.absolute()): form for corpus in self.corpora for path, form in corpus.shards}
        self.sources = [{"path": path, "form": form} for path, form in forms.items()]
        self._number = {path: i for i, path in enumerate(forms)}

    def header(self, work: Work) -> dict[str, Any]:
        """What decides the content of a part."""
        return {"made_from": fingerprint(self.made_from), **asdict(work)}

    def write(self, path: Path, work: Work) -> None:
        """Encodes the items of a part; its header also says how many were offered, and which are left out and why."""
        bad, kept = Bad(), list[Row]()
        blocks = [np.zeros((0, self.pipeline.model.width), self.dtype)]
        is_text = work.kind == "text"
        read = self._texts(work, bad) if is_text else self._images(work, bad)
        while some := list(islice(read, TEXTS_AT_ONCE if is_text else IMAGES_AT_ONCE)):
            inputs = [what for _, what in some]
            vectors = embed_texts(self.pipeline, inputs) if is_text else embed_images(self.pipeline, inputs)
            good = np.isfinite(vectors).all(1)
            blocks.append(vectors[good].astype(self.dtype))
            for (row, _), fine in zip(some, good):
                if fine:
                    kept.append(row)
                else:
                    error = NumericsError("the model gives no embedding", where=row.key, got="not finite, or zero")
                    bad.note(row.item, row.caption, row.key, error)
        header = {**self.header(work), "offered": self._offered(work), "bad": list(bad.values())}
        write_part(path, header, np.concatenate(blocks), kept)

    def _images(self, work: Work, bad: Bad) -> Read:
        corpus, store = self.corpora[work.corpus], self.stores[work.corpus]
        for i in range(work.first, work.end):
            try:
                image: ImageInput
                image = store.image(i) if store else load_rgb(corpus.image_bytes(i), where=corpus.where(i))
            except DataError as error:
                bad.note(i, 0, corpus.keys[i], error)
                continue
            place = corpus._image_at[i, 0] if corpus._image_at[i, 0] >= 0 else corpus._record_at[i, 0]
            yield Row(corpus.keys[i], "", i, source=self._source(corpus, i), place=int(place)), image

    def _texts(self, work: Work, bad: Bad) -> Read:
        corpus, tokenizer = self.corpora[work.corpus], self.pipeline.tokenizer
        for i in range(work.first, work.end):
            key, source, place = corpus.keys[i], self._source(corpus, i), int(corpus._record_at[i, 0])
            for j in range(_captions(corpus, i)):
                # Not from its file: a packed one would be unpacked from its beginning for each document.
                text = corpus.text(i, j) if corpus.kind == "pairs" else tokenizer.decode(corpus.tokens(i))
                found = passages(text, tokenizer, self.passage)
                if not found:
                    bad.note(i, j, key, DataError("a text without words", where=corpus.where(i), got=repr(text[:40])))
                for p in found:
                    yield Row(key, text[p.begin : p.end], i, j, source, place, p.begin, p.end), p.ids

    def _source(self, corpus: Corpus, i: int) -> int:
        return self._number[str(corpus.shard_of(i).absolute())]

    def _offered(self, work: Work) -> int:
        corpus, items = self.corpora[work.corpus], range(work.first, work.end)
        return len(items) if work.kind == "image" else sum(_captions(corpus, i) for i in items)


def _captions(corpus: Corpus, i: int) -> int:
    offsets = corpus.caption_offsets
    return 1 if offsets is None else int(offsets[i + 1] - offsets[i])
