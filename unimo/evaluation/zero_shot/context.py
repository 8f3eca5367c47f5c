"""What the tasks of one evaluation share: the model, corpora opened once, images and texts encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus, Kind, open_corpus
from unimo.data.held_out import HeldOut
from unimo.data.regions import ImageRegions
from unimo.formats.columns import Fields
from unimo.inference import BATCH_SIZE, EncodedImages, EncodedTexts, Pipeline
from unimo.metrics.intervals import Score
from unimo.regions.store import RegionStore
from unimo.rng import generator

Paths = tuple[str, ...]
Row = dict[str, Any]  # of a report's scores


@dataclass
class EvalContext:
    """Gives tasks what they need and remembers it, so that no image or text passes its tower twice.

    index_dir: where shard indexes go when they should not lie beside the shards. bad_samples: counts bad samples.
    fingerprints: of every corpus opened so far. regions: where UNIMO's regions lie, if not beside the shards.
    fields: of tables. batch_size: inputs of a forward pass.
    """

    pipeline: Pipeline
    index_dir: str | Path | None = None
    bad_samples: BadSamples = field(default_factory=BadSamples)
    regions: Paths = ()
    fields: Fields = field(default_factory=Fields)
    batch_size: int = BATCH_SIZE
    fingerprints: dict[str, str] = field(default_factory=dict)
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def corpus(self, kind: Kind, paths: Paths) -> Corpus:
        """The corpus behind some paths, opened once. Raises what `open_corpus` raises."""

        def opened() -> Corpus:
            options: dict[str, Any] = {"bad_samples": self.bad_samples, "index_dir": self.index_dir}
            return open_corpus(kind, list(paths), tokenizer=self.pipeline.tokenizer, fields=self.fields, **options)

        corpus = self._once((kind, tuple(paths)), opened)
        self.fingerprints[f"{kind}: {', '.join(map(str, paths))}"] = corpus.fingerprint
        return corpus

    def keep(self, kind: Kind, paths: Paths, corpus: Corpus) -> None:
        """Takes a corpus that is open already."""
        self._kept[kind, tuple(paths)] = corpus

    def share(self, other: EvalContext) -> None:
        """Takes the corpora and regions that another context has opened."""
        shared = {key: one for key, one in other._kept.items() if isinstance(one, (Corpus, RegionStore))}
        self._kept = {**shared, **self._kept}

    def images(self, corpus: Corpus, items: np.ndarray) -> EncodedImages:
        """Some images of a corpus after their tower."""
        key = ("images", corpus.fingerprint, items.tobytes())
        return self._once(
            key, lambda: self.pipeline.encode_images(self.shown(corpus, items), batch_size=self.batch_size)
        )

    def shown(self, corpus: Corpus, items: np.ndarray) -> Iterator[bytes | ImageRegions]:
        """What the model sees of some images: their files, or for UNIMO their regions."""
        if not self.pipeline.sees_regions:
            return (corpus.image_bytes(int(i)) for i in items)
        key = ("regions", corpus.fingerprint)
        store = self._once(key, lambda: RegionStore.open(list(self.regions) or None, corpus))
        return (store.image(int(i)) for i in items)

    def texts(self, strings: Sequence[str]) -> EncodedTexts:
        """Some texts after their tower."""
        return self._once(("texts", *strings), lambda: self.pipeline.encode_texts(strings, batch_size=self.batch_size))

    def captions(self, corpus: Corpus, items: np.ndarray, max_length: int) -> list[str]:
        """What the model writes about some images of a corpus, greedily, in at most `max_length` pieces."""
        key, images = ("captions", corpus.fingerprint, items.tobytes(), max_length), self.images(corpus, items)
        options: dict[str, Any] = {"max_length": max_length, "batch_size": self.batch_size}
        return self._once(key, lambda: self.pipeline.caption(images, **options))

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def choose(n: int, limit: int | None, *names: str | int) -> np.ndarray:
    """At most `limit` of n items, ascending: all, or the sample that these names always give."""
    if limit is None or limit >= n:
        return np.arange(n)
    return np.sort(generator("evaluation", *names).permutation(n)[:limit])


def chosen(corpus: Corpus, held_out: HeldOut | None, limit: int | None, *names: str | int) -> np.ndarray:
    """`choose` among the items of a corpus, or among those that were held out of training."""
    items = np.arange(len(corpus)) if held_out is None else held_out.items(corpus)
    return items[choose(len(items), limit, *names)]


def unique(strings: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The distinct strings, and the number of each given one among them.

    Equal texts are encoded once: two copies in differently filled batches could differ in the last bit and
    then no longer tie.
    """
    distinct = list(dict.fromkeys(strings))
    place = {text: number for number, text in enumerate(distinct)}
    return distinct, np.array([place[text] for text in strings], np.int64)


def in_blocks(n: int, size: int = 1024) -> Iterator[slice]:
    """The numbers below n, a block at a time."""
    return (slice(first, min(first + size, n)) for first in range(0, n, size))


def row(
    task: str, metric: str, score: Score | float, unit: str = "", note: str = "", items: str = "", **more: Any
) -> Row:
    """A row of a report's scores. items: what was scored, as `digest` names it."""
    optional = {key: value for key, value in (("note", note), ("items", items)) if value}
    return {"task": task, "metric": metric, "score": score, "unit": unit, **optional, **more}


def digest(*parts: Sequence[Any] | np.ndarray) -> str:
    """A name for the items of a task: equal for two models that were scored on the same ones in the same order."""
    texts = ("\n".join(map(str, part)) for part in parts)
    return hashlib.sha256("\n\n".join(texts).encode("utf-8", "backslashreplace")).hexdigest()[:16]
