"""Zero-shot retrieval, both ways: which caption belongs to the image, which image to the caption.

    N images · M captions · U distinct captions · Q queries

Two stages. First every caption is compared with every image by the cosine of their embeddings. Then a
query's best candidates are read together with it, and ordered by the score of `Pipeline.match`, and once more by that
of `Pipeline.match_by_likelihood`. The papers fuse all N x M pairs; a shortlist of 32 costs 32 (N + M) at most.

A caption found word for word beside two images is right for its own only, as in the published protocol;
being equal, the two tie and share the point (`unimo.metrics.retrieval`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch

from unimo.corpus.corpus import Corpus
from unimo.data.held_out import HeldOut
from unimo.errors import DataError
from unimo.evaluation.zero_shot.context import (
    EvalContext,
    Paths,
    Row,
    choose,
    chosen,
    digest,
    row,
    unique,
)
from unimo.inference import EncodedImages, EncodedTexts
from unimo.inference.matching import BESIDE
from unimo.metrics.intervals import Score, mean_of_scores
from unimo.metrics.retrieval import recall_at_k
from unimo.nearest import top_k

DIRECTIONS = ("image to text", "text to image")
KS = (1, 5, 10)
MATCHING, LIKELIHOOD = "re-ranked", "re-ranked by likelihood"


@dataclass(frozen=True)
class Gallery:
    """Images and captions after their towers.

    items: (N,) of the corpus. strings: the U distinct captions. text_of: (M,) which of them a caption is; owner: (M,)
    its image. cosine: (N, U).
    """

    corpus: Corpus
    items: np.ndarray
    strings: list[str]
    text_of: np.ndarray
    owner: np.ndarray
    images: EncodedImages
    texts: EncodedTexts
    cosine: np.ndarray

    def queries(self, way: str) -> np.ndarray:
        """Which of its `rows` each query of a direction is: (N,) for images, (M,) for captions."""
        return np.arange(len(self.items)) if way == "image to text" else self.text_of

    def rows(self, way: str) -> np.ndarray:
        """(N, U) where images are the queries, (U, N) where captions are."""
        return self.cosine if way == "image to text" else self.cosine.T

    def recalls(self, way: str, queries: np.ndarray, scores: np.ndarray, seed: int) -> dict[str, Score]:
        """R@k of some queries (Q,) of a direction by their scores (Q, U) or (Q, N); intervals resample images."""
        if way == "text to image":
            owner = self.owner[queries]
            return recall_at_k(scores, owner, KS, groups=owner, seed=seed)
        own = np.split(np.arange(len(self.owner)), np.searchsorted(self.owner, np.arange(1, len(self.items))))
        return recall_at_k(scores[:, self.text_of], [own[image] for image in queries], KS, seed=seed)


@dataclass(frozen=True)
class Ranked:
    """What `predict` found. second: name of a score -> direction -> (queries (Q,), scores (Q, U) or (Q, N)), see
    `second_stage`."""

    gallery: Gallery
    second: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]

    def first_captions(self, most: int = 3) -> dict[int, tuple[list[str], list[str]]]:
        """Item of the corpus -> the captions ranked first for its image, and its own."""
        at = self.gallery
        queries, scores = self.second.get(MATCHING, {}).get("image to text", (np.arange(len(at.items)), at.cosine))
        best = [top_k(row, most) for row in scores]
        own = np.split(at.text_of, np.searchsorted(at.owner, np.arange(1, len(at.items))))
        return {
            int(at.items[query]): ([at.strings[t] for t in texts], [at.strings[t] for t in own[query]])
            for query, texts in zip(queries, best)
        }


@dataclass(frozen=True)
class Retrieval:
    """pairs: paths of images with captions. held_out: only those that were held out of training. captions: only the
    first so many of each image. limit: at most so many images. shortlist: candidates read again, 0 for none; more than
    there are means all. rerank_queries, likelihood_queries: at most so many queries of a direction are re-ranked by
    matching and by likelihood, whose pass over a whole vocabulary costs several of matching; always the same sample."""

    pairs: Paths
    title: str = "Retrieval"
    held_out: HeldOut | None = None
    captions: int | None = None
    limit: int | None = None
    shortlist: int = 32
    rerank_queries: int | None = 256
    likelihood_queries: int | None = 128
    seed: int = 0

    def gallery(self, context: EvalContext) -> Gallery:
        """Raises DataError for fewer than two images."""
        corpus = context.corpus("pairs", self.pairs)
        items = chosen(corpus, self.held_out, self.limit, "pairs", self.seed)
        if len(items) < 2:
            what = "retrieval needs something to choose from"
            raise DataError(what, where=", ".join(self.pairs), got=f"{len(items)} images", expected="2 or more")
        captions = [corpus.captions(int(i))[: self.captions] for i in items]
        owner = np.repeat(np.arange(len(items)), [len(some) for some in captions])
        strings, text_of = unique([caption for some in captions for caption in some])
        images, texts = context.images(corpus, items), context.texts(strings)
        cosine = images.embedding.cpu().numpy() @ texts.embedding.cpu().numpy().T
        return Gallery(corpus, items, strings, text_of, owner, images, texts, cosine)

    def predict(self, context: EvalContext) -> Ranked:
        at, pipeline = self.gallery(context), context.pipeline
        if not self.shortlist:
            return Ranked(at, {})
        beside = at.images.pick(torch.linspace(0, len(at.items) - 1, BESIDE).long().unique())
        scores: dict[str, tuple[int | None, Callable[..., np.ndarray]]] = {
            MATCHING: (self.rerank_queries, pipeline.match),
            LIKELIHOOD: (self.likelihood_queries, partial(pipeline.match_by_likelihood, beside=beside)),
        }
        second = {
            how: self._reranked(at, most, partial(score, at.images, at.texts, batch_size=context.batch_size))
            for how, (most, score) in scores.items()
            if most != 0
        }
        return Ranked(at, second)

    def _reranked(
        self, at: Gallery, most: int | None, score: Callable[[np.ndarray], np.ndarray]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Both directions in the order of a second score of (image, text) pairs, of at most so many queries each."""
        queries = {
            "image to text": choose(len(at.items), most, "images", self.seed),
            "text to image": choose(len(at.owner), most, "captions", self.seed),
        }
        rows = {way: at.queries(way)[queries[way]] for way in DIRECTIONS}
        best = {way: np.stack([top_k(row, self.shortlist) for row in at.rows(way)[rows[way]]]) for way in DIRECTIONS}
        # Both directions often want the same pair, and so do equal captions: each is fused once.
        codes = {way: pair_codes(way, rows[way], best[way], len(at.strings)) for way in DIRECTIONS}
        wanted = np.unique(np.concatenate([some.ravel() for some in codes.values()]))
        scores = score(np.stack(np.divmod(wanted, len(at.strings)), axis=1))
        second = {}
        for way in DIRECTIONS:
            fused = scores[np.searchsorted(wanted, codes[way])]
            second[way] = queries[way], second_stage(at.rows(way)[rows[way]], best[way], fused)
        return second

    def score(self, found: Ranked) -> list[Row]:
        """R@k of both directions by cosine and their mean, then of both re-ranked, by either score."""
        at = found.gallery
        rows: list[Row] = []
        every: list[Score] = []
        keys = [at.corpus.keys[int(i)] for i in at.items]
        items = digest(keys, at.strings)
        for way, among in zip(DIRECTIONS, (len(at.owner), len(at.items))):
            queries = np.arange(len(at.queries(way)))
            recalls = at.recalls(way, queries, at.rows(way)[at.queries(way)], self.seed)
            every += recalls.values()
            note = f"by cosine, among {among:,}"
            rows += [row(self.title, f"{way} {k}", score, "%", note, items) for k, score in recalls.items()]
        mean = mean_of_scores(every, seed=self.seed)
        rows.append(row(self.title, "mean recall", mean, "%", "of the six above", items))
        for how, way in product(found.second, DIRECTIONS):
            queries, scores = found.second[how][way]
            all_or = "all" if len(queries) == len(at.queries(way)) else "a sample of"
            shortlist = min(self.shortlist, scores.shape[1])
            note = f"best {shortlist} by cosine re-ranked, {all_or} {len(queries):,} queries"
            recalls, items = at.recalls(way, queries, scores, self.seed), digest(keys, at.strings, queries)
            rows += [row(self.title, f"{way} {k}, {how}", score, "%", note, items) for k, score in recalls.items()]
        return rows

    def show(self, found: Ranked, most: int = 12) -> list[dict]:
        """The first images with the three captions ranked first; the image's own are marked."""
        shown = []
        for item, (first, own) in list(found.first_captions().items())[:most]:
            lines = [f"{'✓' if text in own else '·'} {text}" for text in first]
            if not set(own) & set(first):
                lines.append(f"its own: {own[0]}")
            title = "found" if first[0] in own else "missed"
            shown.append({"image": found.gallery.corpus.image_bytes(item), "title": title, "lines": lines})
        note = "Three captions ranked first for an image; ✓ marks its own."
        return [{"title": f"{self.title}: captions for an image", "note": note, "items": shown}]


def second_stage(cosine: np.ndarray, best: np.ndarray, fused: np.ndarray) -> np.ndarray:
    """(Q, N) cosines, candidates (Q, k) and their fused scores (Q, k) -> (Q, N) scores that order both stages.

    The candidates have their fused scores; all others stand behind them, by cosine, as a search would show them.
    """
    lowest = float(fused.min(initial=0.0))
    scores = cosine.astype(np.float64) - float(cosine.max(initial=0.0)) + lowest - 1.0  # float64: no two fall together
    np.put_along_axis(scores, best, fused.astype(np.float64), axis=1)
    return scores


def pair_codes(way: str, rows: np.ndarray, columns: np.ndarray, strings: int) -> np.ndarray:
    """Queries (Q,) of a direction and their candidates (Q, k) as (Q, k) numbers image * strings + text."""
    images, texts = (rows[:, None], columns) if way == "image to text" else (columns, rows[:, None])
    return images * strings + texts
