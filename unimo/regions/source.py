"""What a source of regions is (`unimo.regions.prepare` lists them), and what sources share.

R regions · F features · K classes
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimo.corpus.corpus import Corpus
from unimo.data.images import load_rgb
from unimo.rng import generator

Say = Callable[[str], None]


@dataclass(frozen=True)
class Detections:
    """Regions of one image. features: (R, F); boxes: (R, 4) corners in pixels of a width x height image; classes: (R,
    K) probabilities, or None."""

    features: np.ndarray
    boxes: np.ndarray
    width: float
    height: float
    classes: np.ndarray | None = None


@dataclass(frozen=True)
class CorpusImage:
    """Item `number` of a corpus, read and decoded only where a source wants its pixels."""

    corpus: Corpus
    number: int

    @property
    def key(self) -> str:
        return self.corpus.keys[self.number]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        width, height = self.corpus.sizes[self.number].tolist()
        return width, height

    @cached_property
    def image(self) -> Image.Image:
        return load_rgb(self.corpus.image_bytes(self.number), where=self.corpus.where(self.number))

    @property
    def meta(self) -> dict:
        return self.corpus.meta(self.number)

    @property
    def shard(self) -> Path:
        return self.corpus.shard_of(self.number)


class RegionSource(ABC):
    """Where regions come from. feature_size, classes: F and K of every image (K = 0: no classes)."""

    feature_size: int
    classes: int

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON values that tell this source from any that gives other regions; no paths."""

    def fit(self, corpus: Corpus, folder: Path, say: Say) -> None:  # noqa: B027 - most sources learn nothing
        """Called once before the first image. folder: where the sidecars go."""

    @abstractmethod
    def regions(self, image: CorpusImage) -> Detections:
        """Raises DataError where it has no regions of this image."""


def random_projection(rows: np.ndarray, size: int) -> np.ndarray:
    """(R, any) -> (R, size) float32, the same map in every run; distances are about kept (Johnson, Lindenstrauss)."""
    rows = rows.astype(np.float32)
    return rows if rows.shape[1] == size else rows @ _directions(rows.shape[1], size)


@cache
def _directions(width: int, size: int) -> np.ndarray:
    weights = generator("region projection", width, size).standard_normal((width, size), dtype=np.float32)
    return weights / np.float32(np.sqrt(width))


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
