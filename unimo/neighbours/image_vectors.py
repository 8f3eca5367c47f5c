"""A vector for every image of a corpus, in blocks on disk: by a model that sees pixels, or by colours and edges."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from unimo.cluster import Each
from unimo.corpus.corpus import Corpus
from unimo.data.augment import resize
from unimo.data.images import load_rgb
from unimo.disk import write_atomic
from unimo.nearest import colours_and_edges

if TYPE_CHECKING:
    from unimo.inference import Pipeline

_AT_ONCE = 4096  # images described, stored and searched together
_SEEN_AT_ONCE = 256  # images whose hidden states are in memory together
_SIDE = 32  # pixels of the squeezed image that colours and edges are taken from

Describe = Callable[[Iterable[Image.Image]], np.ndarray]  # images -> (n, D) of length 1


class ImageVectors:
    """(n, D) float32 vectors and SHA-256 of the images of a corpus, in blocks on disk; made where missing."""

    def __init__(
        self,
        corpus: Corpus,
        folder: Path,
        describe: Describe,
        each: Each,
        say: Callable[[str], None],
    ):
        started = time.monotonic()
        count = -(-len(corpus) // _AT_ONCE)
        self.paths = [folder / f"{corpus.kind}-{number:05d}.npy" for number in range(count)]
        missing = [number for number, path in enumerate(self.paths) if not path.exists()]
        made = sum(min(_AT_ONCE, len(corpus) - n * _AT_ONCE) for n in missing)
        for _ in each(partial(_describe_block, corpus, self.paths, describe), missing):
            pass
        seconds = time.monotonic() - started
        rate = made / max(seconds, 1e-3)
        say(f"{made} of {len(corpus)} images ({corpus.kind}) described in {seconds:.1f} s ({rate:.0f} images/s)")

    def blocks(self) -> Iterator[np.ndarray]:
        return (np.load(path, mmap_mode="r", allow_pickle=False) for path in self.paths)

    def rows(self, items: range) -> np.ndarray:
        parts = []
        for number in range(items.start // _AT_ONCE, (items.stop - 1) // _AT_ONCE + 1):
            first = number * _AT_ONCE
            block = np.load(self.paths[number], mmap_mode="r", allow_pickle=False)
            parts.append(block[max(items.start - first, 0) : items.stop - first])
        return np.concatenate(parts)

    def hashes(self) -> list[bytes]:
        blocks = (np.load(_hashes_of(path), allow_pickle=False) for path in self.paths)
        return [row.tobytes() for block in blocks for row in block]


def _describe_block(corpus: Corpus, paths: Sequence[Path], describe: Describe, number: int) -> int:
    items = range(number * _AT_ONCE, min((number + 1) * _AT_ONCE, len(corpus)))
    hashes: list[bytes] = []
    vectors = describe(_reading(corpus, items, hashes))
    _save_array(_hashes_of(paths[number]), np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32))
    _save_array(paths[number], vectors.astype(np.float32))  # last: where it is, both are
    return number


def _hashes_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}-sha256.npy")


def _save_array(path: Path, array: np.ndarray) -> None:
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    write_atomic(path, stream.getvalue())


def _reading(corpus: Corpus, items: Iterable[int], hashes: list[bytes]) -> Iterator[Image.Image]:
    """The images, one after the other; the SHA-256 of their bytes go to `hashes`."""
    for i in items:
        data = corpus.image_bytes(i)
        hashes.append(hashlib.sha256(data).digest())
        yield load_rgb(data, where=corpus.where(i))


def colours(images: Iterable[Image.Image]) -> np.ndarray:
    return np.stack([colours_and_edges(resize(image, _SIDE)) for image in images])


def seen_by(model: Pipeline) -> Describe:
    def describe(images: Iterable[Image.Image]) -> np.ndarray:
        waiting = iter(images)
        chunks = iter(lambda: list(islice(waiting, _SEEN_AT_ONCE)), [])
        return np.concatenate([model.embed_image(chunk) for chunk in chunks])

    return describe
