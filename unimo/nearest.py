"""What is near what: sentences by their words, images by a vector or by the objects on them. Plain numpy, exact.

    n rows (sentences or images) · Q queries · k neighbours · D width · V words or classes · Z entries (row, word)

    sentences      a document as consecutive stretches
    Bags           rows of counted or weighted words (or object classes): compressed sparse rows
    bm25, tf_idf   counts -> weights
    Postings       an inverted index over Bags: the k best rows of a query
    nearest        the k best rows of dense vectors, block by block
    overlaps       how many objects two images share

Every search is exact, orders by (score, largest first; then row number) and gives the same whatever its blocks.

Sources: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; Salton and Buckley,
"Term-weighting approaches in automatic text retrieval", 1988 (TF-IDF with logarithmic counts and cosine).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unimo.ragged import offsets_of

Found = tuple[np.ndarray, np.ndarray]  # row numbers (at most k,) int64 and their scores, best first

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SPACE = re.compile(r"\s+")
_STOP = re.compile(r"([.!?…])[\"'”’)\]]*$")
_OPENING = "\"'“‘(["
_CLOSING = "\"'”’)]"
_FINAL = frozenset(".!?…" + _CLOSING)
_ABBREVIATION = re.compile(
    r"mrs?|ms|[djs]r|prof|st|rev|hon|gen|col|capt|lt|sgt|gov|sen|rep|vs|etc|ca|cf|figs?|vol|pp|eds?|trans|approx|e\.g|i\.e|"
    r"u\.s|u\.k|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)
_WRAPPED = 90  # characters; a text whose lines nearly all end before has hard line breaks
_BAGS_AT_ONCE = 2**16  # rows counted at once: bounds the memory of sorting


# ---- texts


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation. For languages that put spaces between words."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[tuple[int, int]]:
    """Stretches [first, last + 1) of characters that together are the whole text, cut before white space.

    Cut where a full stop, question or exclamation mark is followed by a capital or a figure, but not behind initials
    and common abbreviations of English; and at line ends, unless the text has hard line breaks: then at blank lines.
    """
    cuts = [0]
    paragraph = 2 if _hard_line_breaks(text) else 1
    for space in _SPACE.finditer(text):
        begin, end = space.span()
        inside = begin and end < len(text)
        if inside and (space.group().count("\n") >= paragraph or _ends_sentence(text, begin, end)):
            cuts.append(begin)
    return list(zip(cuts, [*cuts[1:], len(text)])) if text else []


def _hard_line_breaks(text: str) -> bool:
    lengths = sorted(len(line) for line in text.split("\n"))
    return len(lengths) >= 8 and lengths[len(lengths) * 9 // 10] <= _WRAPPED


def _ends_sentence(text: str, begin: int, end: int) -> bool:
    """Whether the white space [begin, end) parts two sentences."""
    if text[begin - 1] not in _FINAL:  # nearly always
        return False
    last = text[max(0, begin - 24) : begin].rsplit(None, 1)[-1]  # the word before, or its end
    stop = _STOP.search(last)
    following = text[end : end + 4].lstrip(_OPENING)[:1]
    if stop is None or not (following.isupper() or following.isdigit()):
        return False
    if stop.group(1) != ".":
        return True
    word = last.rstrip(_CLOSING).rstrip(".").lstrip(_OPENING)
    return not (_ABBREVIATION.fullmatch(word) or (len(word) == 1 and word.isupper()))


def word_numbers(texts: Iterable[Sequence[str]], numbers: dict[str, int], *, grow: bool = False) -> Iterator[list[int]]:
    """Words as numbers; unknown ones are added to `numbers` (grow) or passed over."""
    for text in texts:
        if grow:
            yield [numbers.setdefault(word, len(numbers)) for word in text]
        else:
            yield [numbers[word] for word in text if word in numbers]


# ---- sparse rows


@dataclass(frozen=True)
class Bags:
    """n rows of weighted words: row i holds terms[o[i] : o[i + 1]] (ascending, each once) with their values.

    terms (Z,) int32 · values (Z,) float32 · offsets o (n + 1,) int64
    """

    terms: np.ndarray
    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        some = slice(self.offsets[i], self.offsets[i + 1])
        return self.terms[some], self.values[some]

    def owners(self) -> np.ndarray:
        """(Z,) the row of every entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def pick(self, rows: np.ndarray) -> Bags:
        """Some rows, in the order of `rows` (m,)."""
        lengths = np.diff(self.offsets)[rows]
        offsets = offsets_of(lengths)
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Bags(self.terms[at], self.values[at], offsets)


