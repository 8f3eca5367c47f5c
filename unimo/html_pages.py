"""What the pages of `unimo prepare` share: one self-contained HTML file, an image beside texts, again and again.

The page asks for nothing outside itself: no script, no link, no font. Captions and file names are strangers' words, so
whatever is not built here must pass `text`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from unimo.corpus.corpus import Corpus
from unimo.data.images import load_rgb
from unimo.disk import write_atomic

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
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .6rem; margin: .3rem 0; }
figure { margin: 0; } figcaption { color: var(--quiet); font-size: .78rem; }
ul { list-style: none; margin: 0; padding: 0; font-size: .9rem; } li { margin: .12rem 0; }
del { color: var(--old); } ins { color: var(--new); text-decoration: none; font-weight: 600; }
small { color: var(--quiet); font-size: .78rem; }
@media (max-width: 40rem) { article { grid-template-columns: 1fr; } }
"""


def write_page(path: str | Path, title: str, note: str, articles: Sequence[str]) -> None:
    """title, note: plain texts; articles: what `article` returns. Raises ResourceError when the disk refuses."""
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{text(title)}</h1>
<p class="note">{text(note)}</p>
{"".join(articles)}</body>
</html>
"""
    write_atomic(path, page.encode())


def article(left: str, *right: str) -> str:
    """HTML beside HTML."""
    return f"<article><div>{left}</div><div>{''.join(right)}</div></article>\n"


def image(corpus: Corpus, i: int, side: int = 320) -> str:
    """The image of item i inside the page, its longer side at most `side` pixels. DataError if it cannot be read."""
    opened = load_rgb(corpus.image_bytes(i), where=corpus.where(i))
    opened.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    opened.save(stream, "JPEG", quality=82)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}">'


def row(title: str, figures: Sequence[tuple[str, str]]) -> str:
    """Images side by side, each with a plain text below; nothing where there are none."""
    shown = (f"<figure>{image}<figcaption>{text(below)}</figcaption></figure>" for image, below in figures)
    return f'<h3>{text(title)}</h3><div class="row">{"".join(shown)}</div>' if figures else ""


def listing(title: str, items: Sequence[str]) -> str:
    """HTML one below the other; nothing where there is none."""
    return f"<h3>{text(title)}</h3><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>" if items else ""


def text(plain: str) -> str:
    """Escaped, on one line."""
    return escape("".join(c if c.isprintable() else " " for c in plain))
