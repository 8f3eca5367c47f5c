"""Random pairs with their related images and sentences as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from unimo.corpus.corpus import Corpus
from unimo.errors import UsageError
from unimo.html_pages import Thumbnail, marked, thumbnail, write_page
from unimo.neighbours.store import SIDES, Neighbours
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
    shown: int = 8,
    seed: int = 0,
) -> None:
    """Write a page with n random pairs: image, captions, and the first `shown` of the related images and sentences.

    folder: what `unimo prepare neighbours` wrote for these corpora. Raises UsageError where there is nothing to show,
    what `Neighbours.open` and reading an image raise, and ResourceError when the disk refuses.
    """
    if n < 1 or shown < 1 or not len(pairs):
        raise UsageError("nothing to show", got=f"{n} of {len(pairs)} pairs", expected="at least one")
    tokenizer, near = Tokenizer.default(), Neighbours.open(folder, pairs, images, texts)
    articles = []
    for i in generator(seed, "show", "neighbours").permutation(len(pairs))[:n].tolist():
        first, *others = pairs.captions(i)
        blocks: list[tuple] = [("other captions", [], others)]
        scores = {side: near.scores[side][i].tolist() for side in SIDES}
        if images is not None:
            best = zip(near.images(i)[:shown].tolist(), scores["image"])
            figures = [(_thumbnail(images, k, _SMALL), f"{score:.3f} {images.keys[k]}") for k, score in best]
            title = f"related images: {len(figures)} of {near.counts['image'][i]}"
            blocks.append((title, figures, [] if figures else ["none"]))
        if texts is not None:
            best = zip(near.sentences(i)[:shown].tolist(), scores["sentence"])
            related = [(tokenizer.decode(near.tokens(k)).strip(), f"{score:.3f}") for k, score in best]
            lines: list[str] = [marked("{} <small>{}</small>", *one) for one in related]
            blocks.append((f"related sentences: {len(related)} of {near.counts['sentence'][i]}", [], lines or ["none"]))
        articles.append((_thumbnail(pairs, i), first, blocks))
    facts = {**near.header["settings"], "model": bool(near.header["model"]), "objects": bool(near.header["labels"])}
    note = (
        f"{len(articles)} of {len(pairs)} pairs, drawn at random (seed {seed}); of each the first {shown} related "
        f"images and sentences, with their scores. Settings: {', '.join(f'{k} {v}' for k, v in facts.items())}."
    )
    write_page(path, title="Neighbours", lead=note, articles=articles)


def _thumbnail(corpus: Corpus, i: int, side: int = 320) -> Thumbnail:
    return thumbnail(corpus.image_bytes(i), side, where=corpus.where(i))
