"""Regions without a detector: grids of boxes over what describes an image's patches, and a visual vocabulary.

    R regions · F features · K words · D width of a patch's description · g patches per side

Our own idea, for people without a detector; the papers have none of it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import euclidean_distances
from threadpoolctl import threadpool_limits

from unimo.corpus.corpus import Corpus
from unimo.data.augment import resize
from unimo.errors import DataError, UsageError
from unimo.regions.source import CorpusImage, Detections, RegionSource, Say, arrays_digest, random_projection
from unimo.rng import generator
from unimo.sidecar import Format, Sidecar, plain, write_sidecar

GRIDS, SAMPLE = (1, 2, 3, 4), 1000  # boxes per side; images that the visual words are fitted to
VOCABULARY = Format("visual words", 2, "unimo prepare regions")


class PatchEncoder(Protocol):
    """Something that describes the patches of an image. bins: per side, into which a box is pooled."""

    bins: int

    def identity(self) -> dict[str, Any]: ...

    def states(self, image: Image.Image) -> np.ndarray:
        """(g, g, D) float32: the image resized to a square, g patches a side."""


class Pixels:
    """Colour and edges of 12 x 12 patches; no model.

    D = 41: mean and deviation of the channels, a histogram of 27 colours, and one of 8 directions of the brightness
    gradient weighed by its strength (as Dalal & Triggs 2005, without their normalisation).
    """

    bins = 3  # 12 patches are pooled into 3 x 3 bins of a box: in a 4 x 4 grid every patch is a bin
    grid, patch = 12, 8

    def identity(self) -> dict[str, Any]:
        return {"patches": "pixels", "grid": self.grid, "patch": self.patch}

    def states(self, image: Image.Image) -> np.ndarray:
        g, p = self.grid, self.patch
        pixels = resize(image, g * p)
        x = pixels.astype(np.float32) / 255
        patches = x.reshape(g, p, g, p, 3)
        grey = x.mean(axis=2)
        down, right = np.gradient(grey)
        direction = (np.arctan2(down, right) % np.pi * (8 / np.pi)).astype(np.int64) % 8
        thirds = pixels.astype(np.int64) // 86
        colour = thirds[..., 0] * 9 + thirds[..., 1] * 3 + thirds[..., 2]
        place = np.arange(g * p) // p
        patch_of = place[:, None] * g + place

        def histogram(codes: np.ndarray, size: int, weights: np.ndarray | None = None) -> np.ndarray:
            weights = None if weights is None else weights.ravel()
            counts = np.bincount((patch_of * size + codes).ravel(), weights, minlength=g * g * size)
            return counts.reshape(g, g, size) / p**2

        parts = [
            patches.mean(axis=(1, 3)),
            patches.std(axis=(1, 3)),
            histogram(colour, 27),
            histogram(direction, 8, np.hypot(down, right)),
        ]
        return np.concatenate(parts, axis=-1).astype(np.float32)


class Grid(RegionSource):
    """Boxes of several grids over the whole image, coarse ones first, as they lie row by row.

    features: patch states averaged under each box (in bins x bins parts, end to end), each dimension scaled to mean 0
    and deviation 1 over a sample of the corpus, then projected to F. classes: softmax of minus the squared distances
    to the `words` of a visual vocabulary, k-means centres of the same sample; the temperature is the mean gap between
    the nearest and the second, so that a typical runner-up has 1/e of the winner's probability.

    vocabulary: its file, used if it is there and written if not: corpora that are trained on together need the same.
    None: region-vocabulary.safetensors among the sidecars.
    """

    def __init__(
        self,
        patches: PatchEncoder,
        *,
        words: int = 512,
        vocabulary: str | Path | None = None,
        feature_size: int | None = None,
    ):
        self.patches, self.classes = patches, words
        self.vocabulary_path = None if vocabulary is None else Path(vocabulary)
        raw = self._pooled(Image.new("RGB", (32, 32))).shape[1]
        self.feature_size = feature_size or (256 if isinstance(patches, Pixels) else raw)
        edges = [(k / n, r / n, (k + 1) / n, (r + 1) / n) for n in GRIDS for r in range(n) for k in range(n)]
        self._boxes = np.array(edges)
        self._fitted: dict[str, np.ndarray] = {}

    def identity(self) -> dict[str, Any]:
        return {"source": "grid", **self._settings(), "vocabulary": self._digest()}

    def fit(self, corpus: Corpus, folder: Path, say: Say) -> None:
        place = self.vocabulary_path or folder / "region-vocabulary.safetensors"
        header = plain(self._settings())
        if place.is_file():
            stored = Sidecar(place, VOCABULARY)
            if stored.header != header:
                raise UsageError("the vocabulary of another grid", where=place, got=stored.header, expected=header)
            self._fitted = stored.arrays()
            return
        started = time.monotonic()
        self._fitted = self._fit(corpus)
        write_sidecar(place, VOCABULARY, header, self._fitted)
        say(f"{place} | {self.classes} visual words | {time.monotonic() - started:.1f} s")

    def regions(self, image: CorpusImage) -> Detections:
        width, height = image.size
        features = self._features(self._pooled(image.image))
        distances = euclidean_distances(features, self._fitted["centres"], squared=True)
        classes = softmax(-distances / self._fitted["temperature"], axis=1)
        return Detections(features, self._boxes * [width, height, width, height], width, height, classes)

    def _settings(self) -> dict[str, Any]:
        return {
            **self.patches.identity(),
            "grids": list(GRIDS),
            "words": self.classes,
            "feature_size": self.feature_size,
        }

    def _digest(self) -> str:
        return arrays_digest(self._fitted)

    def _pooled(self, image: Image.Image) -> np.ndarray:
        """(R, bins * bins * D), the boxes of all grids end to end."""
        states, b = self.patches.states(image), self.patches.bins
        parts = []
        for n in GRIDS:
            weights = _coverage(n * b, len(states))
            cells = np.einsum("ip,pqd->iqd", weights, states)
            cells = np.einsum("jq,iqd->ijd", weights, cells).reshape(n, b, n, b, -1)
            parts.append(cells.transpose(0, 2, 1, 3, 4).reshape(n * n, -1))
        return np.concatenate(parts).astype(np.float32)

    def _features(self, pooled: np.ndarray) -> np.ndarray:
        return random_projection((pooled - self._fitted["mean"]) / self._fitted["scale"], self.feature_size)

    def _fit(self, corpus: Corpus) -> dict[str, np.ndarray]:
        chosen = np.sort(generator("region vocabulary").permutation(len(corpus))[:SAMPLE])
        pooled = []
        for i in chosen.tolist():
            try:
                pooled.append(self._pooled(CorpusImage(corpus, i).image))
            except DataError:
                continue  # named in the report when its turn comes
        rows = np.concatenate(pooled) if pooled else np.zeros((0, 1), np.float32)
        if len(rows) <= self.classes:
            raise UsageError(
                "too few regions for so many visual words",
                got=f"{len(rows)} regions in the sample",
                expected=f"more than {self.classes}",
                do="ask for fewer words, or give a vocabulary fitted elsewhere",
            )
        self._fitted = {"mean": rows.mean(axis=0), "scale": np.maximum(rows.std(axis=0), 1e-3)}
        features = self._features(rows)
        centres = k_means(features, self.classes)
        nearest = np.partition(euclidean_distances(features, centres, squared=True), 1, axis=1)[:, :2]
        gap = np.maximum((nearest[:, 1] - nearest[:, 0]).mean(), 1e-6)
        return {**self._fitted, "centres": centres, "temperature": np.array([gap], np.float32)}


def _coverage(intervals: int, patches: int) -> np.ndarray:
    """(intervals, patches): what equal intervals of a line cover of its equal patches, as weights; rows sum to 1."""
    edges, borders = np.arange(intervals + 1) / intervals, np.arange(patches + 1) / patches
    covered = np.minimum(edges[1:, None], borders[1:]) - np.maximum(edges[:-1, None], borders[:-1])
    covered = covered.clip(0)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)


def k_means(rows: np.ndarray, k: int) -> np.ndarray:
    """(n, F) -> (k, F) float32 centres: k-means++ and Lloyd's rounds. Equal rows, equal centres."""
    # One thread: the sums of several are added in any order.
    with threadpool_limits(1):
        fitted = KMeans(k, n_init=1, max_iter=20, random_state=0).fit(rows)
    return fitted.cluster_centers_.astype(np.float32)
