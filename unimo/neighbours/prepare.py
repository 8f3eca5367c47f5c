"""Related images and sentences for every pair (`unimo prepare neighbours`): UNIMO's retrieval augmentation.

    n pairs · m images of the image collection · s sentences of the text corpus · k neighbours · D width

Spec unimo §3.3: images are ranked by visual similarity and those with highly overlapping objects taken; sentences by
semantic similarity; 100 of each. Neither the similarities nor the search are published. Ours:

    images     cosine of our own image embeddings, or of colours and edges without a model; of the nearest ones,
               where regions are prepared, those whose detected classes overlap most (multiset Jaccard)
    sentences  TF-IDF of all captions of the pair, re-ranked by our own text embeddings where a model is given

What is the pair itself (the same bytes of an image, the same words in a caption) is no neighbour.
`unimo.neighbours.store` says what is written, and reads it. Killed at any time and started again, it goes on and leaves
the same bytes: every file is whole or absent, names in its header what it was made from, and is a function of that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unimo.cluster import Map
from unimo.config import check_settings, to_dict
from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.corpus.finding import Kind
from unimo.errors import DataError, UsageError
from unimo.inference import Pipeline, identity, load
from unimo.nearest import Found
from unimo.neighbours.images import Gallery
from unimo.neighbours.objects import Labels, Objects, detected
from unimo.neighbours.page import show
from unimo.neighbours.sentences import Sentences
from unimo.neighbours.settings import NeighbourSettings
from unimo.neighbours.store import FORMAT, SENTENCES, SIDES, read_part
from unimo.sentences import words
from unimo.sidecar import Sidecar, standing, workspace, write_sidecar
from unimo.tokenizer import Tokenizer

Paths = str | Path | Sequence[str]


def neighbours(
    pairs: Paths,
    images: Paths | None,
    texts: Paths | None,
    out: str | Path,
    *,
    model: str | Path | None = None,
    regions: str | Path | Sequence[str | Path] | None = None,
    confidence: float = 0.2,
    settings: NeighbourSettings | None = None,
    bad_samples: BadSamples | None = None,
    run: Map = map,
    page: str | Path | None = None,
    rows: int = 50,
    page_seed: int = 0,
    say: Callable[[str], None] = print,
    **options: Any,
) -> dict[str, Any]:
    """Opens the corpora (`options` are those of `open_corpus`) and the model, and prepares: see `prepare_neighbours`.

    regions: folders of `unimo prepare regions` with those of pairs and images; a region counts as an object from
    `confidence` on (0.2 as published), and `unimo.neighbours.objects.detected` says what they raise. page: where to
    show `rows` random pairs.
    """
    check_settings(settings or NeighbourSettings(), cls=NeighbourSettings)
    if regions is not None and images is None:
        raise UsageError("no images to share objects with", where="regions", do="name --images, or leave them away")
    bad_samples = BadSamples() if bad_samples is None else bad_samples
    _require_other(images, texts)

    def opened(kind: Kind, paths: Paths | None) -> Corpus | None:
        options_of_all: dict[str, Any] = {"bad_samples": bad_samples, "run": run, **options}
        return None if paths is None else open_corpus(kind, paths, **options_of_all)

    paired, gallery, library = opened("pairs", pairs), opened("images", images), opened("texts", texts)
    assert paired is not None
    done = prepare_neighbours(
        paired,
        gallery,
        library,
        out,
        settings=settings,
        model=None if model is None else load(model),
        labels=None if regions is None or gallery is None else detected(regions, paired, gallery, confidence),
        bad_samples=bad_samples,
        run=run,
        say=say,
    )
    if page is not None:
        show(out, paired, gallery, library, page, n=rows, seed=page_seed)
    return done


def prepare_neighbours(
    pairs: Corpus,
    images: Corpus | None,
    texts: Corpus | None,
    out: str | Path,
    *,
    settings: NeighbourSettings | None = None,
    model: Pipeline | None = None,
    labels: tuple[Labels, Labels] | None = None,
    bad_samples: BadSamples | None = None,
    run: Map = map,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes the neighbours of every pair, shard by shard, into the folder `out`; what is there already is kept.

    images, texts: one of them may be absent (None). model: its text embeddings re-rank sentences; those of images
    (UNIMO-2 alone sees pixels) replace colours and edges. labels: class numbers of the objects on each image of the
    pairs, and on each of the images; a pair without an object then has no related images, which is counted. Pairs
    without a usable word are bad samples when sentences are wanted. run: who encodes blocks of images and searches for
    shards of pairs. Returns counts and seconds.

    Raises UsageError (nothing to search in, labels of other images, a missing extra), DataError (an image that changed)
    or ResourceError (the disk, another process that prepares this folder).
    """
    started, folder = time.monotonic(), Path(out)
    _require_other(images, texts)
    settings = settings or NeighbourSettings()
    check_settings(settings, cls=NeighbourSettings)
    bad_samples = BadSamples() if bad_samples is None else bad_samples
    objects = None if labels is None or images is None else Objects.of(labels, pairs, images)
    if objects is not None:
        bad_samples.note("pairs without a detected object, so without related images", objects.without())
    made_by = None if model is None else identity(model)["sha256"]
    corpora = {"pairs": pairs, "images": images, "texts": texts}
    made_from = {
        "settings": to_dict(settings),
        "model": made_by,
        "labels": None if objects is None else objects.digest(),
        **{name: None if corpus is None else corpus.fingerprint for name, corpus in corpora.items()},
    }
    shards = pairs.ranges()
    parts = [
        (folder / f"{n:05d}.safetensors", {**made_from, "shard": shard.name, "first": rows.start, "count": len(rows)})
        for n, (shard, rows) in enumerate(shards)
    ]
    with workspace(folder / "neighbours") as work:
        ends = [] if texts is None else [(folder / SENTENCES, made_from)]
        _remove_others(folder, {path for path, _ in (*parts, *ends)})
        missing = [number for number, part in enumerate(parts) if not _is_whole(*part)]
        library = gallery = None
        if texts is not None and (missing or not _is_whole(*ends[0])):
            library = Sentences(texts, Tokenizer.default(), settings, bad_samples, say)
            _write(work, folder / SENTENCES, made_from, library.arrays())
        if images is not None and missing:
            gallery = Gallery(pairs, images, work, settings, model, made_by, objects, run, say)
        begun, searched = time.monotonic(), 0
        search = _Search(pairs, gallery, library, settings, model)
        for number, arrays in zip(missing, run(search, [shards[number][1] for number in missing])):
            _write(work, *parts[number], arrays)
            shard, rows = shards[number]
            searched += len(rows)
            rate = searched / max(time.monotonic() - begun, 1e-3)
            say(f"{shard.name} | {len(rows)} pairs | {searched} searched for at {rate:.0f} pairs/s")
    if texts is not None:
        _note_wordless(pairs, bad_samples)
    found = [read_part(path)[1] for path, _ in parts]
    totals = {side: sum(int((arrays[f"{side}_ids"] >= 0).sum()) for arrays in found) for side in SIDES}
    seconds = time.monotonic() - started
    counted = f"{totals['image']} related images, {totals['sentence']} related sentences"
    say(f"{len(pairs)} pairs: {counted} in {seconds:.1f} s")
    return {"pairs": len(pairs), **totals, "computed": len(missing), "seconds": seconds}


