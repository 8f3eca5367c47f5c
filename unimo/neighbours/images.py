"""Images of a collection that resemble the image of a pair, by a model that sees pixels or by colours and edges."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from unimo.cluster import Map
from unimo.corpus.corpus import Corpus
from unimo.data.augment import resize
from unimo.data.images import load_rgb
from unimo.nearest import Found, colours_and_edges, nearest, top_k
from unimo.neighbours.objects import Objects
from unimo.neighbours.settings import NeighbourSettings
from unimo.sidecar import Format, Sidecar, standing, write_sidecar

if TYPE_CHECKING:
    from unimo.inference import Pipeline

VECTORS = Format("image vectors", 1, "unimo prepare neighbours")
_BLOCK = 4096  # images encoded, stored and searched together
_BATCH = 256  # images whose hidden states are in memory together
_QUERIES = 512  # pairs searched for together
_SIDE = 32  # pixels of the resized image that colours and edges are taken from

Encode = Callable[[Iterable[Image.Image]], np.ndarray]  # images -> (n, D) of length 1


class Gallery:
    """Vectors of all images, on disk, and who is near whom: by cosine, and, where objects are known, among the `pool`
    nearest by the objects they share. The very image of a pair (the same bytes) is no neighbour."""

    def __init__(
        self,
        pairs: Corpus,
        images: Corpus,
        folder: Path,
        settings: NeighbourSettings,
        model: Pipeline | None,
        made_by: str | None,
        objects: Objects | None,
        run: Map,
        say: Callable[[str], None],
    ):
        """folder: where the vectors are kept. made_by: names the model in their headers."""
        self.pairs, self.settings, self.objects = pairs, settings, objects
        encode = colours if model is None or model.side is None else partial(encode_images, model)
        self.own, self.others = (_encoded(one, folder, encode, made_by, run, say) for one in (pairs, images))
        self.copies: defaultdict[bytes, list[int]] = defaultdict(list)
        for i, digest in enumerate(images.image_sha256):
            self.copies[digest.tobytes()].append(i)

    def near(self, rows: range) -> list[Found]:
        """The related images of some pairs, and their cosines."""
        settings, found = self.settings, list[Found]()
        k = settings.images if self.objects is None else max(settings.pool, settings.images)
        for first in range(rows.start, rows.stop, _QUERIES):
            some = range(first, min(first + _QUERIES, rows.stop))
            copies = [self.copies.get(self.pairs.image_sha256[i].tobytes(), ()) for i in some]
            blocks = map(_vectors, self.others)
            found += nearest(self._own(some), blocks, k, exclude=copies, above=settings.min_image_score)
        return found if self.objects is None else [self._sharing(self.objects, i, one) for i, one in zip(rows, found)]

    def _own(self, items: range) -> np.ndarray:
        first = items.start // _BLOCK
        blocks = [_vectors(path) for path in self.own[first : (items.stop - 1) // _BLOCK + 1]]
        return np.concatenate(blocks)[items.start - first * _BLOCK :][: len(items)]

    def _sharing(self, objects: Objects, i: int, found: Found) -> Found:
        """Those of the visually nearest that share most objects with pair i, the most similar of them first; of two
        that share equally many, the more similar one."""
        best = top_k(objects.overlap(i, found[0]), self.settings.images, above=self.settings.min_overlap)
        best.sort()  # places in `found`, which is in order of similarity
        return found[0][best], found[1][best]


def _encoded(
    corpus: Corpus, folder: Path, encode: Encode, made_by: str | None, run: Map, say: Callable[[str], None]
) -> list[Path]:
    """Sidecars with `vectors` (n, D) of the images of a corpus, in blocks; made where missing."""
    started = time.monotonic()
    header = {"images": corpus.fingerprint, "model": made_by, "block": _BLOCK}
    paths = [folder / f"{corpus.kind}-{number:05d}.safetensors" for number in range(-(-len(corpus) // _BLOCK))]
    missing = [number for number, path in enumerate(paths) if standing(path, VECTORS, header) is None]
    blocks = [range(first, min(first + _BLOCK, len(corpus))) for first in range(0, len(corpus), _BLOCK)]
    encoded = run(partial(_encode_block, corpus, encode), [blocks[number] for number in missing])
    for number, vectors in zip(missing, encoded):
        write_sidecar(paths[number], VECTORS, header, {"vectors": vectors})
    seconds, made = time.monotonic() - started, min(len(missing) * _BLOCK, len(corpus))
    rate = made / max(seconds, 1e-3)
    say(f"{made} of {len(corpus)} images ({corpus.kind}) encoded in {seconds:.1f} s ({rate:.0f} images/s)")
    return paths


def _encode_block(corpus: Corpus, encode: Encode, items: range) -> np.ndarray:
    images = (load_rgb(corpus.image_bytes(i), where=corpus.where(i)) for i in items)
    return encode(images).astype(np.float32)


def _vectors(path: Path) -> np.ndarray:
    return Sidecar(path, VECTORS).array("vectors")


def colours(images: Iterable[Image.Image]) -> np.ndarray:
    return np.stack([colours_and_edges(resize(image, _SIDE)) for image in images])


def encode_images(model: Pipeline, images: Iterable[Image.Image]) -> np.ndarray:
    waiting: Iterator[Image.Image] = iter(images)
    batches = iter(lambda: list(islice(waiting, _BATCH)), [])
    return np.concatenate([model.encode_image(batch) for batch in batches])
