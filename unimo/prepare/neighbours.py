"""Related pictures and sentences for every pair (`unimo prepare neighbours`): UNIMO's retrieval augmentation.

    n pairs · m pictures of the image collection · s sentences of the text corpus · k neighbours · D width

Spec unimo §3.3: pictures are ranked by visual similarity and those with highly overlapping objects taken; sentences by
semantic similarity; 100 of each. Neither the similarities nor the search are published. Ours: cosine of our own picture
embeddings, or of colours and edges without a model; multiset Jaccard of detected classes; BM25 of all captions of the
pair, re-ranked by our own text embeddings where a model is given. What is the pair itself (the same bytes of a picture,
the same words in a caption) is no neighbour. `unimo.data.neighbours` says what is written, and reads it.

Killed at any time and started again, it goes on and leaves the same bytes: every file is whole or absent, names in its
header what it was made from, and is a function of that alone.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from unimo.config import disk_error, fingerprint, setting, to_dict, write_atomic
from unimo.data.augment import squeeze
from unimo.data.chance import generator
from unimo.data.finding import Kind
from unimo.data.images import load_rgb
from unimo.data.ledger import Ledger
from unimo.data.neighbours import SENTENCES, SIDES, VERSION, Neighbours, read_header, read_part, write_part
from unimo.data.shards import offsets_of
from unimo.data.similarity import (
    Bags,
    Found,
    Postings,
    bags,
    bm25,
    colours_and_edges,
    cosines,
    document_frequency,
    nearest,
    overlaps,
    sentences,
    tf_idf,
    top_k,
    word_numbers,
    words,
)
from unimo.data.sources import Corpus, open_corpus
from unimo.errors import DataError, UsageError
from unimo.metrics.intervals import Score, draws, mean_score
from unimo.tokenizer import Tokenizer

if TYPE_CHECKING:
    from unimo.answer import Answerer

_VECTORS = ".pictures-"  # folders of vectors, there while the work goes on
_PICTURES_AT_ONCE = 4096  # described, stored and searched together
_QUERIES_AT_ONCE = 512
_SEEN_AT_ONCE = 256  # pictures whose hidden states are in memory together
_DESCRIPTOR_SIDE = 32  # pixels of the squeezed picture that colours and edges are taken from
_TEXTS_AT_ONCE = 4096

Labels = Sequence[np.ndarray]  # of each picture, the class numbers of its detected objects
Describe = Callable[[Iterable[Image.Image]], np.ndarray]  # pictures -> (n, D) of length 1
Each = Callable[[Callable[[int], int], Iterable[int]], Iterable[int]]  # does numbered pieces of work: `map`, `on_ray`


@dataclass(frozen=True)
class NeighbourSettings:
    images: int = setting(100, "related pictures kept of each pair")
    sentences: int = setting(100, "related sentences kept of each pair")
    weighting: Literal["bm25", "tfidf"] = setting("tfidf", "how shared words are weighed")
    overlap: Literal["jaccard", "tfidf"] = setting("jaccard", "how shared objects are weighed")
    pool: int = setting(1000, "nearest candidates that objects (pictures) or embeddings (sentences) choose from")
    fewest_words: int = setting(4, "sentences with fewer words are left out")
    most_words: int = setting(50, "sentences with more words are left out")
    least_sentence: float = setting(0.0, "a sentence must score more, in its last ranking")
    least_image: float = setting(0.0, "a picture must have a larger cosine")
    least_overlap: float = setting(0.0, "a picture must share more of its objects, where objects are known")
    approximate_above: int | None = setting(None, "pictures beyond which the search is approximate (extra `faiss`)")

    def __post_init__(self) -> None:
        for name in ("images", "sentences", "pool", "fewest_words"):
            if getattr(self, name) < 1:
                raise UsageError("too few", where=name, got=getattr(self, name), expected="at least 1")


def neighbours(
    pairs: str | Path | Sequence[str],
    images: str | Path | Sequence[str] | None,
    texts: str | Path | Sequence[str] | None,
    out: str | Path,
    *,
    model: str | Path | None = None,
    settings: NeighbourSettings | None = None,
    ledger: Ledger | None = None,
    ray: bool = False,
    say: Callable[[str], None] = print,
    **options: Any,
) -> dict[str, Any]:
    """What the verb does: opens the corpora (`options` are those of `open_corpus`), loads the model, prepares.

    See `prepare_neighbours` for the rest.
    """
    tokenizer = Tokenizer.default()
    ledger = Ledger() if ledger is None else ledger
    _require_other(images, texts)

    def opened(kind: Kind, paths: str | Path | Sequence[str]) -> Corpus:
        return open_corpus(kind, paths, tokenizer=tokenizer, ledger=ledger, **options)

    corpora = (
        opened("pairs", pairs),
        None if images is None else opened("images", images),
        None if texts is None else opened("texts", texts),
    )
    answerer = None
    if model is not None:
        from unimo.answer import load  # torch is not needed without a model

        answerer = load(model)
    each: Each = on_ray if ray else map
    return prepare_neighbours(*corpora, out, settings=settings, model=answerer, ledger=ledger, each=each, say=say)


def prepare_neighbours(
    pairs: Corpus,
    images: Corpus | None,
    texts: Corpus | None,
    out: str | Path,
    *,
    settings: NeighbourSettings | None = None,
    tokenizer=None,
    model: Answerer | None = None,
    labels: tuple[Labels, Labels] | None = None,
    ledger: Ledger | None = None,
    each: Each = map,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes the neighbours of every pair, shard by shard, into the folder `out`; what is there already is kept.

    images, texts: one of them may be absent (None). tokenizer: the one both text corpora were indexed with. model: its
    text embeddings re-rank sentences; those of pictures (UNIMO-2 alone sees pixels) replace colours and edges. labels:
    class numbers of the objects on each picture of the pairs, and on each of the images. Pairs without a usable word go
    to the ledger when sentences are wanted. each: who describes blocks of pictures and searches for shards of pairs.
    Returns counts and seconds.

    Raises UsageError (nothing to search in, lists of labels of another length, a missing extra), DataError (a picture
    that changed) or ResourceError (the disk).
    """
    started = time.monotonic()
    _require_other(images, texts)
    settings = settings or NeighbourSettings()
    tokenizer = tokenizer or Tokenizer.default()
    ledger = Ledger() if ledger is None else ledger
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise disk_error(fault, folder) from fault
    objects = None if labels is None or images is None else _objects(labels, len(pairs), len(images))
    made_from = {
        "settings": to_dict(settings),
        "model": None if model is None else _weights_hash(model),
        "labels": None if objects is None else _bags_hash(objects),
        "pairs": pairs.fingerprint,
        "images": None if images is None else images.fingerprint,
        "texts": None if texts is None else texts.fingerprint,
    }
    parts = list(_parts(pairs))
    files = [
        (folder / f"{number:05d}.safetensors", {**made_from, "shard": name, "first": rows.start, "count": len(rows)})
        for number, (name, rows) in enumerate(parts)
    ]
    waiting = [number for number, file in enumerate(files) if not _stands(*file)]
    _remove_strangers(folder, {*(path for path, _ in files), *([folder / SENTENCES] if texts is not None else [])})
    library = None
    if texts is not None and (waiting or not _stands(folder / SENTENCES, made_from)):
        library = _Sentences(texts, tokenizer, settings, ledger, say)
        write_part(folder / SENTENCES, made_from, library.arrays())
    gallery = None
    if images is not None and waiting:
        key = fingerprint({**made_from, "version": VERSION})[:16]
        gallery = _Gallery(pairs, images, folder / f"{_VECTORS}{key}", settings, model, objects, each, say)

    begun, pairs_done = time.monotonic(), 0
    work = _Search(pairs, files, gallery, library, settings, model)
    for number in each(work, waiting):
        name, rows = parts[number]
        pairs_done += len(rows)
        rate = pairs_done / max(time.monotonic() - begun, 1e-3)
        say(f"{name} | {len(rows)} pairs | {pairs_done} searched for at {rate:.0f} pairs/s")
    totals = dict.fromkeys(SIDES, 0)
    for (path, _), (_, rows) in zip(files, parts):
        _, arrays = read_part(path)
        for side in SIDES:
            totals[side] += len(arrays[f"{side}_ids"])
        if texts is not None:
            _note_wordless(pairs, rows, ledger)
    for left in folder.glob(f"{_VECTORS}*"):
        shutil.rmtree(left)  # vectors were kept only so that a restart need not describe pictures again
    seconds = time.monotonic() - started
    counted = f"{totals['image']} related pictures, {totals['sentence']} related sentences"
    say(f"{len(pairs)} pairs: {counted} in {seconds:.1f} s")
    return {"pairs": len(pairs), **totals, "computed": len(waiting), "seconds": seconds}


