"""Qualitative examples of a fine-tuned task: a few rows at random, and the worst errors.

    predictions + rows -> examples.json: texts, the right answer, the model's, the score, a small image
    examples.json      -> examples of a report (`unimo.evaluation.report`)

The predictions of all rows stand in predictions-SPLIT.jsonl, by the row's id.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unimo import rng
from unimo.data.images import load_rgb
from unimo.errors import UnimoError
from unimo.finetune.attention_maps import AttentionMap, drawn
from unimo.finetune.classification import answers_of
from unimo.finetune.example import Example
from unimo.finetune.generation import references_of
from unimo.finetune.retrieval import captions_of
from unimo.finetune.split import Examples
from unimo.finetune.task_type import labelled
from unimo.finetune.task_types import Classification, Regression, Retrieval, TaskType
from unimo.html_pages import thumbnail
from unimo.metrics.captions import rouge_l_each
from unimo.metrics.tokenize import tokenize

Item = dict[str, Any]
FILE = "examples.json"
SHOWN = 6  # rows of either sort
SIDE = 128  # pixels of the longer side of an image that is kept
MAX_LENGTH = 300  # characters of a text that is shown
RANDOM, WORST = "rows at random", "worst errors"
LEGEND = "Right half: the brighter, the more attention of the answer's token in the last layer (mean of the heads)."


@dataclass(frozen=True)
class Judged:
    """One row beside its prediction. answer, right: as they are shown. score: the row's own, called `metric`.

    error: larger is worse; 0 is right.
    """

    answer: str
    right: str
    metric: str
    score: float
    error: float


def judged(task: TaskType, predictions: Sequence[Any], examples: Examples) -> list[Judged | None]:
    """Every row beside its prediction; None for a row without a target."""
    found: list[Judged | None] = [None] * len(examples)
    begins = np.cumsum([0, *(len(captions_of(row)) for row in examples.rows)]) if isinstance(task, Retrieval) else None
    for i in labelled(examples):
        row, predicted = examples.rows[i], predictions[i]
        if begins is not None:
            found[i] = _ranked(predicted.captions, predicted.scores, range(begins[i], begins[i + 1]))
        elif isinstance(task, Classification):
            found[i] = _classified(task, row, predicted)
        elif isinstance(task, Regression):
            error = abs(predicted - float(str(row.target)))
            found[i] = Judged(f"{predicted:.3g}", str(row.target), "absolute error", error, error)
        else:
            references = references_of(row)
            score = float(rouge_l_each([tokenize(predicted)], [[tokenize(text) for text in references]])[0])
            found[i] = Judged(predicted, " / ".join(references), "ROUGE-L", score, 1 - score)
    return found


def _classified(task: Classification, row: Example, predicted: Any) -> Judged:
    """Of wrong answers the surest is the worst."""
    right = answers_of(row)
    score = right.get(predicted.answer, 0.0)
    probability = max(predicted.likely.values())
    soft = task.head.kind == "answers"
    shown = " / ".join(f"{answer} ({one:.2g})" if soft else answer for answer, one in right.items())
    answer = f"{predicted.answer} ({probability:.0%})"
    return Judged(answer, shown, "score", score, (1 - score) * (1 + probability))


def _ranked(captions: Sequence[str], scores: np.ndarray, own: range) -> Judged | None:
    """The caption ranked first for an image, and the rank of the best of its own."""
    if not own:
        return None
    best = float(scores[own].max())
    better, level = int((scores > best).sum()), int((scores == best).sum())
    rank = better + (level + 1) / 2  # in the middle of its equals
    right = " / ".join(captions[i] for i in own)
    return Judged(captions[int(scores.argmax())], right, f"rank of its own among {len(captions):,}", rank, rank - 1)


def chosen_examples(
    task: TaskType,
    predictions: Sequence[Any],
    examples: Examples,
    *,
    seed: int = 0,
    look: Callable[[int], AttentionMap] | None = None,
) -> dict[str, Any]:
    """{"split", "items"}: rows at random, the same for a seed, then the worst errors, worst first.

    Every item is JSON: what, id, read (texts), image (its key) with thumbnail (a data URI, where it could be read) and
    attention (with `look`: its map, for the number of a row), answer, right, metric, score. A split without labels
    shows predictions of rows at random.
    """
    rows = judged(task, predictions, examples)
    some = np.sort(rng.generator(seed, "examples", examples.name).permutation(len(examples))[:SHOWN]).tolist()
    worst = [i for _, i in sorted((-row.error, i) for i, row in enumerate(rows) if row and row.error > 1e-9)]
    items = []
    for what, i in [*((RANDOM, i) for i in some), *((WORST, i) for i in worst[:SHOWN])]:
        row, one = examples.rows[i], rows[i]
        item: Item = {"what": what, "id": row.id, "read": [_cut(text) for text in _read(task, row)]}
        if row.image is not None and task.sees:
            item |= {"image": row.image, "thumbnail": _small(examples, row.image)}
            item |= {} if look is None else {"attention": look(i)}
        if one is None:
            item["answer"] = _cut(str(task.written(predictions[i])["prediction"]))
        else:
            score = one.score if math.isfinite(one.score) else None
            item |= {"answer": _cut(one.answer), "right": _cut(one.right), "metric": one.metric, "score": score}
        items.append(item)
    return {"split": examples.name, "items": items}


def report_examples(title: str, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """What `chosen_examples` returned as examples of `unimo.evaluation.report`, one part for either sort of rows."""
    note = {"note": LEGEND} if any("attention" in item for item in chosen["items"]) else {}
    found = []
    for what in (RANDOM, WORST):
        items = [_figure(item) for item in chosen["items"] if item["what"] == what]
        if items:
            found.append({"title": f"{title}, {chosen['split']}: {what}", **note, "items": items})
    return found


def _figure(item: Item) -> dict[str, Any]:
    lines = [*item["read"], *([f"right: {item['right']}"] if "right" in item else [])]
    if "score" in item:
        lines.append(f"{item['metric']}: {'undefined' if item['score'] is None else format(item['score'], '.3g')}")
    uri = item.get("thumbnail")
    image: Any = base64.b64decode(uri.partition(",")[2]) if uri else None
    if image is not None and item.get("attention"):
        image = drawn(load_rgb(image, where=item["image"]), item["attention"])
    if "image" in item and image is None:
        lines.append("its image cannot be read")
    return {"image": image, "title": f"answer: {item['answer'] or '(nothing)'}", "lines": [*lines, item["id"]]}


def _read(task: TaskType, row: Example) -> Sequence[str]:
    """The texts that the model was given; of retrieval none, for its captions are the answer."""
    reads = getattr(task, "reads", getattr(task, "reads_texts", False))
    return row.texts if reads else ()


def _small(examples: Examples, key: str) -> str | None:
    """The image as a data URI that fits into a page; None where it cannot be read (UNIMO sees regions alone)."""
    if examples.images is None:
        return None
    try:
        return thumbnail(examples.images.image_bytes(examples.image_item(key)), SIDE, where=key).uri
    except UnimoError:
        return None


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]} …"