def bags(rows: Iterable[Sequence[int] | np.ndarray]) -> Bags:
    """Counts how often each number occurs in each row."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    waiting: list[np.ndarray] = []

    def flush() -> None:
        flat = np.concatenate([np.zeros(0, np.int64), *waiting])
        width = int(flat.max(initial=0)) + 1
        owner = np.repeat(np.arange(len(waiting)), [len(row) for row in waiting])
        cell, counts = np.unique(owner * width + flat, return_counts=True)
        lengths = np.bincount(cell // width, minlength=len(waiting))
        parts.append(((cell % width).astype(np.int32), counts.astype(np.float32), lengths))
        waiting.clear()

    for row in rows:
        waiting.append(np.asarray(row, np.int64))
        if len(waiting) == _BAGS_AT_ONCE:
            flush()
    if waiting or not parts:
        flush()
    terms, counts, lengths = (np.concatenate(column) for column in zip(*parts))
    return Bags(terms, counts, offsets_of(lengths))


def document_frequency(rows: Bags, size: int) -> np.ndarray:
    """(V,) how many rows hold each of the `size` words."""
    return np.bincount(rows.terms, minlength=size)


def bm25(rows: Bags, frequency: np.ndarray, *, k1: float = 1.2, b: float = 0.75) -> Bags:
    """Counts -> what a word of the row adds to the score of a query that has it once.

        idf · c (k1 + 1) / (c + k1 (1 - b + b · length / mean length))        idf = ln(1 + (n - f + 1/2) / (f + 1/2))

    frequency f (V,): of these n rows. This idf is never negative, so a frequent word never speaks against a sentence.
    """
    idf = np.log1p((len(rows) - frequency + 0.5) / (frequency + 0.5))
    count = rows.values.astype(np.float64)
    owner = rows.owners()
    length = np.bincount(owner, count, minlength=len(rows))
    norm = k1 * (1 - b + b * length / max(float(length.mean()) if len(rows) else 0.0, 1e-12))
    weight = idf[rows.terms] * count * (k1 + 1) / (count + norm[owner])
    return replace(rows, values=weight.astype(np.float32))


def tf_idf(rows: Bags, frequency: np.ndarray, corpus: int) -> Bags:
    """Counts -> rows of length 1, whose product is a cosine: (1 + ln c) · ln((1 + n) / (1 + f)) + 1, normalised.

    frequency f (V,) and corpus n: of the corpus the weights are learned from, also for the rows of queries.
    """
    idf = np.log((1 + corpus) / (1 + frequency)) + 1
    weight = (1 + np.log(rows.values.astype(np.float64))) * idf[rows.terms]
    owner = rows.owners()
    length = np.sqrt(np.bincount(owner, weight**2, minlength=len(rows)))
    return replace(rows, values=(weight / length[owner]).astype(np.float32))


class Postings:
    """Inverted index over weighted rows: for every word, the rows that have it.

    Built in O(Z log Z), 8 bytes an entry (five million sentences of twenty words: 0.8 GB). A query of q words costs
    the sum of their posting lists, at most q · n additions, plus O(n) to choose; `block` rows are scored at once, so it
    takes O(block) memory.
    """

    def __init__(self, rows: Bags, *, block: int = 2**17):
        self.size, self.block = len(rows), block
        self.parts = []
        for first in range(0, len(rows), block):
            last = min(first + block, len(rows))
            some = slice(rows.offsets[first], rows.offsets[last])
            order = np.argsort(rows.terms[some], kind="stable")  # by word, then by row
            lengths = np.diff(rows.offsets[first : last + 1])
            owner = np.repeat(np.arange(last - first, dtype=np.int32), lengths)[order]
            terms, starts = np.unique(rows.terms[some][order], return_index=True)
            self.parts.append((first, last, terms, np.append(starts, len(order)), owner, rows.values[some][order]))

    def search(
        self, terms: np.ndarray, values: np.ndarray, k: int, *, exclude: Iterable[int] = (), least: float = 0.0
    ) -> Found:
        """The k rows with the largest sum of value · weight over the query's words (ascending), if above `least`."""
        best = _nothing()
        excluded = np.fromiter(exclude, np.int64)
        for first, last, known, starts, owner, weights in self.parts:
            scores = np.zeros(last - first)
            place = np.searchsorted(known, terms)
            for at, term, value in zip(place, terms, values):  # ascending words: the sum of a row knows no blocks
                if at < len(known) and known[at] == term:
                    some = slice(starts[at], starts[at + 1])
                    scores[owner[some]] += float(value) * weights[some]
            scores[excluded[(excluded >= first) & (excluded < last)] - first] = -np.inf
            best = _better(best, first, scores.astype(np.float32), k, least)  # rounded: see `nearest`
        return best


# ---- dense rows


