"""Sentences of a text corpus that resemble the captions of a pair.

TF-IDF of all captions of the pair; where a model is given, the best of these are re-ranked by the cosine of its text
embeddings. A sentence with the very words of a caption is no neighbour.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus
from unimo.nearest import Found, TfIdf, top_k
from unimo.neighbours.settings import NeighbourSettings
from unimo.ragged import offsets_of
from unimo.sentences import sentences, words

if TYPE_CHECKING:
    from unimo.inference import Pipeline

_BATCH = 4096


class Sentences:
    """The sentences of the text corpus, each once, and their search by words."""

    def __init__(
        self, texts: Corpus, tokenizer, settings: NeighbourSettings, bad_samples: BadSamples, say: Callable[[str], None]
    ):
        started = time.monotonic()
        self.texts = texts
        self.spans: list[tuple[int, int, int]] = []  # document, first and last + 1 token
        self.number: dict[bytes, int] = {}  # of a sentence, by the hash of its words
        self.index = TfIdf(self._kept(tokenizer, settings, bad_samples), list)
        seconds, n = time.monotonic() - started, len(self.spans)
        rate = n / max(seconds, 1e-3)
        say(f"{n} sentences of {len(texts)} texts indexed in {seconds:.1f} s ({rate:.0f} sentences/s)")

    def _kept(self, tokenizer, settings: NeighbourSettings, bad_samples: BadSamples) -> Iterator[list[str]]:
        """The words of every sentence that is kept; notes where its tokens lie."""
        for document in range(len(self.texts)):
            ids = self.texts.tokens(document)
            text = tokenizer.decode(ids)  # not from its file: a packed one would be unpacked from its beginning
            spans = token_spans(text, ids, tokenizer)
            if spans is None:
                bad_samples.note("texts whose sentences do not fall between tokens")
                continue
            for (begin, end), (first, last) in spans:
                found = words(text[begin:end])
                name = _words_hash(found)
                if settings.min_words <= len(found) <= settings.max_words and name not in self.number:
                    self.number[name] = len(self.spans)
                    self.spans.append((document, first, last))
                    yield found

    def arrays(self) -> dict[str, np.ndarray]:
        columns = np.array(self.spans, np.int32).reshape(-1, 3)
        return {name: columns[:, i] for i, name in enumerate(("document", "first", "last"))}

    def near(self, pairs: Corpus, rows: range, settings: NeighbourSettings, model: Pipeline | None) -> list[Found]:
        """The related sentences of some pairs, and their scores."""
        captions = [pairs.captions(i) for i in rows]
        queries = self.index.weigh([[word for text in some for word in words(text)] for some in captions])
        own = [{self.number.get(_words_hash(words(text)), -1) for text in some} - {-1} for some in captions]
        if model is None:
            return self.index.search(queries, settings.sentences, exclude=own, above=settings.min_sentence_score)
        return self._ranked(captions, self.index.search(queries, settings.pool, exclude=own), settings, model)

    def _ranked(
        self, captions: list[list[str]], found: list[Found], settings: NeighbourSettings, model: Pipeline
    ) -> list[Found]:
        """Candidates by the cosine of their embedding with the mean of the captions'."""
        used = np.unique(np.concatenate([numbers for numbers, _ in found]))
        if not len(used):
            return found
        tokens = [self.texts.tokens(d)[first:last] for d, first, last in (self.spans[i] for i in used)]
        table = _embed_texts(model, tokens)
        flat = _embed_texts(model, [text for some in captions for text in some])
        means = np.add.reduceat(flat, offsets_of([len(some) for some in captions])[:-1])
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        ranked = []
        for mean, (numbers, _) in zip(means, found):
            numbers = np.sort(numbers)
            scores = (table[np.searchsorted(used, numbers)].astype(np.float64) @ mean).astype(np.float32)
            best = top_k(scores, settings.sentences, above=settings.min_sentence_score)
            ranked.append((numbers[best], scores[best]))
        return ranked


def token_spans(text: str, ids: np.ndarray, tokenizer) -> list[tuple[tuple[int, int], tuple[int, int]]] | None:
    """Of each sentence its characters [begin, end) and its tokens [first, last) in the ids (t,) of the whole text.

    Sentences are cut before white space, where byte-level BPE cuts too, so that their ids one after the other are the
    text's; None where they are not (a tokenizer that merges across). Line breaks before a sentence are no part of it.
    """
    cuts = sentences(text)
    pieces = [text[begin:end] for begin, end in cuts]
    encoded = tokenizer.encode_batch(pieces)
    if [i for row in encoded for i in row] != ids.tolist():
        return None
    bodies = [_without_breaks(piece) for piece in pieces]
    changed = [i for i, (piece, body) in enumerate(zip(pieces, bodies)) if body != piece]  # one in five, in prose
    lengths = [len(row) for row in encoded]
    ends = offsets_of(lengths)[1:].tolist()
    for i, bare in zip(changed, tokenizer.encode_batch([bodies[i] for i in changed])):
        if encoded[i][lengths[i] - len(bare) :] == bare:
            lengths[i] = len(bare)
    return [(cut, (end - length, end)) for cut, length, end in zip(cuts, lengths, ends)]


def _without_breaks(piece: str) -> str:
    """A piece without the white space before it, but for one space right before its first word, which is its own."""
    rest = piece.lstrip()
    space = len(piece) - len(rest)
    return piece[space - 1 :] if space and piece[space - 1] == " " else rest


def _embed_texts(model: Pipeline, texts: Sequence[str | np.ndarray]) -> np.ndarray:
    """(len(texts), D) float32; some at a time, because the towers' states of all would not fit."""
    steps = range(0, len(texts), _BATCH)
    return np.concatenate([model.encoder.embed_texts(texts[i : i + _BATCH]).cpu().numpy() for i in steps])


def _words_hash(found: Sequence[str]) -> bytes:
    return hashlib.blake2b(" ".join(found).encode(), digest_size=12).digest()
