"""Random captions with their rewrites as one self-contained HTML page: to be read before training on them."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from unimo.corpus.corpus import Corpus
from unimo.errors import UsageError
from unimo.html_pages import Thumbnail, marked, thumbnail, write_page
from unimo.rewriting.store import LEVELS, Negative, Rewrites
from unimo.rng import generator

_NOTE = (
    "{shown} of {all} pairs, drawn at random (seed {seed}). A negative that is true of its image is an error; a "
    "positive that is false of it is one too."
)


def show(
    corpus: Corpus, rewrites: Rewrites, path: str | Path, *, n: int = 50, per_level: int = 6, seed: int = 0
) -> None:
    """Write a page with n random captions: the image, its other captions, and some rewrites of every level.

    What was replaced is struck out, what stands there now is marked. Raises UsageError where there is nothing to show,
    what reading an image raises, and ResourceError when the disk refuses.
    """
    if n < 1 or per_level < 1 or not len(corpus):
        raise UsageError("nothing to show", got=f"{n} of {len(corpus)} pairs", expected="at least one")
    rng = generator(seed, "show", "rewrites")
    chosen = rng.permutation(len(corpus))[:n]
    articles = [_article(corpus, rewrites, int(i), per_level, rng) for i in chosen]
    note = _NOTE.format(shown=len(chosen), all=len(corpus), seed=seed)
    write_page(path, title="Rewrites", lead=note, articles=articles)


Block = tuple[str, list[tuple[Thumbnail, str]], list[str]]  # title, images with captions, lines


def _article(corpus: Corpus, rewrites: Rewrites, i: int, per_level: int, rng) -> tuple[Thumbnail, str, list[Block]]:
    captions = corpus.sample(i).texts
    j = int(rng.integers(len(captions)))
    blocks: list[Block] = [
        ("other captions", [], [other for k, other in enumerate(captions) if k != j]),
        ("positives: translated and back", [], list(rewrites.positives(i, j))),
    ]
    every = rewrites.negatives(i, j)
    for level in LEVELS:
        some = [negative for negative in every if negative.level == level]
        drawn = [some[k] for k in sorted(rng.permutation(len(some))[:per_level])]
        title = f"negatives, {level} level: {len(drawn)} of {len(some)}"
        blocks.append((title, [], [_negative(captions[j], negative) for negative in drawn]))
    return thumbnail(corpus.image_bytes(i), where=corpus.where(i)), captions[j], blocks


def _negative(caption: str, negative: Negative) -> Markup:
    if negative.source is not None:
        return marked("{} <small>similarity {}</small>", negative.text, f"{negative.similarity:.2f}")
    parts, at = Markup(), 0
    for change in negative.changes:
        begin, end = change.span
        parts += marked("{}<del>{}</del> <ins>{}</ins>", caption[at:begin], change.old, change.new)
        at = end
    return parts + marked("{} <small>{}</small>", caption[at:], negative.kind)
