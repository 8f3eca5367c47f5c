"""Random pairs with their related images and sentences as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.errors import UsageError
from unimo.html_pages import Thumbnail, marked, thumbnail, write_page
from unimo.neighbours.store import SENTENCES, SIDES, Neighbours, read_part
from unimo.rng import generator
from unimo.tokenizer import Tokenizer

_SMALL = 160  # pixels of the longer side of a related image


def show(
    folder: str | Path,
    pairs: Corpus,
    images: Corpus | None,
    texts: Corpus | None,
    path: str | Path,
    *,
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
    tokenizer, near = Tokenizer.default(), Neighbours.open(folder, pairs, images, texts)
    parts = [read_part(file) for file in sorted(Path(folder).glob("*.safetensors")) if file.name != SENTENCES]
    scores = {side: np.concatenate([arrays[f"{side}_scores"] for _, arrays in parts]) for side in SIDES}
    articles = []
    for i in generator(seed, "show", "neighbours").permutation(len(pairs))[:n].tolist():
        first, *others = pairs.sample(i).texts
        blocks: list[tuple] = [("other captions", [], others)]
        if images is not None:
            best = zip(near.images(i)[:most].tolist(), scores["image"][i])
            figures = [(_thumbnail(images, k, _SMALL), f"{score:.3f} {images.keys[k]}") for k, score in best]
            title = f"related images: {len(figures)} of {near.counts['image'][i]}"
            blocks.append((title, figures, [] if figures else ["none"]))
        if texts is not None:
            best = zip(near.sentences(i)[:most].tolist(), scores["sentence"][i])
            related = [(tokenizer.decode(near.tokens(k)).strip(), f"{score:.3f}") for k, score in best]
            lines: list[str] = [marked("{} <small>{}</small>", *one) for one in related]
            blocks.append((f"related sentences: {len(related)} of {near.counts['sentence'][i]}", [], lines or ["none"]))
        articles.append((_thumbnail(pairs, i), first, blocks))
    made = parts[0][0]
    facts = {**made["settings"], "model": bool(made["model"]), "objects": bool(made["labels"])}
    note = (
        f"{len(articles)} of {len(pairs)} pairs, drawn at random (seed {seed}); of each the {most} best of its related "
        f"images and sentences, with their scores. Settings: {', '.join(f'{k} {v}' for k, v in facts.items())}."
    )
    write_page(path, title="Neighbours", lead=note, articles=articles)


def _thumbnail(corpus: Corpus, i: int, side: int = 320) -> Thumbnail:
    return thumbnail(corpus.image_bytes(i), side, where=corpus.where(i))
