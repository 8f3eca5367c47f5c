"""How the grounded dictionary is used: how evenly, what never, and what its most used entries look like.

N images · P patches · T packed tokens · C entries · S shown entries
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from unimo.data.augment import resize
from unimo.data.held_out import HeldOut
from unimo.data.images import load_rgb
from unimo.evaluation.zero_shot.context import EvalContext, Paths, Row, chosen, row
from unimo.metrics.codebook import codebook_report

TILES = 4  # a shown entry is a square of 4 x 4 patches


@dataclass(frozen=True)
class Entry:
    """One entry: how often pairs chose it, the patches and the pieces of words that vote most for it."""

    number: int
    chosen: int
    patches: Image.Image
    words: list[str]


@dataclass(frozen=True)
class Use:
    """entries: C. reports: part of the corpus -> `codebook_report` of what it chose."""

    reports: dict[str, dict]
    entries: int
    shown: list[Entry]


@dataclass(frozen=True)
class DictionaryUse:
    """pairs: paths of images with captions, of which the first is taken. show_entries: how many to show."""

    pairs: Paths
    title: str = "Dictionary"
    held_out: HeldOut | None = None
    limit: int | None = 512
    show_entries: int = 12
    seed: int = 0

    @torch.inference_mode()
    def predict(self, context: EvalContext) -> Use:
        pipeline = context.pipeline
        dictionary = pipeline.model.dictionary
        assert dictionary is not None, "the plan runs this only for models that have one"
        corpus = context.corpus("pairs", self.pairs)
        items = chosen(corpus, self.held_out, self.limit, "pairs", self.seed)
        images = context.images(corpus, items)
        texts = context.texts([corpus.text(int(i)) for i in items])
        sides = {"images alone": (images, None), "captions alone": (None, texts), "pairs": (images, texts)}
        codes: dict[str, Any] = {name: pipeline.encoder.codes(*side) for name, side in sides.items()}
        reports = {name: codebook_report(some, len(dictionary.entries)) for name, some in codes.items()}
        use = np.array(reports["pairs"]["use"])
        top = np.argsort(-use, kind="stable")[: self.show_entries]
        wanted = dictionary.entries[torch.from_numpy(top).to(pipeline.device)].float()
        patches = dictionary.positions_of(images.hidden[:, 1:], "image").float() @ wanted.T  # (N, P, S)
        words = dictionary.positions_of(texts.hidden, "text").float() @ wanted.T  # (T, S)
        crops = [_crops(pipeline, corpus, items, best.cpu().numpy()) for best in patches.movedim(-1, 0)]
        named = [_words(pipeline, texts.texts.ids, vote) for vote in words.T]
        shown = [Entry(int(e), int(use[e]), crop, nearest) for e, crop, nearest in zip(top, crops, named)]
        return Use(reports, len(dictionary.entries), shown)

    def score(self, use: Use) -> list[Row]:
        """Perplexity and dead entries of images alone, captions alone and pairs."""
        rows = []
        for name, report in use.reports.items():
            note = f"of {report['codes']:,} entries, {report['choices']:,} choices"
            rows.append(row(self.title, f"perplexity, {name}", report["perplexity"], "", note))
            rows.append(row(self.title, f"dead entries, {name}", report["dead_fraction"], "%", note))
        return rows

    def show(self, use: Use) -> list[dict]:
        """The most used entries as patches and words."""
        items = [
            {
                "image": entry.patches,
                "title": f"entry {entry.number}",
                "lines": [f"chosen {entry.chosen:,} times", ", ".join(entry.words)],
            }
            for entry in use.shown
        ]
        note = (
            "The entries pairs choose most: patches of 16 images that vote most for it, half a patch "
            "around each, and pieces of words that vote most for it."
        )
        return [{"title": f"{self.title}: the most used entries", "note": note, "items": items}]


def _crops(pipeline, corpus, items: np.ndarray, votes: np.ndarray) -> Image.Image:
    """The best patches, one of an image, as a square. votes: (N, P)."""
    patch = pipeline.model.patches.patch
    grid = pipeline.side // patch
    best = np.argsort(-votes.max(1), kind="stable")[: TILES * TILES]
    square = Image.new("RGB", (2 * patch * TILES, 2 * patch * TILES), (255, 255, 255))
    for place, i in enumerate(best):
        row, column = divmod(int(votes[i].argmax()), grid)
        image = Image.fromarray(resize(load_rgb(corpus.image_bytes(int(items[i]))), pipeline.side))
        left, top = (int(x * patch - patch / 2) for x in (column, row))
        tile = image.crop((left, top, left + 2 * patch, top + 2 * patch))  # black beyond the image's edge
        down, across = divmod(place, TILES)
        square.paste(tile, (across * 2 * patch, down * 2 * patch))
    return square


def _words(pipeline, ids: torch.Tensor, votes: torch.Tensor, most: int = 6) -> list[str]:
    """The pieces whose states come nearest to an entry on average, specials left out. ids, votes: (T,)."""
    distinct, place = ids.unique(return_inverse=True)
    mean = torch.zeros(len(distinct), device=votes.device).scatter_reduce(0, place, votes, "mean", include_self=False)
    special: Sequence[int] = sorted(pipeline.tokenizer.special_ids)
    mean[torch.isin(distinct, torch.tensor(special, device=ids.device))] = -torch.inf
    best = mean.argsort(descending=True, stable=True)[:most]
    return [pipeline.tokenizer.decode([int(i)]).strip() for i in distinct[best] if int(i) not in special]
