"""First images of a report: what the model writes about them, and whether it finds their captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unimo.evaluation.zero_shot.captioning import Captions
from unimo.evaluation.zero_shot.retrieval import Ranked

SHOWN = 6


def image_examples(predictions: Sequence[Any], most: int = SHOWN) -> list[dict[str, Any]]:
    """Six images as examples of a report, retrieval's hits and misses taking turns; none without pairs.

    predictions: of all tasks; the first of captioning and of retrieval are taken.
    """
    captions = next((one for one in predictions if isinstance(one, Captions)), None)
    ranked = next((one for one in predictions if isinstance(one, Ranked)), None)
    written = dict(zip(captions.items.tolist(), captions.sentences)) if captions else {}
    corpus = captions.corpus if captions else ranked.gallery.corpus if ranked else None
    found = ranked.first_captions(1) if ranked and ranked.gallery.corpus is corpus else {}
    items = [item for item in (written or found) if item in found] or list(written)
    hits = [item for item in items if item in found and found[item][0][0] in found[item][1]]
    misses = [item for item in items if item not in hits]
    shown = []
    for item in _alternating(hits, misses)[:most]:
        lines = []
        if item in found:
            (first,), own = found[item]
            lines = (
                [f"✓ first of all captions: {first}"] if first in own else [f"✗ first: {first}", f"its own: {own[0]}"]
            )
        title = written.get(item) or ("(nothing)" if written else "hit" if item in hits else "miss")
        shown.append({"image": corpus.image_bytes(item), "title": title, "lines": lines})  # type: ignore[union-attr]
    note = "Above: the caption the model writes. Below: the caption it ranks first for the image; ✓ is the image's own."
    return [{"title": "Six images", "note": note, "items": shown, "open": True}] if shown else []


def _alternating(hits: list[int], misses: list[int]) -> list[int]:
    turns = [item for pair in zip(hits, misses) for item in pair]
    both = min(len(hits), len(misses))
    return turns + hits[both:] + misses[both:]
