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
        blocks = [f"<h2>{text(first)}</h2>", listing("other captions", [text(other) for other in others])]
        if images is not None:
            best = zip(near.images(i)[:most].tolist(), scores["image"][i])
            figures = [(image(images, k, side=_SMALL), f"{score:.3f} {images.keys[k]}") for k, score in best]
            title = f"related images: {len(figures)} of {near.counts['image'][i]}"
            blocks.append(row(title, figures) if figures else listing(title, ["none"]))
        if texts is not None:
            best = zip(near.sentences(i)[:most].tolist(), scores["sentence"][i])
            said = [(tokenizer.decode(near.tokens(k)).strip(), score) for k, score in best]
            title = f"related sentences: {len(said)} of {near.counts['sentence'][i]}"
            blocks.append(
                listing(title, [f"{text(one)} <small>{score:.3f}</small>" for one, score in said] or ["none"])
            )
        articles.append(article(image(pairs, i), *blocks))
    made = parts[0][0]
    facts = {**made["settings"], "model": bool(made["model"]), "objects": bool(made["labels"])}
    note = (
        f"{len(articles)} of {len(pairs)} pairs, drawn at random (seed {seed}); of each the {most} best of its related "
        f"images and sentences, with their scores. Settings: {', '.join(f'{k} {v}' for k, v in facts.items())}."
    )
    write_page(path, "Neighbours", note, articles)
