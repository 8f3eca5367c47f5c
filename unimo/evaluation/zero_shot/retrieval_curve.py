"""How long a shortlist must be: recalls and fused passes of two-stage retrieval, from one exhaustive pass.

    N images · M captions · U distinct captions · s shortlist

Every fused score is computed once, as in the papers (N x U; equal captions share theirs). The second stage at any
length is then a choice from that matrix, so that all lengths are compared on the very same scores. What a length costs
is the pairs it fuses. A shortlist longer than the gallery of a direction means all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unimo.evaluation.zero_shot.context import EvalContext
from unimo.evaluation.zero_shot.retrieval import (
    DIRECTIONS,
    Gallery,
    Retrieval,
    nearest_columns,
    pair_codes,
    second_stage,
)
from unimo.metrics.intervals import Score

SHORTLISTS = (0, 4, 8, 16, 32, 64, 128)
_BLOCKS = 16  # after which progress is said


@dataclass(frozen=True)
class Point:
    """One length of the shortlist (None: all). passes: pairs fused. recalls: "image to text R@1" and so on."""

    shortlist: int | None
    passes: int
    recalls: dict[str, Score]

    def to_row(self, last: Point) -> dict[str, Any]:
        """For JSON. last: the exhaustive point, whose intervals say which recalls are as good."""
        whole = last.recalls
        within = {name: whole[name].low <= score.value <= whole[name].high for name, score in self.recalls.items()}
        return {
            "shortlist": "all" if self.shortlist is None else self.shortlist,
            "fused passes": self.passes,
            "fewer passes": last.passes / self.passes if self.passes else None,
            "within the interval of all": all(within.values()),
            "recalls": {name: {**s.to_dict(), "within": within[name]} for name, s in self.recalls.items()},
        }


def curve(
    context: EvalContext,
    task: Retrieval,
    shortlists: Sequence[int] = SHORTLISTS,
    *,
    say: Callable[[str], None] = print,
) -> tuple[Gallery, list[Point]]:
    """Points by length, the last is exhaustive. The task's own shortlist and sample of queries play no part."""
    at = task.gallery(context)
    fused = _fuse(context, at, say)
    points = []
    for s in sorted(s for s in shortlists if s < max(fused.shape)):
        best = {way: nearest_columns(at.rows(way), s) for way in DIRECTIONS}
        pairs = [pair_codes(way, np.arange(len(best[way])), best[way], fused.shape[1]).ravel() for way in DIRECTIONS]
        staged = {way: _staged(at.rows(way), _turned(fused, way), best[way]) for way in DIRECTIONS}
        points.append(Point(s, len(np.unique(np.concatenate(pairs))), _recalls(task, at, staged)))
    everything = {way: _turned(fused, way) for way in DIRECTIONS}
    return at, [*points, Point(None, fused.size, _recalls(task, at, everything))]


def table(points: Sequence[Point]) -> Iterator[str]:
    """Lines for a terminal."""
    names = list(points[0].recalls)
    short = [name.replace("image to text", "i→t").replace("text to image", "t→i") for name in names]
    yield f"{'shortlist':>9} {'passes':>11} {'fewer':>7}  within  " + "  ".join(short)
    for point in points:
        row = point.to_row(points[-1])
        fewer = "" if row["fewer passes"] is None else f"{row['fewer passes']:.1f}"
        recalls = "  ".join(f"{100 * row['recalls'][name]['value']:>{len(s)}.1f}" for name, s in zip(names, short))
        within = "yes" if row["within the interval of all"] else "no"
        yield f"{row['shortlist']:>9} {point.passes:>11,} {fewer:>7}  {within:<6}  {recalls}"
    last = points[-1].recalls.items()
    intervals = (f"{name} {score.value:.1%} ({score.low:.1%} to {score.high:.1%})" for name, score in last)
    yield "all, with 95 % intervals: " + ", ".join(intervals)


def _fuse(context: EvalContext, at: Gallery, say: Callable[[str], None]) -> np.ndarray:
    """All fused scores (N, U), some images at a time."""
    n, strings = at.cosine.shape
    fused = np.empty((n, strings), np.float32)
    for images in np.array_split(np.arange(n), min(_BLOCKS, n)):
        codes = np.arange(images[0] * strings, (images[-1] + 1) * strings)
        pairs = np.stack(np.divmod(codes, strings), axis=1)
        scores = context.pipeline.match(at.images, at.texts, pairs, batch_size=context.batch_size)
        fused[images] = scores.reshape(len(images), strings)
        say(f"{codes[-1] + 1:,} of {n * strings:,} pairs fused")
    return fused


def _turned(fused: np.ndarray, way: str) -> np.ndarray:
    return fused if way == "image to text" else fused.T


def _staged(cosine: np.ndarray, fused: np.ndarray, best: np.ndarray) -> np.ndarray:
    """(Q, N) cosines and fused scores -> (Q, N) after a second stage over the candidates (Q, s) of each query."""
    return second_stage(cosine, best, np.take_along_axis(fused, best, axis=1)) if best.size else cosine


def _recalls(task: Retrieval, at: Gallery, scores: dict[str, np.ndarray]) -> dict[str, Score]:
    """Every image and every caption is a query; scores: direction -> (N, U) or (U, N)."""
    found: dict[str, Score] = {}
    for way, rows in scores.items():
        queries = np.arange(len(at.queries(way)))
        recalls = at.recalls(way, queries, rows[at.queries(way)], task.seed)
        found |= {f"{way} {k}": score for k, score in recalls.items()}
    return found