@dataclass
class _Search:
    """Writes the part of a shard, named by its number: a function of what is given here, so anyone may do any part."""

    pairs: Corpus
    files: Sequence[tuple[Path, dict[str, Any]]]  # of each part, with its header
    gallery: _Gallery | None
    library: _Sentences | None
    settings: NeighbourSettings
    model: Answerer | None

    def __call__(self, number: int) -> int:
        path, header = self.files[number]
        rows = range(header["first"], header["first"] + header["count"])
        nothing: list[Found] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(rows)
        near = {"image": nothing, "sentence": nothing}
        if self.gallery is not None:
            near["image"] = self.gallery.near(rows)
        if self.library is not None:
            near["sentence"] = self.library.near(self.pairs, rows, self.settings, self.model)
        arrays: dict[str, np.ndarray] = {}
        for side, some in near.items():
            arrays[f"{side}_offsets"] = offsets_of([len(numbers) for numbers, _ in some])
            arrays[f"{side}_ids"] = np.concatenate([numbers for numbers, _ in some]).astype(np.uint32)
            arrays[f"{side}_scores"] = np.concatenate([scores for _, scores in some]).astype(np.float16)
        write_part(path, header, arrays)
        return number


def on_ray(work: Callable[[int], int], numbers: Iterable[int]) -> Iterator[int]:
    """As `map`, in any order, by Ray Data on the cluster that ray finds (extra `ray`).

    Corpora and output folder must be named by absolute paths that are the same on every machine. The index of sentences
    is built where this is called and handed to each machine once.
    """
    try:
        import ray
    except ImportError:
        raise UsageError(
            "work on a cluster needs ray", where="--ray", do="pip install 'unimo[ray]', or leave --ray away"
        ) from None
    numbers = list(numbers)
    if not numbers:
        return
    held = ray.put(work)
    jobs = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
    for row in jobs.map(lambda row: {"number": ray.get(held)(row["number"])}).iter_rows():
        yield int(row["number"])