@dataclass
class _Search:
    """The neighbours of some pairs, as they are stored: any process may search for any of them."""

    pairs: Corpus
    gallery: Gallery | None
    library: Sentences | None
    settings: NeighbourSettings
    model: Pipeline | None

    def __call__(self, rows: range) -> dict[str, np.ndarray]:
        near: dict[str, list[Found]] = {side: [] for side in SIDES}
        if self.gallery is not None:
            near["image"] = self.gallery.near(rows)
        if self.library is not None:
            near["sentence"] = self.library.near(self.pairs, rows, self.settings, self.model)
        arrays: dict[str, np.ndarray] = {}
        for side, found in near.items():
            k = {"image": self.settings.images, "sentence": self.settings.sentences}[side] if found else 0
            ids, values = np.full((len(rows), k), -1, np.int32), np.zeros((len(rows), k), np.float16)
            for i, (numbers, scores) in enumerate(found):
                ids[i, : len(numbers)], values[i, : len(numbers)] = numbers, scores
            arrays |= {f"{side}_ids": ids, f"{side}_scores": values}
        return arrays

    def where(self, rows: range) -> str:
        return f"pairs of {self.pairs.shard_of(rows[0])}"


def _note_wordless(pairs: Corpus, bad_samples: BadSamples) -> None:
    for i in range(len(pairs)):
        bad_samples.offer()
        if any(words(text) for text in pairs.captions(i)):
            bad_samples.use()
        else:
            error = DataError("pair without a word to search by", where=pairs.where(i), got=pairs.captions(i)[:1])
            bad_samples.add(error, key=pairs.keys[i], shard=pairs.shard_of(i))


def _write(work: Path, path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """What a kill leaves of it lies in `work`."""
    write_sidecar(work / path.name, FORMAT, header, arrays)
    (work / path.name).replace(path)


def _is_whole(path: Path, header: Mapping[str, Any]) -> bool:
    return standing(path, FORMAT, header, verify=True) is not None


def _remove_others(folder: Path, ours: set[Path]) -> None:
    """Parts of an earlier run over other shards; only files that say themselves what they are."""
    for path in set(folder.glob("*.safetensors")) - ours:
        with contextlib.suppress(DataError):
            Sidecar(path, FORMAT)
            path.unlink()


def _require_other(images: object, texts: object) -> None:
    if images is None and texts is None:
        raise UsageError("nothing to search in", expected="images, texts or both", do="name --images or --texts")
