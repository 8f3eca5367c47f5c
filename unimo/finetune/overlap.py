"""What of a test split was seen in training: exact and near duplicates of its texts and images.

    texts      exact: equal words, whatever case and punctuation
               near:  Jaccard similarity of the sets of word 5-grams of at least 0.8
    images   exact: equal bytes
               near:  64-bit difference hashes that differ in at most 4 bits, and tiny colour images that agree

Only the test split is kept in memory; training data of any size streams past it. Both searches are complete, not
sampled. For similar texts (Chaudhuri et al., ICDE 2006) rare shingles come first in one order for all, and of a set of
n only the first n - ceil(0.8 n) + 1 need to be looked up: two sets that share none of those cannot share 80 %. For
similar images the hash is cut into five bands: of five bands, four differing bits leave one untouched.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unimo.corpus.corpus import Corpus
from unimo.data.images import load_rgb
from unimo.errors import UsageError
from unimo.finetune.split import Examples
from unimo.sentences import sentences, words
from unimo.tokenizer import Tokenizer

BANDS = (13, 13, 13, 13, 12)  # bits; one more than bits that may differ
NEAR_BITS = len(BANDS) - 1


class Twin(NamedTuple):
    """A test item and the training item most like it. likeness: 1 of exact ones, else the Jaccard similarity, or the
    share of equal bits."""

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
    twins: tuple[Twin, ...] = field(default=())

    def summary(self) -> dict[str, Any]:
        """For a result file: counts, and the first twins by name."""
        named = [twin._asdict() | {"likeness": round(twin.likeness, 4)} for twin in self.twins]
        counts = {"tested": self.tested, "trained": self.trained, "exact": self.exact, "near": self.near}
        return {"what": self.what, **counts, "twins": named}


def split_overlap(train: Examples | Corpus, test: Examples, *, keep: int = 10) -> list[Overlap]:
    """Texts and images of a test split against those of a training split or of a corpus of pre-training.

    One entry for texts and one for images, as far as both sides have them. keep: how many twins are named.
    """
    found = []
    asked = list(texts_of(test))
    if asked and (not isinstance(train, Corpus) or train.kind != "images"):
        found.append(text_overlap(texts_of(train), asked, keep=keep))
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
    tokenizer = Tokenizer.default()
    if source.kind == "images":
        raise UsageError(
            "images hold no texts", where="texts_of", expected="rows, texts or pairs", do="compare images instead"
        )
    for i in range(len(source)):
        if source.caption_offsets is not None:
            count = int(source.caption_offsets[i + 1] - source.caption_offsets[i])
            yield from ((f"{source.keys[i]}#{j}", source.text(i, j)) for j in range(count))
        else:
            text = tokenizer.decode(source.tokens(i))  # in one pass, even of a packed file
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

    least: Jaccard similarity from which a text is a near duplicate, over 0 and up to 1. Memory grows with the test
    texts, time with the number of words.
    """
    if not 0 < least <= 1 or shingle < 1:
        raise UsageError(
            "impossible bounds of likeness",
            where="least, shingle",
            got=f"{least}, {shingle} words",
            expected="0 to 1, a word or more",
            do="0.8 and 5 are usual",
        )
    names: list[str] = []
    sets: list[frozenset[int]] = []
    whole: dict[bytes, list[int]] = defaultdict(list)  # text, normalised -> test items
    for name, text in test:
        plain = _plain(text)
        whole[_digest(plain)].append(len(names))
        names.append(name)
        sets.append(_shingles(plain, shingle))
    frequency = Counter(each for some in sets for each in some)
    postings: dict[int, list[int]] = defaultdict(list)
    for i, some in enumerate(sets):
        for each in _prefix(some, frequency, least):
            postings[each].append(i)
    best: dict[int, Twin] = {}
    trained = 0
    for key, text in train:
        trained += 1
        plain = _plain(text)
        equal = whole.get(_digest(plain), ())
        for i in equal:
            _offer(best, i, Twin(names[i], key, 1.0, True))
        given = _shingles(plain, shingle)
        candidates = {i for each in _prefix(given, frequency, least) for i in postings.get(each, ())}
        for i in candidates.difference(equal):
            shared = len(given & sets[i])
            likeness = shared / (len(given) + len(sets[i]) - shared)
            if likeness >= least:
                _offer(best, i, Twin(names[i], key, likeness, False))
    return _overlap("texts", len(names), trained, best, keep)