def nearest(
    queries: np.ndarray,
    blocks: Iterable[np.ndarray],
    k: int,
    *,
    exclude: Sequence[Iterable[int]] | None = None,
    least: float = -np.inf,
) -> list[Found]:
    """For each query (Q, D) the k rows of all blocks (n_1, D), (n_2, D), … with the largest product, if above `least`.

    Rows of length 1 make it the cosine. Blocks may be memory-mapped: one is in memory at a time. O(Q · n · D)
    multiplications and O(Q · block) memory. Products are taken in double precision and rounded to single: only so do
    equal rows tie, and blocks of another size give the same.
    """
    best = [_nothing() for _ in queries]
    excluded = [np.fromiter(some, np.int64) for some in exclude] if exclude is not None else [best[0][0]] * len(best)
    wide = np.asarray(queries, np.float64)
    first = 0
    for block in blocks:
        scores = (wide @ np.asarray(block, np.float64).T).astype(np.float32)
        for i, row in enumerate(scores):
            here = excluded[i][(excluded[i] >= first) & (excluded[i] < first + len(block))]
            row[here - first] = -np.inf
            best[i] = _better(best[i], first, row, k, least)
        first += len(block)
    return best


def top_k(scores: np.ndarray, k: int, *, least: float = -np.inf) -> np.ndarray:
    """Places of the k largest scores (n,) above `least`, best first, the earlier one first where they are equal."""
    chosen = np.flatnonzero(scores > least)
    if len(chosen) > k > 0:
        kept = scores[chosen]
        edge = np.partition(kept, len(kept) - k)[len(kept) - k]  # the k-th largest; of its equals the first ones stay
        above = chosen[kept > edge]
        chosen = np.concatenate([above, chosen[kept == edge][: k - len(above)]])
    return chosen[np.lexsort((chosen, -scores[chosen]))][:k]


def _nothing() -> Found:
    return np.zeros(0, np.int64), np.zeros(0, np.float32)


def _better(best: Found, first: int, scores: np.ndarray, k: int, least: float) -> Found:
    """The best so far and the rows from `first` on, joined: the k best of both."""
    full = 0 < k == len(best[1])
    edge = max(least, float(best[1][-1])) if full else least  # an equal row that comes later displaces nothing
    new = top_k(scores, k, least=edge)
    numbers = np.concatenate([best[0], first + new])
    joined = np.concatenate([best[1], scores[new]])
    order = np.lexsort((numbers, -joined))[:k]
    return numbers[order], joined[order]


# ---- images


def overlaps(rows: Bags, chosen: np.ndarray, query: Bags, i: int) -> np.ndarray:
    """Multiset Jaccard of the objects of image i of `query` with those of the chosen images: (m,) in 0 .. 1.

    rows, query: counted class labels of detected objects. Two dogs beside one dog and one cat: 1 / 3. Two images
    without objects share nothing.
    """
    some = rows.pick(chosen)
    terms, values = query.row(i)
    size = 1 + max(int(some.terms.max(initial=0)), int(terms.max(initial=0)))
    wanted = np.zeros(size)
    wanted[terms] = values
    owner = some.owners()
    common = np.bincount(owner, np.minimum(some.values, wanted[some.terms]), minlength=len(chosen))
    total = np.bincount(owner, some.values, minlength=len(chosen)) + values.sum() - common
    return common / np.maximum(total, 1e-12)


def cosines(rows: Bags, chosen: np.ndarray, query: Bags, i: int) -> np.ndarray:
    """Products of row i of `query` with the chosen rows, (m,): cosines where both are `tf_idf` of class labels."""
    some = rows.pick(chosen)
    terms, values = query.row(i)
    wanted = np.zeros(1 + max(int(some.terms.max(initial=0)), int(terms.max(initial=0))))
    wanted[terms] = values
    return np.bincount(some.owners(), some.values * wanted[some.terms], minlength=len(chosen))


def colours_and_edges(pixels: np.ndarray, cells: int = 4, directions: int = 8) -> np.ndarray:
    """A descriptor without a model: where which colour is, and which way edges run. (S, S, 3) uint8 -> (D,), length 1.

    Mean colours of cells x cells fields, and of each a histogram of gradient directions weighted by strength (after
    Dalal and Triggs, "Histograms of oriented gradients", 2005); each half is brought to equal length. S must be a
    multiple of cells. D = cells² · (3 + directions).
    """
    side = len(pixels) // cells
    colour = pixels.astype(np.float64) / 255
    grey = colour.mean(2)
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    direction = (np.arctan2(down, right) % np.pi / np.pi * directions).astype(np.int64) % directions  # unsigned
    field = np.arange(side * cells) // side
    cell = field[:, None] * cells + field[None, :]
    edges = np.bincount((cell * directions + direction).ravel(), strength.ravel(), minlength=cells**2 * directions)
    means = colour.reshape(cells, side, cells, side, 3).mean((1, 3)).ravel() - 0.5  # around grey: black is not nothing
    whole = np.concatenate([part / max(float(np.linalg.norm(part)), 1e-12) for part in (means, edges)])
    return (whole / max(float(np.linalg.norm(whole)), 1e-12)).astype(np.float32)
