"""Zero-shot retrieval, both ways: which caption belongs to the image, which image to the caption.

    N images · M captions · U distinct captions · Q queries

Two stages. First every caption is compared with every image by the cosine of their embeddings. Then a
query's best candidates are read together with it, and ordered by the score of `Pipeline.match`. The papers
fuse all N x M pairs; a shortlist of 32 costs 32 (N + M) at most.

A caption found word for word beside two images is right for its own only, as in the published protocol;
being equal, the two tie and share the point (`unimo.metrics.retrieval`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.errors import DataError
from unimo.evaluation.zero_shot.context import EvalContext, Paths, choose, in_blocks, references, unique
from unimo.inference import EncodedImages, EncodedTexts
from unimo.metrics.retrieval import recall_at_k, retrieval_report

DIRECTIONS = ("image to text", "text to image")


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

    def asking(self, way: str) -> np.ndarray:
        """Which of its `rows` each query of a direction is: (N,) for images, (M,) for captions."""
        return np.arange(len(self.items)) if way == "image to text" else self.text_of

    def rows(self, way: str) -> np.ndarray:
        """(N, U) where images ask, (U, N) where captions do."""
        return self.cosine if way == "image to text" else self.cosine.T


@dataclass(frozen=True)
class Ranked:
    """What `predict` found.

    cosine: (N, U). text_of: (M,) which distinct text a caption is; owner: (M,) its image. second:
    direction -> (queries (Q,), scores (Q, U) where images ask, (Q, N) where captions do), see `second_stage`.
    passes: fused passes this took.
    """

    corpus: Corpus
    items: np.ndarray
    strings: list[str]
    cosine: np.ndarray
    text_of: np.ndarray
    owner: np.ndarray
    second: dict[str, tuple[np.ndarray, np.ndarray]]
    passes: int


@dataclass(frozen=True)
class Retrieval:
    """pairs: paths of images with captions. captions: only the first so many of each image. limit: at
    most so many images. shortlist: candidates read again, 0 for none; more than there are means all.
    rerank_queries: at most so many queries of a direction get the second stage, always the same sample."""

    pairs: Paths
    title: str = "Retrieval"
    captions: int | None = None
    limit: int | None = None
    shortlist: int = 32
    rerank_queries: int | None = 1000
    ks: tuple[int, ...] = (1, 5, 10)
    seed: int = 0

    def gallery(self, context: EvalContext) -> Gallery:
        """Raises DataError for fewer than two images."""
        corpus = context.corpus("pairs", self.pairs)
        items = choose(len(corpus), self.limit, "pairs", self.seed)
        if len(items) < 2:
            what = "retrieval needs something to choose from"
            raise DataError(what, where=", ".join(self.pairs), got=f"{len(items)} images", expected="2 or more")
        told = [references(corpus, int(i), self.captions) for i in items]
        owner = np.repeat(np.arange(len(items)), [len(captions) for captions in told])
        strings, text_of = unique([caption for captions in told for caption in captions])
        images, texts = context.images(corpus, items), context.texts(strings)
        cosine = images.embedding.cpu().numpy() @ texts.embedding.cpu().numpy().T
        return Gallery(corpus, items, strings, text_of, owner, images, texts, cosine)

    def predict(self, context: EvalContext) -> Ranked:
        at = self.gallery(context)
        second, passes = {}, 0
        if self.shortlist:
            asking = {
                "image to text": choose(len(at.items), self.rerank_queries, "images", self.seed),
                "text to image": choose(len(at.owner), self.rerank_queries, "captions", self.seed),
            }
            rows = {way: at.asking(way)[asking[way]] for way in DIRECTIONS}
            best = {way: nearest_columns(at.rows(way)[rows[way]], self.shortlist) for way in DIRECTIONS}
            # Both directions often want the same pair, and so do equal captions: each is fused once.
            codes = {way: pair_codes(way, rows[way], best[way], len(at.strings)) for way in DIRECTIONS}
            wanted = np.unique(np.concatenate([some.ravel() for some in codes.values()]))
            pairs = np.stack(np.divmod(wanted, len(at.strings)), axis=1)
            scores = context.pipeline.match(at.images, at.texts, pairs, batch_size=context.batch_size)
            passes = len(wanted)
            for way in DIRECTIONS:
                fused = scores[np.searchsorted(wanted, codes[way])]
                second[way] = asking[way], second_stage(at.rows(way)[rows[way]], best[way], fused)
        return Ranked(at.corpus, at.items, at.strings, at.cosine, at.text_of, at.owner, second, passes)

    def score(self, found: Ranked) -> list[dict]:
        """R@k of both directions by cosine, then of both re-ranked; intervals resample images."""
        once = retrieval_report(found.cosine[:, found.text_of], found.owner, self.ks, seed=self.seed)
        rows = [
            {
                "task": self.title,
                "metric": f"{way} {k}",
                "score": score,
                "unit": "%",
                "note": f"by cosine, among {n:,}",
            }
            for way, n in zip(DIRECTIONS, (len(found.owner), len(found.items)))
            for k, score in once[way.replace(" ", "_")].items()
        ]
        for way, (asking, scores) in found.second.items():
            if way == "image to text":
                own = [np.flatnonzero(found.owner == image) for image in asking]
                recalls = recall_at_k(scores[:, found.text_of], own, self.ks, seed=self.seed)
            else:
                owner = found.owner[asking]
                recalls = recall_at_k(scores, owner, self.ks, groups=owner, seed=self.seed)
            whole = len(found.items if way == "image to text" else found.owner)
            asked = "all" if len(asking) == whole else "a sample of"
            shortlist = min(self.shortlist, scores.shape[1])
            note = f"best {shortlist} by cosine re-ranked, {asked} {len(asking):,} queries"
            rows += [
                {
                    "task": self.title,
                    "metric": f"{way} {k}, re-ranked",
                    "score": score,
                    "unit": "%",
                    "note": note,
                }
                for k, score in recalls.items()
            ]
        return rows

    def show(self, found: Ranked, most: int = 12) -> list[dict]:
        """The first images with the three captions ranked first; the image's own are marked."""
        asking, scores = found.second.get("image to text", (np.arange(len(found.items)), found.cosine))
        shown = []
        for query, row in list(zip(asking, scores))[:most]:
            own = set(found.text_of[found.owner == query].tolist())
            first = np.argsort(-row, kind="stable")[:3]
            lines = [f"{'✓' if int(text) in own else '·'} {found.strings[text]}" for text in first]
            if not own & set(first.tolist()):
                lines.append(f"its own: {found.strings[min(own)]}")
            image = found.corpus.image_bytes(int(found.items[query]))
            shown.append({"image": image, "title": "found" if int(first[0]) in own else "missed", "lines": lines})
        note = "Three captions ranked first for an image; ✓ marks its own."
        return [{"title": f"{self.title}: images asking for their caption", "note": note, "items": shown}]


def nearest_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """(Q, N) -> (Q, min(k, N)) the columns with the highest scores, best first; of equal ones the first."""
    k = min(k, scores.shape[1])
    return np.concatenate(
        [np.argsort(-scores[block], axis=1, kind="stable")[:, :k] for block in in_blocks(len(scores), 256)]
    )


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
