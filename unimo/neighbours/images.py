"""Images of a collection that resemble the image of a pair, by a model that sees pixels or by colours and edges."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

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
_AT_ONCE = 4096  # images described, stored and searched together
_SEEN_AT_ONCE = 256  # images whose hidden states are in memory together
_QUERIES_AT_ONCE = 512
_SIDE = 32  # pixels of the resized image that colours and edges are taken from

Describe = Callable[[Iterable[Image.Image]], np.ndarray]  # images -> (n, D) of length 1
Each = Callable[[Callable[[int], int], Iterable[int]], Iterable[int]]  # `map`, or `unimo.neighbours.prepare.on_ray`


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
        each: Each,
        say: Callable[[str], None],
    ):
        """folder: where the vectors are kept. made_by: names the model in their headers."""
        self.settings, self.objects = settings, objects
        describe = colours if model is None or model.side is None else encoded_by(model)
        self.own, self.others = (_describe(one, folder, describe, made_by, each, say) for one in (pairs, images))
        self.copies: dict[bytes, list[int]] = {}
        for i, name in enumerate(row.tobytes() for block in self.others for row in _load(block, "sha256")):
            self.copies.setdefault(name, []).append(i)

    def near(self, rows: range) -> list[Found]:
        """The related images of some pairs, and their cosines."""
        settings, found = self.settings, list[Found]()
        k = settings.images if self.objects is None else max(settings.pool, settings.images)
        for first in range(rows.start, rows.stop, _QUERIES_AT_ONCE):
            some = range(first, min(first + _QUERIES_AT_ONCE, rows.stop))
            copies = [self.copies.get(name.tobytes(), []) for name in self._own("sha256", some)]
            blocks = (_load(path, "vectors") for path in self.others)
            found += nearest(self._own("vectors", some), blocks, k, exclude=copies, least=settings.least_image)
        return found if self.objects is None else [self._sharing(self.objects, i, one) for i, one in zip(rows, found)]

    def _own(self, name: str, items: range) -> np.ndarray:
        """Of some images of the pairs their vectors or hashes."""
        first = items.start // _AT_ONCE
        blocks = [_load(path, name) for path in self.own[first : (items.stop - 1) // _AT_ONCE + 1]]
        return np.concatenate(blocks)[items.start - first * _AT_ONCE :][: len(items)]

    def _sharing(self, objects: Objects, i: int, found: Found) -> Found:
        """Those of the visually nearest that share most objects with pair i, the most similar of them first.

        Where two share alike much, the more similar one is taken.
        """
        best = top_k(objects.overlap(i, found[0]), self.settings.images, least=self.settings.least_overlap)
        best.sort()  # places in `found`, which is in order of similarity
        return found[0][best], found[1][best]


def _describe(
    corpus: Corpus, folder: Path, describe: Describe, made_by: str | None, each: Each, say: Callable[[str], None]
) -> list[Path]:
    """Sidecars with `vectors` (n, D) and `sha256` (n, 32) of the images of a corpus, in blocks; made where missing."""
    started = time.monotonic()
    header = {"images": corpus.fingerprint, "model": made_by, "block": _AT_ONCE}
    paths = [folder / f"{corpus.kind}-{number:05d}.safetensors" for number in range(-(-len(corpus) // _AT_ONCE))]
    missing = [number for number, path in enumerate(paths) if standing(path, VECTORS, header) is None]
    for _ in each(partial(_describe_block, corpus, paths, header, describe), missing):
        pass
    seconds, made = time.monotonic() - started, min(len(missing) * _AT_ONCE, len(corpus))
    rate = made / max(seconds, 1e-3)
    say(f"{made} of {len(corpus)} images ({corpus.kind}) described in {seconds:.1f} s ({rate:.0f} images/s)")
    return paths


def _describe_block(corpus: Corpus, paths: list[Path], header: dict, describe: Describe, number: int) -> int:
    hashes: list[bytes] = []

    def reading() -> Iterator[Image.Image]:
        for i in range(number * _AT_ONCE, min((number + 1) * _AT_ONCE, len(corpus))):
            data = corpus.image_bytes(i)
            hashes.append(hashlib.sha256(data).digest())
            yield load_rgb(data, where=corpus.where(i))

    vectors = describe(reading()).astype(np.float32)
    sha256 = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)
    write_sidecar(paths[number], VECTORS, header, {"vectors": vectors, "sha256": sha256})
    return number


def _load(path: Path, name: str) -> np.ndarray:
    return Sidecar(path, VECTORS).array(name)


def colours(images: Iterable[Image.Image]) -> np.ndarray:
    return np.stack([colours_and_edges(resize(image, _SIDE)) for image in images])


def encoded_by(model: Pipeline) -> Describe:
    def describe(images: Iterable[Image.Image]) -> np.ndarray:
        waiting = iter(images)
        chunks = iter(lambda: list(islice(waiting, _SEEN_AT_ONCE)), [])
        return np.concatenate([model.encode_image(chunk) for chunk in chunks])

    return describe
