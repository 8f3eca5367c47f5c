"""Random captions with their rewrites as one self-contained HTML page: to be read before training on them."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from unimo.config import write_atomic
from unimo.data.chance import generator
from unimo.data.images import load_rgb
from unimo.data.rewrites import LEVELS, Negative, Rewrites
from unimo.data.sources import Corpus
from unimo.errors import UsageError

_SIDE = 320  # pixels of the longer side kept in the page
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1d21; --quiet: #63676e; --hair: #e3e3e0; --paper: #fbfbf9; --new: #0b6b3a;
  --old: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e9e9e6; --quiet: #9a9da3; --hair: #33363b; --paper: #16181b; --new: #6fd39c; --old: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 3rem 1.5rem 5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; } h2 { font-size: 1.05rem; margin: 0 0 .6rem; }
h3 { font-size: .8rem; font-weight: 400; color: var(--quiet); margin: .8rem 0 .1rem; }
.note { color: var(--quiet); font-size: .875rem; margin: 0; max-width: 44rem; }
article { display: grid; grid-template-columns: 13rem 1fr; gap: 1.5rem; border-top: 1px solid var(--hair);
  padding: 1.6rem 0; margin-top: 1.2rem; }
article img { width: 100%; height: auto; display: block; border-radius: .4rem; }
ul { list-style: none; margin: 0; padding: 0; font-size: .9rem; } li { margin: .12rem 0; }
del { color: var(--old); } ins { color: var(--new); text-decoration: none; font-weight: 600; }
small { color: var(--quiet); font-size: .78rem; }
@media (max-width: 40rem) { article { grid-template-columns: 1fr; } }
"""


def show(
    corpus: Corpus, rewrites: Rewrites, path: str | Path, *, n: int = 50, per_level: int = 6, seed: int = 0
) -> None:
    """Write a page with n random captions: the picture, its other captions, and some rewrites of every level.

    What was replaced is struck out, what stands there now is marked. The page asks for nothing outside itself. Raises
    what reading a picture raises, and ResourceError when the disk refuses.
    """
    if n < 1 or per_level < 1 or not len(corpus):
        raise UsageError("nothing to show", got=f"{n} of {len(corpus)} pairs", expected="at least one")
    rng = generator(seed, "show", "rewrites")
    chosen = rng.permutation(len(corpus))[:n]
    body = "".join(_article(corpus, rewrites, int(i), per_level, rng) for i in chosen)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rewrites</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Rewrites</h1>
<p class="note">{len(chosen)} of {len(corpus)} pairs, drawn at random. A negative that is true of its picture is an
error; a positive that is false of it is one too.</p>
{body}</body>
</html>
"""
    write_atomic(path, page.encode())


def _article(corpus: Corpus, rewrites: Rewrites, i: int, per_level: int, rng) -> str:
    captions = corpus.sample(i).texts
    j = int(rng.integers(len(captions)))
    blocks = [f"<h2>{_text(captions[j])}</h2>"]
    blocks.append(_list("other captions", [_text(text) for k, text in enumerate(captions) if k != j]))
    blocks.append(_list("positives: translated and back", [_text(text) for text in rewrites.positives(i, j)]))
    every = rewrites.negatives(i, j)
    for level in LEVELS:
        some = [negative for negative in every if negative.level == level]
        drawn = [some[k] for k in sorted(rng.permutation(len(some))[:per_level])]
        title = f"negatives, {level} level: {len(drawn)} of {len(some)}"
        blocks.append(_list(title, [_negative(captions[j], negative) for negative in drawn]))
    return f"<article><div>{_picture(corpus, i)}</div><div>{''.join(blocks)}</div></article>\n"


def _negative(caption: str, negative: Negative) -> str:
    if negative.source is not None:
        return f"{_text(negative.text)} <small>similarity {negative.similarity:.2f}</small>"
    parts, at = [], 0
    for change in negative.changes:
        begin, end = change.span
        parts.append(f"{_text(caption[at:begin])}<del>{_text(change.old)}</del> <ins>{_text(change.new)}</ins>")
        at = end
    return f"{''.join(parts)}{_text(caption[at:])} <small>{_text(negative.kind)}</small>"


def _picture(corpus: Corpus, i: int) -> str:
    image = load_rgb(corpus.image_bytes(i), where=corpus.where(i))
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}">'


def _list(title: str, items: list[str]) -> str:
    return f"<h3>{_text(title)}</h3><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>" if items else ""


def _text(text: str) -> str:
    """Escaped: captions are strangers' words."""
    return escape("".join(c if c.isprintable() else " " for c in text))
