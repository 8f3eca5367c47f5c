"""Do people agree with the similarity of captions that chooses related sentences?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from unimo.errors import DataError
from unimo.metrics.intervals import Score, draws, mean_score
from unimo.nearest import bags, bm25, cosines, document_frequency, tf_idf, top_k, word_numbers, words


def caption_neighbour_precision(
    judgments: Sequence[Mapping[str, Any]],
    captions: Mapping[str, Sequence[str]],
    *,
    weighting: Literal["bm25", "tfidf"] = "bm25",
    embed: Callable[[list[str]], np.ndarray] | None = None,
    k: int = 1,
    seed: int = 0,
) -> dict[str, Score]:
    """Does the similarity of captions put what judges called right for an image above what they called wrong?

    judgments: rows with "image", "caption" and "scores" (1 to 4 each: right from a mean of 3 on) or "yes_fraction"
    (right: more than half), as of Flickr8k. captions: of each image. A row's score is the similarity of its caption
    to the image's other captions. embed: texts -> (n, D) of length 1; their cosines instead of shared words.

    Returns `auc`: the share of (right, wrong) judgements in right order, over all images, and `precision`: the share
    of right ones among the k best of an image that has both; chance is the share among all its rows. Intervals draw
    whole images.
    """
    rows = [row for row in judgments if len(captions.get(row["image"], ())) > 1]
    right = np.array([_is_right(row) for row in rows], bool)
    if not right.any() or right.all():
        raise DataError("nothing to compare", got=f"{right.sum()} of {len(rows)} right", expected="right and wrong")
    others = [[text for text in captions[row["image"]] if words(text) != words(row["caption"])] for row in rows]
    scores = _by_embedding(rows, others, embed) if embed else _by_words(rows, others, captions, weighting)
    image = np.unique([row["image"] for row in rows], return_inverse=True)[1]
    precision, chance = [], []
    for number in range(image.max() + 1):
        own = np.flatnonzero(image == number)
        if right[own].any() and not right[own].all():
            precision.append(right[own[top_k(scores[own], k)]].mean())
            chance.append(right[own].mean())
    resampled = [auc(scores, right, drawn[image]) for some in draws(image.max() + 1, seed=seed) for drawn in some]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return {
        "auc": Score(auc(scores, right), float(low), float(high), len(rows), 0.5),
        f"precision@{k}": mean_score(precision, chance=float(np.mean(chance)), seed=seed),
    }


def auc(scores: np.ndarray, right: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Share of (right, wrong) rows (n,) where the right one scores more; equal ones count half. NaN without both."""
    weight = np.ones(len(scores)) if weight is None else weight
    place = np.unique(scores, return_inverse=True)[1]
    good = np.bincount(place, weight * right)
    bad = np.bincount(place, weight * ~right)
    total = good.sum() * bad.sum()
    return float((good * (np.cumsum(bad) - bad / 2)).sum() / total) if total else float("nan")


def _is_right(row: Mapping[str, Any]) -> bool:
    return np.mean(row["scores"]) >= 3 if "scores" in row else row["yes_fraction"] > 0.5


def _by_words(
    rows: Sequence[Mapping[str, Any]],
    others: Sequence[Sequence[str]],
    captions: Mapping[str, Sequence[str]],
    weighting: str,
) -> np.ndarray:
    """(n,) BM25 or TF-IDF of each row's caption for the words of the image's other captions."""
    texts = sorted({text for some in captions.values() for text in some} | {row["caption"] for row in rows})
    place = {text: i for i, text in enumerate(texts)}
    vocabulary: dict[str, int] = {}
    corpus = bags(word_numbers((words(text) for text in texts), vocabulary, grow=True))
    frequency = document_frequency(corpus, len(vocabulary))
    queries = bags(word_numbers(([word for text in some for word in words(text)] for some in others), vocabulary))
    weighed = tf_idf(corpus, frequency, len(corpus)) if weighting == "tfidf" else bm25(corpus, frequency)
    if weighting == "tfidf":
        queries = tf_idf(queries, frequency, len(corpus))
    return np.array([cosines(weighed, np.array([place[row["caption"]]]), queries, i)[0] for i, row in enumerate(rows)])


def _by_embedding(
    rows: Sequence[Mapping[str, Any]], others: Sequence[Sequence[str]], embed: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    texts = sorted({text for row, some in zip(rows, others) for text in (row["caption"], *some)})
    place = {text: i for i, text in enumerate(texts)}
    table = np.asarray(embed(texts), np.float64)
    means = np.stack([table[[place[text] for text in some]].mean(0) for some in others])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return (means * table[[place[row["caption"]] for row in rows]]).sum(1)