def image_overlap(
    train: Iterable[tuple[str, bytes]],
    test: Iterable[tuple[str, bytes]],
    *,
    bits: int = NEAR_BITS,
    colours: int | None = 24,
    keep: int = 10,
) -> Overlap:
    """Test images with a twin in training; (name, encoded bytes) each.

    bits: of the difference hash that may differ, 0 to 4. colours: how much any colour of the images, shrunk to 8 x 8,
    may differ, of 255, for a near duplicate to be believed: the hash sees no colours, and little of what is drawn on a
    plain ground. None believes the hash alone. DataError when an image cannot be read.
    """
    if not 0 <= bits <= NEAR_BITS:
        raise UsageError(
            "impossible bounds of likeness",
            where="bits",
            got=f"{bits} bits",
            expected=f"0 to {NEAR_BITS}",
            do="4 finds near duplicates, 0 equal hashes alone",
        )
    names: list[str] = []
    shown: list[_Shown] = []
    whole: dict[bytes, list[int]] = defaultdict(list)
    postings: dict[tuple[int, int], list[int]] = defaultdict(list)  # (band, its bits) -> test items
    for i, (name, data) in enumerate(test):
        names.append(name)
        shown.append(_look(data, name))
        whole[shown[i].sha256].append(i)
        for band in _bands(shown[i].hash):
            postings[band].append(i)
    best: dict[int, Twin] = {}
    trained = 0
    for key, data in train:
        trained += 1
        given = _look(data, key)
        equal = whole.get(given.sha256, ())
        for i in equal:
            _offer(best, i, Twin(names[i], key, 1.0, True))
        candidates = {i for band in _bands(given.hash) for i in postings.get(band, ())}
        for i in candidates.difference(equal):
            differing = (given.hash ^ shown[i].hash).bit_count()
            if differing <= bits and (colours is None or np.abs(given.tiny - shown[i].tiny).max() <= colours):
                _offer(best, i, Twin(names[i], key, 1 - differing / 64, False))
    return _overlap("images", len(names), trained, best, keep)


def difference_hash(image: Image.Image) -> int:
    """64 bits: whether each cell of an 8 x 8 grid is brighter than its right neighbour, row by row."""
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(cells[:, :-1] > cells[:, 1:]).tobytes(), "big")


class _Shown(NamedTuple):
    sha256: bytes
    hash: int
    tiny: np.ndarray  # (8, 8, 3) int16


def _look(data: bytes, where: str) -> _Shown:
    image = load_rgb(data, where=where)
    tiny = np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.int16)
    return _Shown(hashlib.sha256(data).digest(), difference_hash(image), tiny)


def _bands(value: int) -> Iterator[tuple[int, int]]:
    for band, width in enumerate(BANDS):
        yield band, value & ((1 << width) - 1)
        value >>= width


def _plain(text: str) -> list[str]:
    """Words without case and punctuation; of a text of nothing else, what it consists of."""
    return words(unicodedata.normalize("NFKC", text).lower()) or text.split()


def _digest(plain: Sequence[str]) -> bytes:
    return hashlib.sha256(" ".join(plain).encode("utf-8", "replace")).digest()


def _shingles(plain: Sequence[str], n: int) -> frozenset[int]:
    return frozenset(hash(tuple(plain[i : i + n])) for i in range(len(plain) - n + 1))


def _prefix(some: frozenset[int], frequency: Counter[int], least: float) -> list[int]:
    """The rarest shingles, one of which every set shares that is alike enough."""
    count = len(some) - math.ceil(least * len(some) - 1e-9) + 1
    return sorted(some, key=lambda each: (frequency[each], each))[:count] if some else []


def _offer(best: dict[int, Twin], i: int, twin: Twin) -> None:
    """Keeps the likest twin; an exact one before all others, the first one met before its equals."""
    if i not in best or (twin.exact, twin.likeness) > (best[i].exact, best[i].likeness):
        best[i] = twin


def _overlap(what: str, tested: int, trained: int, best: dict[int, Twin], keep: int) -> Overlap:
    exact = sum(twin.exact for twin in best.values())
    return Overlap(what, tested, trained, exact, len(best) - exact, tuple(best[i] for i in sorted(best)[:keep]))


def _has_images(source: Examples | Corpus) -> bool:
    return source.kind != "texts" if isinstance(source, Corpus) else source.images is not None
