"""What of a test split was seen in training: exact and near duplicates of its texts and images.

    texts    exact: equal words, whatever case and punctuation
             near:  Jaccard similarity of the sets of word 5-grams of at least 0.8
    images   exact: equal bytes
             near:  64-bit difference hashes that differ in at most 4 bits, and tiny colour images that agree

Only the test split is kept in memory; training data of any size streams past it, compared with all of it in blocks.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.sparse import csr_matrix

from unimo.corpus.corpus import Corpus
from unimo.data.images import load_rgb
from unimo.errors import UsageError
from unimo.finetune.split import Examples
from unimo.ragged import offsets_of
from unimo.sentences import sentences, words
from unimo.tokenizer import Tokenizer

HASH_BITS = 64
_BLOCK = 1024  # training items compared at once
_DO = "0.8 and 5 words, 4 bits are usual"


class Twin(NamedTuple):
    """A test item and the training item most like it. likeness: 1 of exact ones, else the Jaccard similarity, or the
    fraction of equal bits."""

    test: str
    train: str
    likeness: float
    exact: bool


@dataclass(frozen=True)
class Overlap:
    """what: texts or images. tested, trained: how many were compared. exact, near: test items with a twin of that
    kind; one that has both counts as exact. twins: the first of them, in the order of the test split."""

    what: str
    tested: int
    trained: int
    exact: int
    near: int
    twins: tuple[Twin, ...] = ()


def split_overlap(train: Examples | Corpus, test: Examples, *, keep: int = 10) -> list[Overlap]:
    """Texts and images of a test split against those of a training split or of a corpus of pre-training.

    One entry for texts and one for images, as far as both sides have them. keep: how many twins are named.
    """
    found = []
    texts = list(texts_of(test))
    if texts and (not isinstance(train, Corpus) or train.kind != "images"):
        found.append(text_overlap(texts_of(train), texts, keep=keep))
    if _has_images(train) and _has_images(test):
        found.append(image_overlap(images_of(train), images_of(test), keep=keep))
    return found


def texts_of(source: Examples | Corpus) -> Iterator[tuple[str, str]]:
    """(name, text): of rows their segments as one text, or their captions, each by itself; of a corpus its captions, or
    the sentences of its documents, so that a test sentence can be found within."""
    if isinstance(source, Examples):
        for row in source.rows:
            if row.texts:
                yield row.id, "\n".join(row.texts)
            elif isinstance(row.target, tuple):
                yield from ((f"{row.id}#{j}", text) for j, text in enumerate(row.target))
        return
    if source.kind == "images":
        expected, do = "rows, texts or pairs", "compare images instead"
        raise UsageError("images hold no texts", where="texts_of", expected=expected, do=do)
    for i in range(len(source)):
        if source.kind == "pairs":
            yield from ((f"{source.keys[i]}#{j}", text) for j, text in enumerate(source.captions(i)))
        else:
            text = Tokenizer.default().decode(source.tokens(i))  # in one pass, even of a packed file
            yield from ((f"{source.keys[i]}#{j}", text[a:b]) for j, (a, b) in enumerate(sentences(text)))


def images_of(source: Examples | Corpus) -> Iterator[tuple[str, bytes]]:
    """(key, encoded image): of rows those that they name, each once."""
    if isinstance(source, Corpus):
        yield from ((source.keys[i], source.image_bytes(i)) for i in range(len(source)))
    elif source.images is not None:
        for key in dict.fromkeys(row.image for row in source.rows if row.image is not None):
            yield key, source.images.image_bytes(source.image_item(key))


def text_overlap(
    train: Iterable[tuple[str, str]],
    test: Iterable[tuple[str, str]],
    *,
    least: float = 0.8,
    shingle: int = 5,
    keep: int = 10,
) -> Overlap:
    """Test texts with a twin in training; (name, text) each. A text shorter than `shingle` words has exact ones only.

    least: Jaccard similarity from which a text is a near duplicate, over 0 and up to 1.
    """
    if not 0 < least <= 1 or shingle < 1:
        got, expected = f"{least}, {shingle} words", "0 to 1, a word or more"
        raise UsageError("impossible bounds of likeness", where="least, shingle", got=got, expected=expected, do=_DO)
    twins = _Twins("texts")
    sets: list[frozenset[int]] = []
    for name, text in test:
        twins.test(name, _digest(text))
        sets.append(_shingles(text, shingle))
    columns: dict[int, int] = {}
    for some in sets:
        for each in some:
            columns.setdefault(each, len(columns))
    sizes, rows = np.array([len(some) for some in sets], np.int64), _indicator(sets, columns)
    train = iter(train)
    while block := list(islice(train, _BLOCK)):
        for name, text in block:
            twins.train(name, _digest(text))
        given = [_shingles(text, shingle) for _, text in block]
        shared = (_indicator(given, columns) @ rows.T).tocoo()
        lengths = np.array([len(some) for some in given], np.int64)
        likeness = shared.data / (lengths[shared.row] + sizes[shared.col] - shared.data)
        for at in np.flatnonzero(likeness >= least):
            twins.near(int(shared.col[at]), block[shared.row[at]][0], float(likeness[at]))
    return twins.overlap(keep)


def image_overlap(
    train: Iterable[tuple[str, bytes]],
    test: Iterable[tuple[str, bytes]],
    *,
    bits: int = 4,
    colours: int | None = 24,
    keep: int = 10,
) -> Overlap:
    """Test images with a twin in training; (name, encoded bytes) each.

    bits: of the difference hash that may differ. colours: how much any colour of the images, shrunk to 8 x 8, may
    differ, of 255, for a near duplicate to be believed: the hash sees no colours, and little of what is drawn on a
    plain ground. None believes the hash alone. DataError when an image cannot be read.
    """
    if not 0 <= bits < HASH_BITS // 2:
        got, expected = f"{bits} bits", f"0 to {HASH_BITS // 2 - 1}"
        raise UsageError("impossible bounds of likeness", where="bits", got=got, expected=expected, do=_DO)
    twins = _Twins("images")
    hashes, tiny = _looked(twins.test, test)
    train = iter(train)
    while block := list(islice(train, _BLOCK)):
        given, shrunk = _looked(twins.train, block)
        differing = (HASH_BITS - given @ hashes.T) / 2
        for row, i in np.argwhere(differing <= bits):
            if colours is None or np.abs(shrunk[row] - tiny[i]).max() <= colours:
                twins.near(int(i), block[row][0], 1 - float(differing[row, i]) / HASH_BITS)
    return twins.overlap(keep)


def difference_hash(image: Image.Image) -> np.ndarray:
    """(64,) bool: whether each cell of an 8 x 8 grid is brighter than its right neighbour, row by row."""
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return (cells[:, :-1] > cells[:, 1:]).ravel()


class _Twins:
    """The likest training item of each test item; an exact one before all others, the first met before its equals."""

    def __init__(self, what: str):
        self.what = what
        self.names: list[str] = []
        self.digests: dict[bytes, list[int]] = defaultdict(list)
        self.best: dict[int, Twin] = {}
        self.trained = 0

    def test(self, name: str, digest: bytes) -> None:
        self.digests[digest].append(len(self.names))
        self.names.append(name)

    def train(self, name: str, digest: bytes) -> None:
        self.trained += 1
        for i in self.digests.get(digest, ()):
            self._offer(i, Twin(self.names[i], name, 1.0, True))

    def near(self, i: int, name: str, likeness: float) -> None:
        self._offer(i, Twin(self.names[i], name, likeness, False))

    def _offer(self, i: int, twin: Twin) -> None:
        if i not in self.best or (twin.exact, twin.likeness) > (self.best[i].exact, self.best[i].likeness):
            self.best[i] = twin

    def overlap(self, keep: int) -> Overlap:
        exact = sum(twin.exact for twin in self.best.values())
        first = tuple(self.best[i] for i in sorted(self.best)[:keep])
        return Overlap(self.what, len(self.names), self.trained, exact, len(self.best) - exact, first)


def _looked(note: Any, images: Iterable[tuple[str, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """Difference hashes as (n, 64) of -1 and 1, whose products count equal bits, and tiny images (n, 8, 8, 3)."""
    hashes, tiny = [], []
    for name, data in images:
        note(name, hashlib.sha256(data).digest())
        image = load_rgb(data, where=name)
        hashes.append(np.where(difference_hash(image), np.float32(1), np.float32(-1)))
        tiny.append(np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.int16))
    return np.array(hashes, np.float32).reshape(-1, HASH_BITS), np.array(tiny, np.int16)


def _plain(text: str) -> list[str]:
    """Words without case and punctuation; of a text of nothing else, what it consists of."""
    return words(unicodedata.normalize("NFKC", text).lower()) or text.split()


def _digest(text: str) -> bytes:
    return hashlib.sha256(" ".join(_plain(text)).encode("utf-8", "replace")).digest()


def _shingles(text: str, n: int) -> frozenset[int]:
    plain = _plain(text)
    return frozenset(hash(tuple(plain[i : i + n])) for i in range(len(plain) - n + 1))


def _indicator(sets: list[frozenset[int]], columns: dict[int, int]) -> csr_matrix:
    """(sets, columns) of ones where a set has the shingle of a column."""
    known = [[columns[each] for each in some if each in columns] for some in sets]
    offsets = offsets_of([len(row) for row in known])
    flat = np.fromiter((column for row in known for column in row), np.int64, int(offsets[-1]))
    return csr_matrix((np.ones(len(flat), np.int32), flat, offsets), shape=(len(sets), len(columns)))


def _has_images(source: Examples | Corpus) -> bool:
    return source.kind != "texts" if isinstance(source, Corpus) else source.images is not None
