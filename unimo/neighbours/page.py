"""Random pairs with their related images and sentences as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.errors import UsageError
from unimo.html_pages import article, image, listing, row, text, write_page
from unimo.neighbours.store import SENTENCES, SIDES, Neighbours, read_part
from unimo.rng import generator
from unimo.tokenizer import Tokenizer

_SMALL = 160  # pixels of the longer side of a related image
_NOTE = (
    "{shown} of {all} pairs, drawn at random (seed {seed}); of each the {most} best of its related images and "
    "sentences, with their scores. Settings: {settings}."
)


def show(
    folder: str | Path,
    pairs: Corpus,
    images: Corpus | None,
    texts: Corpus | None,
    path: str | Path,
    *,
    tokenizer=None,
    n: int = 50,
    most: int = 8,
    seed: int = 0,
) -> None:
    """Write a page with n random pairs: image, captions, and the `most` best of its related images and sentences.

    folder: what `unimo prepare neighbours` wrote for these corpora. Raises UsageError where there is nothing to show,
    what `Neighbours.open` and reading an image raise, and ResourceError when the disk refuses.
    """
    if n < 1 or most < 1 or not len(pairs):
        raise UsageError("nothing to show", got=f"{n} of {len(pairs)} pairs", expected="at least one")
    tokenizer = tokenizer or Tokenizer.default()
    near = Neighbours.open(folder, pairs, images, texts)
    settings, scores = _settings_and_scores(Path(folder))
    chosen = generator(seed, "show", "neighbours").permutation(len(pairs))[:n]
    articles = []
    for i in chosen.tolist():
        first, *others = pairs.sample(i).texts
        blocks = [f"<h2>{text(first)}</h2>", listing("other captions", [text(other) for other in others])]
        found = zip(near.images(i)[:most].tolist(), scores["image"][i])
        figures = [] if images is None else [_figure(images, k, score) for k, score in found]
        blocks.append(row(f"related images: {len(figures)} of {near.counts['image'][i]}", figures))
        if images is not None and not figures:
            blocks.append(listing("related images", ["none"]))
        related = [
            f"{text(tokenizer.decode(near.tokens(k)).strip())} <small>{score:.3f}</small>"
            for k, score in zip(near.sentences(i)[:most].tolist(), scores["sentence"][i])
        ]
        blocks.append(listing(f"related sentences: {len(related)} of {near.counts['sentence'][i]}", related))
        if texts is not None and not related:
            blocks.append(listing("related sentences", ["none"]))
        articles.append(article(image(pairs, i), *blocks))
    note = _NOTE.format(shown=len(articles), all=len(pairs), seed=seed, most=most, settings=settings)
    write_page(path, "Neighbours", note, articles)


def _figure(images: Corpus, k: int, score: float) -> tuple[str, str]:
    return image(images, k, side=_SMALL), f"{score:.3f} {images.keys[k]}"


def _settings_and_scores(folder: Path) -> tuple[str, dict[str, list[np.ndarray]]]:
    """What they were made with, in words; and side -> the scores of every pair."""
    scores: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    settings = ""
    for path in sorted(path for path in folder.glob("*.safetensors") if path.name != SENTENCES):
        header, arrays = read_part(path)
        chosen = {**header["settings"], "model": bool(header["model"]), "objects": bool(header["labels"])}
        settings = ", ".join(f"{name} {value}" for name, value in chosen.items())
        for side in SIDES:
            scores[side] += np.split(arrays[f"{side}_scores"], arrays[f"{side}_offsets"][1:-1])
    return settings, scores
