"""Random captions with their rewrites as one self-contained HTML page: to be read before training on them."""

from __future__ import annotations

from pathlib import Path

from unimo.corpus.corpus import Corpus
from unimo.errors import UsageError
from unimo.html_pages import article, image, listing, text, write_page
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
    write_page(path, "Rewrites", _NOTE.format(shown=len(chosen), all=len(corpus), seed=seed), articles)


def _article(corpus: Corpus, rewrites: Rewrites, i: int, per_level: int, rng) -> str:
    captions = corpus.sample(i).texts
    j = int(rng.integers(len(captions)))
    blocks = [f"<h2>{text(captions[j])}</h2>"]
    blocks.append(listing("other captions", [text(other) for k, other in enumerate(captions) if k != j]))
    blocks.append(listing("positives: translated and back", [text(same) for same in rewrites.positives(i, j)]))
    every = rewrites.negatives(i, j)
    for level in LEVELS:
        some = [negative for negative in every if negative.level == level]
        drawn = [some[k] for k in sorted(rng.permutation(len(some))[:per_level])]
        title = f"negatives, {level} level: {len(drawn)} of {len(some)}"
        blocks.append(listing(title, [_negative(captions[j], negative) for negative in drawn]))
    return article(image(corpus, i), *blocks)


def _negative(caption: str, negative: Negative) -> str:
    if negative.source is not None:
        return f"{text(negative.text)} <small>similarity {negative.similarity:.2f}</small>"
    parts, at = [], 0
    for change in negative.changes:
        begin, end = change.span
        parts.append(f"{text(caption[at:begin])}<del>{text(change.old)}</del> <ins>{text(change.new)}</ins>")
        at = end
    return f"{''.join(parts)}{text(caption[at:])} <small>{text(negative.kind)}</small>"
