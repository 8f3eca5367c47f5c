"""How long a shortlist must be: quality and speed of two-stage retrieval at many lengths, from one exhaustive pass.

    N images · M captions · U distinct captions · s shortlist

Every fused score is computed once, as in the papers (N x U; equal captions share theirs). The second stage at any
length is then a choice from that matrix, so that all lengths are compared on the very same scores. Only its speed must
be measured: the images are gone through in blocks, and in each block the exhaustive pass and the second stages take
turns, so that what else the machine does weighs on both.

A shortlist longer than the gallery of a direction means all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
from unimo.metrics.retrieval import recall_at_k

SHORTLISTS = (0, 4, 8, 16, 32, 64, 128)
_BLOCKS = 16  # turns at most that exhaustive pass and second stages take
_PAIRS_OF_A_TURN = 512  # at least: fewer would fill batches badly
_TIMED = 0.25  # second stages of more than this share of all passes are not run again for their time
_WARM_UP = 256  # pairs fused before the clock starts


@dataclass(frozen=True)
class Point:
    """One length of the shortlist (None: all). passes: pairs fused; seconds: of choosing and fusing them, None where it
    was not run by itself. recalls: "image to text R@1" and so on. worst: largest difference from the exhaustive score.
    """

    shortlist: int | None
    passes: int
    seconds: float | None
    recalls: dict[str, Score]
    worst: float | None = None


@dataclass(frozen=True)
class Curve:
    """points: by length, the last is exhaustive. seconds of the towers stand apart: every point needs them."""

    images: int
    captions: int
    distinct: int
    towers: float
    points: list[Point]

    def rows(self) -> list[dict[str, Any]]:
        """For JSON: of each point also its passes and seconds as ratios, and which recalls lie within the interval of
        the exhaustive ones."""
        last = self.points[-1]
        assert last.seconds is not None
        found = []
        for point in self.points:
            inside = {
                name: last.recalls[name].low <= score.value <= last.recalls[name].high
                for name, score in point.recalls.items()
            }
            found.append(
                {
                    "shortlist": "all" if point.shortlist is None else point.shortlist,
                    "fused passes": point.passes,
                    "fewer passes": None if not point.passes else last.passes / point.passes,
                    "seconds": point.seconds,
                    "faster": None if not point.seconds else last.seconds / point.seconds,
                    "faster, towers included": None
                    if point.seconds is None
                    else (last.seconds + self.towers) / (point.seconds + self.towers),
                    "largest difference of a score": point.worst,
                    "within the interval of all": all(inside.values()),
                    "recalls": {
                        name: {**score.to_dict(), "within": inside[name]} for name, score in point.recalls.items()
                    },
                }
            )
        return found

    def table(self) -> list[str]:
        """Lines for a terminal."""
        names = list(self.points[0].recalls)
        short = [name.replace("image to text", "i→t").replace("text to image", "t→i") for name in names]
        lines = [
            f"{'shortlist':>9} {'passes':>11} {'fewer':>7} {'seconds':>9} {'faster':>7}  within  " + "  ".join(short)
        ]
        for row in self.rows():
            fewer, seconds, faster = (
                "" if row[name] is None else f"{row[name]:.1f}" for name in ("fewer passes", "seconds", "faster")
            )
            recalls = "  ".join(f"{100 * row['recalls'][name]['value']:>{len(s)}.1f}" for name, s in zip(names, short))
            within = "yes" if row["within the interval of all"] else "no"
            costs = f"{row['shortlist']:>9} {row['fused passes']:>11,} {fewer:>7} {seconds:>9} {faster:>7}"
            lines.append(f"{costs}  {within:<6}  {recalls}")
        best = [f"{name} {s.value:.1%} ({s.low:.1%} to {s.high:.1%})" for name, s in self.points[-1].recalls.items()]
        return [*lines, "all, with 95 % intervals: " + ", ".join(best)]


def curve(
    context: EvalContext,
    task: Retrieval,
    shortlists: Sequence[int] = SHORTLISTS,
    *,
    say: Callable[[str], None] = print,
) -> Curve:
    """Of all images and captions of a task; its own shortlist and sample of queries play no part."""
    began = time.perf_counter()
    at = task.gallery(context)
    towers = time.perf_counter() - began
    n, strings = at.cosine.shape
    lengths = sorted({s for s in shortlists if 0 < s < max(n, strings)})
    chosen, choosing = {}, {}
    for s in lengths:
        began = time.perf_counter()
        best = {way: nearest_columns(at.rows(way), s) for way in DIRECTIONS}
        pairs = [pair_codes(way, np.arange(len(best[way])), best[way], strings).ravel() for way in DIRECTIONS]
        chosen[s] = np.unique(np.concatenate(pairs))
        choosing[s] = time.perf_counter() - began
    timed = {s: codes for s, codes in chosen.items() if len(codes) <= _TIMED * n * strings}
    fused, seconds, worst = _fuse(context, at, timed, say)
    points = []
    if 0 in shortlists:
        points.append(Point(0, 0, 0.0, _recalls(task, at, at.cosine, at.cosine.T)))
    for s, codes in chosen.items():
        staged = [_staged(at.rows(way), scores, s) for way, scores in zip(DIRECTIONS, (fused, fused.T))]
        recalls = _recalls(task, at, *staged)
        spent = choosing[s] + seconds[s] if s in seconds else None
        points.append(Point(s, len(codes), spent, recalls, worst.get(s)))
    points.append(Point(None, n * strings, seconds[None], _recalls(task, at, fused, fused.T)))
    return Curve(n, len(at.owner), strings, towers, points)


def _fuse(
    context: EvalContext, at: Gallery, timed: dict[int, np.ndarray], say: Callable[[str], None]
) -> tuple[np.ndarray, dict[int | None, float], dict[int, float]]:
    """All fused scores (N, U); the seconds of them (None) and of each second stage; how far those scores differ."""
    n, strings = at.cosine.shape
    fused = np.empty((n, strings), np.float32)
    seconds: dict[int | None, float] = dict.fromkeys((None, *timed), 0.0)
    worst = dict.fromkeys(timed, 0.0)

    def match(codes: np.ndarray) -> np.ndarray:
        pairs = np.stack(np.divmod(codes, strings), axis=1)
        return context.pipeline.match(at.images, at.texts, pairs, batch_size=context.batch_size)

    fewest = min((len(codes) for codes in timed.values()), default=n * strings)
    blocks = max(1, min(_BLOCKS, n, fewest // _PAIRS_OF_A_TURN))
    match(np.arange(min(_WARM_UP, n * strings)))
    begun = time.perf_counter()
    for number, images in enumerate(np.array_split(np.arange(n), blocks)):
        first, end = int(images[0]) * strings, (int(images[-1]) + 1) * strings
        began = time.perf_counter()
        fused[images] = match(np.arange(first, end)).reshape(len(images), strings)
        seconds[None] += time.perf_counter() - began
        for s, codes in timed.items():
            here = codes[np.searchsorted(codes, first) : np.searchsorted(codes, end)]
            began = time.perf_counter()
            scores = match(here) if len(here) else np.zeros(0, np.float32)
            seconds[s] += time.perf_counter() - began
            worst[s] = max(worst[s], float(np.abs(scores - fused.reshape(-1)[here]).max(initial=0)))
        spent = time.perf_counter() - begun
        left = spent * (n / (int(images[-1]) + 1) - 1)
        say(f"block {number + 1}: {end:,} of {n * strings:,} pairs fused in {spent:.0f} s, about {left:.0f} s left")
    return fused, seconds, worst


def _staged(cosine: np.ndarray, fused: np.ndarray, s: int) -> np.ndarray:
    """(Q, N) cosines and fused scores -> (Q, N) after a second stage over the s nearest of each query."""
    best = nearest_columns(cosine, s)
    return second_stage(cosine, best, np.take_along_axis(fused, best, axis=1))


def _recalls(task: Retrieval, at: Gallery, by_image: np.ndarray, by_text: np.ndarray) -> dict[str, Score]:
    """by_image: (N, U); by_text: (U, N). Every image and every caption asks; intervals resample images."""
    own = np.split(np.arange(len(at.owner)), np.searchsorted(at.owner, np.arange(1, len(at.items))))
    found = {
        "image to text": recall_at_k(by_image[:, at.text_of], own, task.ks, seed=task.seed),
        "text to image": recall_at_k(by_text[at.text_of], at.owner, task.ks, groups=at.owner, seed=task.seed),
    }
    return {f"{way} {k}": score for way, recalls in found.items() for k, score in recalls.items()}
