"""Examples of a fine-tuned task to look at: a few rows at random, and those that were answered worst.

    predictions + rows -> examples.json: what was read, the right answer, the model's, the score, a small image
    examples.json      -> examples of a report (`unimo.evaluation.report`)

What was answered stands in predictions-SPLIT.jsonl too, by the row's id.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unimo import rng
from unimo.data.images import load_rgb
from unimo.errors import UnimoError
from unimo.finetune.attention_maps import Look, drawn
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
LONGEST = 300  # characters of a text that is shown
RANDOM, WORST = "rows at random", "worst errors"
LOOKED = "Right half: the brighter, the more the answer's token looked there in the last layer (mean of the heads)."


@dataclass(frozen=True)
class Judged:
    """One row beside its answer. said, right: as they are shown. score: the row's own, called `metric`.

    wrong: how wrong it is, larger is worse; 0 is right.
    """

    said: str
    right: str
    metric: str
    score: float
    wrong: float


def judged(kind: TaskType, predictions: Sequence[Any], examples: Examples) -> list[Judged | None]:
    """Every row beside its answer; None for a row without a target."""
    found: list[Judged | None] = [None] * len(examples)
    begins = np.cumsum([0, *(len(captions_of(row)) for row in examples.rows)]) if isinstance(kind, Retrieval) else None
    for i in labelled(examples):
        row, said = examples.rows[i], predictions[i]
        if begins is not None:
            found[i] = _ranked(said.captions, said.scores, range(begins[i], begins[i + 1]))
        elif isinstance(kind, Classification):
            found[i] = _classified(kind, row, said)
        elif isinstance(kind, Regression):
            error = abs(said - float(str(row.target)))
            found[i] = Judged(f"{said:.3g}", str(row.target), "absolute error", error, error)
        else:
            wanted = references_of(row)
            score = float(rouge_l_each([tokenize(said)], [[tokenize(text) for text in wanted]])[0])
            found[i] = Judged(said, " / ".join(wanted), "ROUGE-L", score, 1 - score)
    return found


def _classified(kind: Classification, row: Example, said: Any) -> Judged:
    """Of wrong answers the surest is the worst."""
    right = answers_of(row)
    score = right.get(said.answer, 0.0)
    sure = max(said.likely.values())
    told = " / ".join(
        f"{answer} ({one:.2g})" if kind.head.kind == "answers" else answer for answer, one in right.items()
    )
    return Judged(f"{said.answer} ({sure:.0%})", told, "score", score, (1 - score) * (1 + sure))


def _ranked(captions: Sequence[str], scores: np.ndarray, own: range) -> Judged | None:
    """The caption ranked first for an image, and at which place the best of its own stands."""
    if not own:
        return None
    best = float(scores[own].max())
    better, level = int((scores > best).sum()), int((scores == best).sum())
    place = better + (level + 1) / 2  # in the middle of its equals
    right = " / ".join(captions[i] for i in own)
    return Judged(captions[int(scores.argmax())], right, f"place of its own among {len(captions):,}", place, place - 1)


def chosen_examples(
    kind: TaskType,
    predictions: Sequence[Any],
    examples: Examples,
    *,
    seed: int = 0,
    look: Callable[[int], Look] | None = None,
) -> dict[str, Any]:
    """{"split", "items"}: rows at random, the same for a seed, then the worst errors, worst first.

    Every item is JSON: what, id, read (texts), image (its key) with image (a data URI, where it could be read) and
    looked (with `look`: parts of it and their shares of attention, for the number of a row), answer, right, metric,
    score. A split without labels shows what was answered to rows at random.
    """
    rows = judged(kind, predictions, examples)
    some = np.sort(rng.generator(seed, "examples", examples.name).permutation(len(examples))[:SHOWN])
    faults = [(-row.wrong, i) for i, row in enumerate(rows) if row is not None and row.wrong > 1e-9]
    worst = [i for _, i in sorted(faults)[:SHOWN]]
    items = []
    for what, numbers in ((RANDOM, some.tolist()), (WORST, worst)):
        for i in numbers:
            row, one = examples.rows[i], rows[i]
            item: Item = {"what": what, "id": row.id, "read": [_cut(text) for text in _read(kind, row)]}
            if row.image is not None and kind.sees:
                item |= {"image": row.image, "thumbnail": _small(examples, row.image)}
                item |= {} if look is None else {"looked": look(i)}
            if one is None:
                items.append({**item, "answer": _cut(str(kind.written(predictions[i])["prediction"]))})
                continue
            score = one.score if math.isfinite(one.score) else None
            told = {"answer": _cut(one.said), "right": _cut(one.right), "metric": one.metric, "score": score}
            items.append({**item, **told})
    return {"split": examples.name, "items": items}


def report_examples(title: str, told: dict[str, Any]) -> list[dict[str, Any]]:
    """What `chosen_examples` returned as examples of `unimo.evaluation.report`, one part for either sort of rows."""
    found = []
    for what in (RANDOM, WORST):
        items = [_figure(item) for item in told["items"] if item["what"] == what]
        note = {"note": LOOKED} if any("looked" in item for item in told["items"]) else {}
        if items:
            found.append({"title": f"{title}, {told['split']}: {what}", **note, "items": items})
    return found


def _figure(item: Item) -> dict[str, Any]:
    lines = [*item["read"], *([f"right: {item['right']}"] if "right" in item else [])]
    if "score" in item:
        lines.append(f"{item['metric']}: {'undefined' if item['score'] is None else format(item['score'], '.3g')}")
    uri = item.get("thumbnail")
    image: Any = base64.b64decode(uri.partition(",")[2]) if uri else None
    if image is not None and item.get("looked"):
        image = drawn(load_rgb(image, where=item["image"]), item["looked"])
    if "image" in item and image is None:
        lines.append("its image cannot be read")
    return {"image": image, "title": f"answer: {item['answer'] or '(nothing)'}", "lines": [*lines, item["id"]]}


def _read(kind: TaskType, row: Example) -> Iterator[str]:
    """The texts that the model was given; of retrieval none, for its captions are the answer."""
    if not isinstance(kind, Retrieval) and getattr(kind, "reads", getattr(kind, "reads_texts", True)):
        yield from row.texts


def _small(examples: Examples, key: str) -> str | None:
    """The image as a data URI that fits into a page; None where it cannot be read (UNIMO sees regions alone)."""
    if examples.images is None:
        return None
    try:
        return thumbnail(examples.images.image_bytes(examples.image_item(key)), SIDE, where=key).uri
    except UnimoError:
        return None


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


__all__ = ["FILE", "chosen_examples", "judged", "report_examples"]
