"""Zero-shot retrieval, both ways: which caption belongs to the picture, which picture to the caption.

    N pictures · M captions · U distinct captions · Q queries

Two stages. First every caption is compared with every picture by the cosine of their embeddings. Then a
query's best candidates are read together with it, and ordered by the score of `Answerer.match`. The papers
fuse all N x M pairs; a shortlist of 32 costs 32 (N + M) at most.

A caption found word for word beside two pictures is right for its own only, as in the published protocol;
being equal, the two tie and share the point (`unimo.metrics.retrieval`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimo.data.sources import Corpus
from unimo.errors import DataError
from unimo.metrics.retrieval import recall_at_k, retrieval_report
from unimo.tasks.material import Material, Paths, choose, in_blocks, references, unique

DIRECTIONS = ("image to text", "text to image")


@dataclass(frozen=True)
class Ranked:
    """What `predict` found.

    cosine: (N, U). text_of: (M,) which distinct text a caption is; owner: (M,) its picture. second:
    direction -> (queries (Q,), scores (Q, U) where pictures ask, (Q, N) where captions do), -inf where not
    shortlisted. passes: fused passes this took.
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
    """pairs: paths of pictures with captions. captions: only the first so many of each picture. limit: at
    most so many pictures. shortlist: candidates read again, 0 for none; more than there are means all.
    rerank_queries: at most so many queries of a direction get the second stage, always the same sample."""

    pairs: Paths
    title: str = "Retrieval"
    captions: int | None = None
    limit: int | None = None
    shortlist: int = 32
    rerank_queries: int | None = 1000
    ks: tuple[int, ...] = (1, 5, 10)
    seed: int = 0

    def predict(self, material: Material) -> Ranked:
        corpus = material.corpus("pairs", self.pairs)
        items = choose(len(corpus), self.limit, "pairs", self.seed)
        if len(items) < 2:
            what = "retrieval needs something to choose from"
            raise DataError(what, where=", ".join(self.pairs), got=f"{len(items)} pictures", expected="2 or more")
        told = [references(corpus, int(i), self.captions) for i in items]
        owner = np.repeat(np.arange(len(items)), [len(captions) for captions in told])
        strings, text_of = unique([caption for captions in told for caption in captions])
        images, texts = material.images(corpus, items), material.texts(strings)
        cosine = images.embedding.cpu().numpy() @ texts.embedding.cpu().numpy().T
        second, passes = {}, 0
        if self.shortlist:
            asking = {
                "image to text": choose(len(items), self.rerank_queries, "pictures", self.seed),
                "text to image": choose(len(owner), self.rerank_queries, "captions", self.seed),
            }
            rows = {"image to text": cosine[asking["image to text"]]}
            rows["text to image"] = cosine.T[text_of[asking["text to image"]]]
            best = {way: _best(rows[way], self.shortlist) for way in DIRECTIONS}
            # Both directions often want the same pair, and so do equal captions: each is fused once.
            by_picture = asking["image to text"][:, None] * len(strings) + best["image to text"]
            by_caption = best["text to image"] * len(strings) + text_of[asking["text to image"], None]
            wanted = np.unique(np.concatenate([by_picture.ravel(), by_caption.ravel()]))
            scores = material.answerer.match(images, texts, np.stack(np.divmod(wanted, len(strings)), axis=1))
            passes = len(wanted)
            for way, codes in (("image to text", by_picture), ("text to image", by_caption)):
                ranked = np.full(rows[way].shape, -np.inf, np.float32)
                np.put_along_axis(ranked, best[way], scores[np.searchsorted(wanted, codes)], axis=1)
                second[way] = asking[way], ranked
        return Ranked(corpus, items, strings, cosine, text_of, owner, second, passes)

    def score(self, found: Ranked) -> list[dict]:
        """R@k of both directions by cosine, then of both re-ranked; intervals resample pictures."""
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
                own = [np.flatnonzero(found.owner == picture) for picture in asking]
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
        """The first pictures with the three captions ranked first; the picture's own are marked."""
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
        note = "Three captions ranked first for a picture; ✓ marks its own."
        return [{"title": f"{self.title}: pictures asking for their caption", "note": note, "items": shown}]


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """(Q, N) -> (Q, min(k, N)) the columns with the highest scores, in any order; of equal ones the first."""
    k = min(k, scores.shape[1])
    return np.concatenate(
        [np.argsort(-scores[block], axis=1, kind="stable")[:, :k] for block in in_blocks(len(scores), 256)]
    )