# ---- sentences


class _Sentences:
    """The sentences of the text corpus, each once, and their inverted index."""

    def __init__(
        self, texts: Corpus, tokenizer, settings: NeighbourSettings, ledger: Ledger, say: Callable[[str], None]
    ):
        started = time.monotonic()
        self.texts, self.tf_idf = texts, settings.weighting == "tfidf"
        self.spans: list[tuple[int, int, int]] = []  # document, first and last + 1 token
        self.number: dict[bytes, int] = {}  # of a sentence, by the hash of its words
        self.vocabulary: dict[str, int] = {}
        counts = bags(word_numbers(self._kept(tokenizer, settings, ledger), self.vocabulary, grow=True))
        self.frequency = document_frequency(counts, len(self.vocabulary))
        weigh = tf_idf(counts, self.frequency, len(counts)) if self.tf_idf else bm25(counts, self.frequency)
        self.postings = Postings(weigh)
        seconds = time.monotonic() - started
        counted = f"{len(counts)} sentences and {len(self.vocabulary)} words of {len(texts)} texts"
        say(f"{counted} indexed in {seconds:.1f} s ({len(counts) / max(seconds, 1e-3):.0f} sentences/s)")

    def _kept(self, tokenizer, settings: NeighbourSettings, ledger: Ledger) -> Iterator[list[str]]:
        """The words of every sentence that is kept; notes where its tokens lie."""
        for document in range(len(self.texts)):
            ids = self.texts.tokens(document)
            text = tokenizer.decode(ids)  # not from its file: a packed one would be unpacked from its beginning
            spans = token_spans(text, ids, tokenizer)
            if spans is None:
                ledger.note("texts whose sentences do not fall between tokens")
                continue
            for (begin, end), (first, last) in spans:
                found = words(text[begin:end])
                if not settings.fewest_words <= len(found) <= settings.most_words:
                    continue
                name = _words_hash(found)
                if name not in self.number:
                    self.number[name] = len(self.spans)
                    self.spans.append((document, first, last))
                    yield found

    def arrays(self) -> dict[str, np.ndarray]:
        columns = np.array(self.spans, np.int32).reshape(-1, 3)
        return {name: columns[:, i] for i, name in enumerate(("document", "first", "last"))}

    def near(self, pairs: Corpus, rows: range, settings: NeighbourSettings, model: Answerer | None) -> list[Found]:
        captions = [captions_of(pairs, i) for i in rows]
        queries = bags(
            word_numbers(([word for text in some for word in words(text)] for some in captions), self.vocabulary)
        )
        if self.tf_idf:
            queries = tf_idf(queries, self.frequency, len(self.spans))
        k, least = (settings.sentences, settings.least_sentence) if model is None else (settings.pool, 0.0)
        found = []
        for i, some in enumerate(captions):
            own = {self.number.get(_words_hash(words(text))) for text in some} - {None}
            found.append(self.postings.search(*queries.row(i), k, exclude=own, least=least))  # type: ignore[arg-type]
        return found if model is None else self._ranked(captions, found, settings, model)

    def _ranked(
        self, captions: list[list[str]], found: list[Found], settings: NeighbourSettings, model: Answerer
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
            best = top_k(scores, settings.sentences, least=settings.least_sentence)
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


def captions_of(pairs: Corpus, i: int) -> list[str]:
    assert pairs.caption_offsets is not None
    return [pairs.text(i, j) for j in range(int(pairs.caption_offsets[i + 1] - pairs.caption_offsets[i]))]


def _note_wordless(pairs: Corpus, rows: range, ledger: Ledger) -> None:
    for i in rows:
        ledger.offer()
        if any(words(text) for text in captions_of(pairs, i)):
            ledger.use()
        else:
            error = DataError("pair without a word to search by", where=pairs.where(i), got=captions_of(pairs, i)[:1])
            ledger.add(error, key=pairs.keys[i], shard=pairs.shard_of(i))


def _embed_texts(model: Answerer, texts: Sequence[str | np.ndarray]) -> np.ndarray:
    """(len(texts), D) float32; some at a time, because the towers' states of all would not fit."""
    steps = range(0, len(texts), _TEXTS_AT_ONCE)
    return np.concatenate([model.encode_texts(texts[i : i + _TEXTS_AT_ONCE]).embedding.cpu().numpy() for i in steps])


# ---- pictures


class _Gallery:
    """Vectors of all pictures, on disk, and who is near whom."""

    def __init__(
        self,
        pairs: Corpus,
        images: Corpus,
        folder: Path,
        settings: NeighbourSettings,
        model: Answerer | None,
        objects: tuple[Bags, Bags] | None,
        each: Each,
        say: Callable[[str], None],
    ):
        self.settings, self.size = settings, len(images)
        self.objects = objects if objects is None or settings.overlap == "jaccard" else _weighed(objects)
        describe = _colours if model is None or model.side is None else _seen_by(model)
        folder.mkdir(exist_ok=True)
        self.own = _Vectors(pairs, folder, describe, each, say)
        self.others = _Vectors(images, folder, describe, each, say)
        self.copies: dict[bytes, list[int]] = {}
        for i, name in enumerate(self.others.hashes()):
            self.copies.setdefault(name, []).append(i)
        self.own_hashes = self.own.hashes()
        beyond = settings.approximate_above is not None and self.size > settings.approximate_above
        self.approximate = _Approximate(self.others.blocks()) if beyond else None

    def near(self, rows: range) -> list[Found]:
        k = self.settings.images if self.objects is None else max(self.settings.pool, self.settings.images)
        found: list[Found] = []
        for first in range(rows.start, rows.stop, _QUERIES_AT_ONCE):
            some = range(first, min(first + _QUERIES_AT_ONCE, rows.stop))
            same = [self.copies.get(self.own_hashes[i], []) for i in some]
            queries = self.own.rows(some)
            if self.approximate is None:
                blocks = self.others.blocks()
                found += nearest(queries, blocks, k, exclude=same, least=self.settings.least_image)
            else:
                found += self.approximate.nearest(queries, k, same, self.settings.least_image)
        return found if self.objects is None else [self._sharing(i, one) for i, one in zip(rows, found)]

    def _sharing(self, i: int, found: Found) -> Found:
        """Those of the visually nearest that share most objects with pair i; where equal, the more similar."""
        assert self.objects is not None
        measure = overlaps if self.settings.overlap == "jaccard" else cosines
        shared = measure(self.objects[1], found[0], self.objects[0], i).astype(np.float32)
        best = top_k(shared, self.settings.images, least=self.settings.least_overlap)
        return found[0][best], shared[best]


class _Vectors:
    """(n, D) float32 vectors and SHA-256 of the pictures of a corpus, in blocks on disk; made where missing."""

    def __init__(
        self,
        corpus: Corpus,
        folder: Path,
        describe: Describe,
        each: Each,
        say: Callable[[str], None],
    ):
        started = time.monotonic()
        count = -(-len(corpus) // _PICTURES_AT_ONCE)
        self.paths = [folder / f"{corpus.kind}-{number:05d}.npy" for number in range(count)]
        missing = [number for number, path in enumerate(self.paths) if not path.exists()]
        made = sum(min(_PICTURES_AT_ONCE, len(corpus) - n * _PICTURES_AT_ONCE) for n in missing)
        for _ in each(partial(_describe_block, corpus, self.paths, describe), missing):
            pass
        seconds = time.monotonic() - started
        rate = made / max(seconds, 1e-3)
        say(f"{made} of {len(corpus)} pictures ({corpus.kind}) described in {seconds:.1f} s ({rate:.0f} pictures/s)")

    def blocks(self) -> Iterator[np.ndarray]:
        return (np.load(path, mmap_mode="r", allow_pickle=False) for path in self.paths)

    def rows(self, items: range) -> np.ndarray:
        parts = []
        for number in range(items.start // _PICTURES_AT_ONCE, (items.stop - 1) // _PICTURES_AT_ONCE + 1):
            first = number * _PICTURES_AT_ONCE
            block = np.load(self.paths[number], mmap_mode="r", allow_pickle=False)
            parts.append(block[max(items.start - first, 0) : items.stop - first])
        return np.concatenate(parts)

    def hashes(self) -> list[bytes]:
        blocks = (np.load(_hashes_of(path), allow_pickle=False) for path in self.paths)
        return [row.tobytes() for block in blocks for row in block]


def _describe_block(corpus: Corpus, paths: Sequence[Path], describe: Describe, number: int) -> int:
    items = range(number * _PICTURES_AT_ONCE, min((number + 1) * _PICTURES_AT_ONCE, len(corpus)))
    hashes: list[bytes] = []
    vectors = describe(_reading(corpus, items, hashes))
    _save_array(_hashes_of(paths[number]), np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32))
    _save_array(paths[number], vectors.astype(np.float32))  # last: where it is, both are
    return number


def _hashes_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}-sha256.npy")


class _Approximate:
    """An inverted file of faiss (extra `faiss`) for collections too large to compare with everything.

    About 4 √m cells, of which 1 in 32 is looked at. Its vectors are in memory: 4 · m · D bytes.
    """

    def __init__(self, blocks: Iterator[np.ndarray]):
        faiss = _faiss()
        parts = [np.ascontiguousarray(block, np.float32) for block in blocks]
        size, width = sum(len(part) for part in parts), parts[0].shape[1]
        cells = max(1, min(int(4 * size**0.5), size // 40))
        self.index = faiss.index_factory(width, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        self.index.nprobe = max(1, cells // 32)
        chosen = generator(0, "approximate search").choice(len(parts), min(len(parts), 128), replace=False)
        self.index.train(np.concatenate([parts[i] for i in np.sort(chosen)]))
        for part in parts:
            self.index.add(part)

    def nearest(self, queries: np.ndarray, k: int, exclude: Sequence[Iterable[int]], least: float) -> list[Found]:
        """As `similarity.nearest`, but may miss some."""
        most = max((len(list(some)) for some in exclude), default=0)
        scores, numbers = self.index.search(np.ascontiguousarray(queries, np.float32), k + most)
        found = []
        for row, ids, some in zip(scores, numbers, exclude):
            good = (ids >= 0) & ~np.isin(ids, list(some)) & (row > least)
            order = np.lexsort((ids[good], -row[good]))[:k]
            found.append((ids[good][order], row[good][order]))
        return found


def _faiss():
    try:
        import faiss
    except ImportError:
        raise UsageError(
            "approximate search needs faiss",
            where="approximate_above",
            do="pip install 'unimo[faiss]', or leave approximate_above at none: the search is then exact",
        ) from None
    return faiss


def _reading(corpus: Corpus, items: Iterable[int], hashes: list[bytes]) -> Iterator[Image.Image]:
    """The pictures, one after the other; the SHA-256 of their bytes go to `hashes`."""
    for i in items:
        data = corpus.image_bytes(i)
        hashes.append(hashlib.sha256(data).digest())
        yield load_rgb(data, where=corpus.where(i))


def _colours(pictures: Iterable[Image.Image]) -> np.ndarray:
    return np.stack([colours_and_edges(squeeze(picture, _DESCRIPTOR_SIDE)) for picture in pictures])


def _seen_by(model: Answerer) -> Describe:
    def describe(pictures: Iterable[Image.Image]) -> np.ndarray:
        waiting = iter(pictures)
        chunks = iter(lambda: list(islice(waiting, _SEEN_AT_ONCE)), [])
        return np.concatenate([model.embed_image(chunk) for chunk in chunks])

    return describe


def _objects(labels: tuple[Labels, Labels], pairs: int, images: int) -> tuple[Bags, Bags]:
    for side, some, expected in zip(("pairs", "images"), labels, (pairs, images)):
        if len(some) != expected:
            raise UsageError(f"labels of other {side}", got=f"{len(some)} pictures", expected=f"{expected}")
    return bags(labels[0]), bags(labels[1])


def _weighed(objects: tuple[Bags, Bags]) -> tuple[Bags, Bags]:
    """TF-IDF of the classes, as common as they are among the images."""
    size = 1 + max(int(side.terms.max(initial=0)) for side in objects)
    frequency = document_frequency(objects[1], size)
    ours, theirs = (tf_idf(side, frequency, len(objects[1])) for side in objects)
    return ours, theirs


# ---- parts


def _parts(pairs: Corpus) -> Iterator[tuple[str, range]]:
    """The name of every shard of the pairs, and its items."""
    for path, items in groupby(range(len(pairs)), key=pairs.shard_of):
        numbers = list(items)
        yield path.name, range(numbers[0], numbers[-1] + 1)


def _stands(path: Path, header: Mapping[str, Any]) -> bool:
    """Whether this file is there, whole, and made from the same."""
    try:
        found, _ = read_part(path)
    except DataError:
        return False
    return all(found.get(name) == value for name, value in header.items())


def _remove_strangers(folder: Path, ours: set[Path]) -> None:
    """Parts of an earlier run over other shards (only files that say themselves what they are), and torn ones."""
    for path in folder.glob(".*.safetensors.partial.*"):
        path.unlink()
    for path in folder.glob("*.safetensors"):
        if path not in ours and read_header(path) is not None:
            path.unlink()


def _require_other(images: object, texts: object) -> None:
    if images is None and texts is None:
        raise UsageError("nothing to search in", expected="images, texts or both", do="name --images or --texts")


def _save_array(path: Path, array: np.ndarray) -> None:
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    write_atomic(path, stream.getvalue())


def _words_hash(found: Sequence[str]) -> bytes:
    return hashlib.blake2b(" ".join(found).encode(), digest_size=12).digest()


def _bags_hash(both: tuple[Bags, Bags]) -> str:
    arrays = [array for side in both for array in (side.offsets, side.terms, side.values)]
    return hashlib.sha256(b"".join(hashlib.sha256(array.tobytes()).digest() for array in arrays)).hexdigest()


def _weights_hash(model: Answerer) -> str:
    digest = hashlib.sha256()
    for name, weight in model.model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().float().numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()


# ---- looking at them


def show(
    folder: str | Path,
    pairs: Corpus,
    images: Corpus | None,
    texts: Corpus | None,
    *,
    tokenizer=None,
    count: int = 50,
    seed: int = 0,
    most: int = 8,
) -> dict[str, Any]:
    """Some random pairs with their `most` nearest pictures and sentences, as a report for `unimo.report.render`."""
    tokenizer = tokenizer or Tokenizer.default()
    near = Neighbours.open(folder, pairs, images, texts)
    scores = _scores(Path(folder))
    chosen = np.sort(generator(seed, "show neighbours").permutation(len(pairs))[:count])
    galleries = []
    for i in chosen.tolist():
        items: list[dict[str, Any]] = [
            {"image": pairs.image_bytes(i), "title": pairs.keys[i], "lines": captions_of(pairs, i)}
        ]
        for other, score in zip(near.images(i)[:most].tolist(), scores["image"][i]):
            assert images is not None
            items.append({"image": images.image_bytes(other), "title": f"{score:.3f}", "lines": [images.keys[other]]})
        lines = [
            f"{score:.2f}  {tokenizer.decode(near.tokens(other)).strip()}"
            for other, score in zip(near.sentences(i)[:most].tolist(), scores["sentence"][i])
        ]
        items.append({"image": None, "title": "sentences", "lines": lines or ["none"]})
        galleries.append({"title": f"pair {i}", "items": items})
    header, _ = read_part(next(path for path in sorted(Path(folder).glob("[0-9]*.safetensors"))))
    facts = {name: header[name] for name in ("settings", "pairs", "images", "texts", "model")}
    return {"title": "Neighbours", "facts": {**facts, "seed": seed}, "galleries": galleries}


def _scores(folder: Path) -> dict[str, list[np.ndarray]]:
    """side -> the scores of every pair."""
    scores: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    for path in sorted(folder.glob("[0-9]*.safetensors")):
        _, arrays = read_part(path)
        for side in SIDES:
            scores[side] += np.split(arrays[f"{side}_scores"], arrays[f"{side}_offsets"][1:-1])
    return scores


# ---- against human judgements


def caption_neighbour_precision(
    judgments: Sequence[Mapping[str, Any]],
    captions: Mapping[str, Sequence[str]],
    *,
    weighting: Literal["bm25", "tfidf"] = "bm25",
    embed: Callable[[list[str]], np.ndarray] | None = None,
    k: int = 1,
    seed: int = 0,
) -> dict[str, Score]:
    """Does the similarity of captions put what judges called right for a picture above what they called wrong?

    judgments: rows with "image", "caption" and "scores" (1 to 4 each: right from a mean of 3 on) or "yes_fraction"
    (right: more than half), as of Flickr8k. captions: of each picture. A row's score is the similarity of its caption
    to the picture's other captions. embed: texts -> (n, D) of length 1; their cosines instead of shared words.

    Returns `auc`: the share of (right, wrong) judgements in right order, over all pictures, and `precision`: the share
    of right ones among the k best of a picture that has both; chance is the share among all its rows. Intervals draw
    whole pictures.
    """
    rows = [row for row in judgments if len(captions.get(row["image"], ())) > 1]
    right = np.array([_is_right(row) for row in rows], bool)
    if not right.any() or right.all():
        raise DataError("nothing to compare", got=f"{right.sum()} of {len(rows)} right", expected="right and wrong")
    others = [[text for text in captions[row["image"]] if words(text) != words(row["caption"])] for row in rows]
    scores = _by_embedding(rows, others, embed) if embed else _by_words(rows, others, captions, weighting)
    picture = np.unique([row["image"] for row in rows], return_inverse=True)[1]
    precision, chance = [], []
    for number in range(picture.max() + 1):
        own = np.flatnonzero(picture == number)
        if right[own].any() and not right[own].all():
            precision.append(right[own[top_k(scores[own], k)]].mean())
            chance.append(right[own].mean())
    resampled = [auc(scores, right, drawn[picture]) for some in draws(picture.max() + 1, seed=seed) for drawn in some]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return {
        "auc": Score(auc(scores, right), float(low), float(high), len(rows), 0.5),
        f"precision@{k}": mean_score(precision, chance=float(np.mean(chance)), seed=seed),
    }


def auc(scores: np.ndarray, right: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Share of (right, wrong) rows (n,) where the right one scores more; equal ones count half. NaN without both."""
    weight = np.ones(len(scores)) if weight is None else weight
    place = np.unique(scores, return_inverse=True)[1]
    good = np.bincount(place, weight * right)
    bad = np.bincount(place, weight * ~right)
    total = good.sum() * bad.sum()
    return float((good * (np.cumsum(bad) - bad / 2)).sum() / total) if total else float("nan")


def _is_right(row: Mapping[str, Any]) -> bool:
    return np.mean(row["scores"]) >= 3 if "scores" in row else row["yes_fraction"] > 0.5


def _by_words(
    rows: Sequence[Mapping[str, Any]],
    others: Sequence[Sequence[str]],
    captions: Mapping[str, Sequence[str]],
    weighting: str,
) -> np.ndarray:
    """(n,) BM25 or TF-IDF of each row's caption for the words of the picture's other captions."""
    texts = sorted({text for some in captions.values() for text in some} | {row["caption"] for row in rows})
    place = {text: i for i, text in enumerate(texts)}
    vocabulary: dict[str, int] = {}
    corpus = bags(word_numbers((words(text) for text in texts), vocabulary, grow=True))
    frequency = document_frequency(corpus, len(vocabulary))
    queries = bags(word_numbers(([word for text in some for word in words(text)] for some in others), vocabulary))
    weighed = tf_idf(corpus, frequency, len(corpus)) if weighting == "tfidf" else bm25(corpus, frequency)
    if weighting == "tfidf":
        queries = tf_idf(queries, frequency, len(corpus))
    return np.array([cosines(weighed, np.array([place[row["caption"]]]), queries, i)[0] for i, row in enumerate(rows)])


def _by_embedding(
    rows: Sequence[Mapping[str, Any]], others: Sequence[Sequence[str]], embed: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    texts = sorted({text for row, some in zip(rows, others) for text in (row["caption"], *some)})
    place = {text: i for i, text in enumerate(texts)}
    table = np.asarray(embed(texts), np.float64)
    means = np.stack([table[[place[text] for text in some]].mean(0) for some in others])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return (means * table[[place[row["caption"]] for row in rows]]).sum(1)
