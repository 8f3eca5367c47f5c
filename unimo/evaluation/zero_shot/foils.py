"""Foils: a true caption against a false one that says almost the same, often in the very same words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimo.corpus.image_names import ImageKeys
from unimo.errors import DataError
from unimo.evaluation.zero_shot.context import EvalContext, Paths, Row, choose, digest, row, unique
from unimo.formats import text as reading
from unimo.metrics.intervals import fraction_score

FIELDS = ("image", "positive", "negative")


@dataclass(frozen=True)
class Judged:
    """items: names what was scored. kinds, groups: (n,) kind of each foil and number of its image. margins: way ->
    (n,) score of the true caption minus score of the false one."""

    items: str
    kinds: list[str]
    groups: np.ndarray
    margins: dict[str, np.ndarray]


@dataclass(frozen=True)
class Foils:
    """foils: a .jsonl with image (a key of `pairs`), positive, negative, perhaps kind. limit: most scored."""

    pairs: Paths
    foils: str
    title: str = "Foils"
    limit: int | None = None
    seed: int = 0

    def predict(self, context: EvalContext) -> Judged:
        corpus = context.corpus("pairs", self.pairs)
        path = Path(self.foils)
        if not path.is_file():
            raise DataError("no such file of foils", where=path, expected=f"JSON lines with {', '.join(FIELDS)}")
        keys = ImageKeys.of(corpus)
        lines = [_checked(line, keys) for line in reading.read_jsonl(path)]
        lines = [lines[i] for i in choose(len(lines), self.limit, "foils", self.seed)]
        if not lines:
            raise DataError("a file without foils", where=path, expected="at least one line")
        items, image = np.unique([keys.exact(line["image"], path) for line in lines], return_inverse=True)
        strings, text = unique([line[side] for line in lines for side in ("positive", "negative")])
        images, texts = context.images(corpus, items), context.texts(strings)
        pairs = np.stack([np.repeat(image, 2), text], axis=1)
        near = images.embedding.cpu().numpy()[pairs[:, 0]] * texts.embedding.cpu().numpy()[pairs[:, 1]]
        fused = context.pipeline.match(images, texts, pairs, batch_size=context.batch_size)
        likely = context.pipeline.caption_log_likelihood(images, texts, pairs, batch_size=context.batch_size)
        possible = np.maximum(likely, np.finfo(likely.dtype).min)  # words never written: -inf, of which two tie
        scores = {"by cosine": near.sum(-1), "fused": fused, "by likelihood": possible}
        return Judged(
            digest([line["image"] for line in lines], strings),
            [str(line.get("kind", "foil")) for line in lines],
            pairs[::2, 0],
            {way: score[::2] - score[1::2] for way, score in scores.items()},
        )

    def score(self, judged: Judged) -> list[Row]:
        """Fraction of foils whose true caption scores higher (a tie counts half), all and by kind."""
        rows = []
        kinds = np.array(judged.kinds)
        for way, margin in judged.margins.items():
            hits = np.where(margin == 0, 0.5, margin > 0)
            for kind in ("all", *sorted(set(judged.kinds))):
                mine = np.full(len(kinds), True) if kind == "all" else kinds == kind
                score = fraction_score(hits[mine], groups=judged.groups[mine], chance=0.5, seed=self.seed)
                rows.append(row(self.title, f"{kind}, {way}", score, "%", items=judged.items))
        return rows

    def show(self, judged: Judged) -> list[dict]:
        return []


def _checked(line: reading.Row | DataError, keys: ImageKeys) -> dict:
    if isinstance(line, DataError):
        raise line
    for name in FIELDS:
        if not isinstance(line.values.get(name), str):
            got, expected = ", ".join(line.values), ", ".join(FIELDS)
            raise DataError("a foil lacks a field", where=line.where, got=got, expected=expected)
    keys.exact(line.values["image"], line.where, do="give the pairs that belong to these foils")
    return line.values
