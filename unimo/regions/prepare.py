"""Regions for every image of a corpus, by one of several sources (`unimo prepare regions`; spec unimo §4, §6.11).

    R regions · F features · K classes · D width of a model · g patches per side

    truth               exact regions of the generated world (`unimo.synthetic.dataset`)
    grid                a multi-scale grid over colours and edges: no model at all
    grid:MODEL          the same over the patch states of one of our UNIMO-2 models, or of a ViT in Hugging Face format
    detector:MODEL      an object detector in Hugging Face format: DETR and its relatives, RT-DETR, D-FINE, YOLOS
    faster-rcnn:FILE    torchvision's Faster R-CNN with weights in safetensors
    tsv:FILES           bottom-up attention as published, base64 in columns; also .gz
    lines:FILES         released lines of SNLI-VE and COCO with regions in them; also .gz
    npz:FOLDER          one KEY.npz for each image; hdf5:FILE one group KEY; lmdb:FOLDER one value KEY in .npz form

Images are prepared one at a time; one that a source has no regions of, or impossible ones, is named in the report and
has none. The published features are a Faster R-CNN's, trained on Visual Genome, which no maintained library computes:
they enter as files. The grid is for people without a detector, and our own idea.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from unimo.cluster import Map
from unimo.corpus.bad_samples import BadSamples, tell_left_out
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.corpus.finding import Kind, Verify
from unimo.data.regions import ImageRegions, image_regions
from unimo.errors import DataError, UsageError, did_you_mean
from unimo.formats.columns import Fields
from unimo.regions.detector_files import HDF5, LMDB, NPZ, TSV, Lines
from unimo.regions.detectors import Detector, FasterRCNN, patch_encoder
from unimo.regions.grid import Grid, Pixels
from unimo.regions.rows import Precision, RowFormat, check_distributions
from unimo.regions.source import CorpusImage, Detections, RegionSource, Say
from unimo.regions.store import FORMAT, sidecar_header, sidecar_path
from unimo.regions.truth import Truth
from unimo.sidecar import BLOCK, Sidecar, SidecarWriter, standing

PROGRESS_SECONDS = 30

SOURCES: dict[str, Callable[..., RegionSource]] = {
    "truth": Truth,
    "grid": Grid,
    "detector": Detector,
    "faster-rcnn": FasterRCNN,
    "tsv": TSV,
    "lines": Lines,
    "npz": NPZ,
    "hdf5": HDF5,
    "lmdb": LMDB,
}


def prepare_regions(
    kind: Kind,
    paths: str | Path | Sequence[str | Path],
    source: RegionSource | str,
    *,
    out: str | Path | None = None,
    max_regions: int = 36,
    precision: Precision = "float16",
    top: int = 0,
    fields: Fields | None = None,
    bad_samples: BadSamples | None = None,
    index_dir: str | Path | None = None,
    verify: Verify = "decode",
    run: Map = map,
    say: Say = print,
    **options: Any,
) -> list[dict]:
    """Writes one sidecar for each shard that has none yet, and says one row each and a total.

    source: a RegionSource, or a text for `find_source`, which also takes `options`. out: folder of the sidecars, if not
    beside the shards. max_regions: boxes kept of an image, in the source's order. top: likeliest classes kept, 0 for
    all. run: who prepares blocks of images. Killed at any time and started again, it writes the same bytes. Returns the
    rows (shard, built, resumed, offered, used, quarantined, regions, seconds, reasons).

    Raises DataError if not one image has regions, UsageError where other regions lie in the way, ResourceError when the
    disk refuses or another process prepares the same shard, and what `open_corpus` raises. Bad images raise nothing.
    """
    if kind not in ("images", "pairs"):
        raise UsageError("these have no images", got=kind, expected="images or pairs")
    if isinstance(source, str):
        source = find_source(source, **options)
    elif options:
        raise UsageError("options of a source that is already made", got=", ".join(options))
    bad_samples = BadSamples() if bad_samples is None else bad_samples
    unread = BadSamples(bad_samples.path)  # of samples without an image; `bad_samples` counts the images alone
    common: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_fraction": 1, "run": run}
    corpus = open_corpus(kind, paths, fields=fields, bad_samples=unread, **common)
    rows = RowFormat(source.feature_size, source.classes, precision, min(top, source.classes))
    tell_left_out(unread, say)
    source.fit(corpus, sidecar_path(corpus.shards[0][0], kind, out).parent, say)
    identity = source.identity()
    prepared = _Prepared(corpus, source, rows, max_regions)
    done: list[dict[str, Any]] = []
    for shard, items in corpus.ranges():
        header = sidecar_header(corpus, items, identity, rows, max_regions)
        done.append(_prepare_shard(prepared, items, sidecar_path(shard, kind, out), header, bad_samples, run, say))
        say(_line(done[-1]))
    used, bad = (sum(row[name] for row in done) for name in ("used", "quarantined"))
    listed = f", listed in {bad_samples.path}" if bad and bad_samples.path else ""
    say(f"{len(done)} shards: regions of {used} images, F = {rows.features}, K = {rows.classes}; {bad} bad{listed}")
    if not used:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in bad_samples.summary()["reasons"].items())
        raise DataError("not one image has regions", where=bad_samples.path, got=reasons, do="look at the reasons")
    return done


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Encoded regions of images, or the reasons why there are none: any process may do any of them."""

    corpus: Corpus
    source: RegionSource
    rows: RowFormat
    max_regions: int

    def __call__(self, items: range) -> Iterator[tuple[dict[str, np.ndarray] | None, dict[str, str] | None]]:
        for i in items:
            image = CorpusImage(self.corpus, i)
            try:
                where = f"{image.shard.name}, key {image.key}"
                found = _checked(self.source.regions(image), where, self.max_regions + 1)
                yield self.rows.encode(found, where=image.key), None
            except DataError as error:
                yield None, error.parts()

    def where(self, items: range) -> str:
        return f"{self.corpus.where(items[0])}, and {len(items) - 1} images behind it"


def _prepare_shard(
    prepared: _Prepared,
    items: range,
    place: Path,
    header: Mapping[str, Any],
    bad_samples: BadSamples,
    run: Map,
    say: Say,
) -> dict[str, Any]:
    """The row of one shard, whose sidecar is written unless it is there."""
    started, corpus = time.monotonic(), prepared.corpus
    shard = corpus.shard_of(items.start)
    sidecar, resumed = _standing(place, header), 0
    built = sidecar is None
    if sidecar is None:
        resumed = _write(place, header, prepared, items, run, say)
        sidecar = Sidecar(place, FORMAT)
    bad = sidecar.notes
    for item, parts in bad.items():
        bad_samples.add(DataError(**parts), key=corpus.keys[items[item]], shard=shard)
    used = len(items) - len(bad)
    bad_samples.offer(len(items))
    bad_samples.use(used)
    return {
        "shard": str(shard),
        "built": built,
        "resumed": resumed,
        "offered": len(items),
        "used": used,
        "quarantined": len(bad),
        "regions": int(sidecar.offsets[-1]) - used,  # without [IMG]
        "seconds": round(time.monotonic() - started, 3),
        "reasons": dict(Counter(parts["what"] for parts in bad.values()).most_common()),
    }


def _standing(place: Path, header: Mapping[str, Any]) -> Sidecar | None:
    """The finished sidecar of these images and settings, or None where there is none or its images changed."""
    try:
        sidecar = Sidecar(place, FORMAT)
    except DataError:
        return None  # missing, damaged, or of an older version: made (again)
    for name in ("source", "settings"):
        if sidecar.header[name] != header[name]:
            raise UsageError(
                "other regions lie here",
                where=place,
                got=f"{name} {sidecar.header[name]}",
                expected=header[name],
                do="choose another folder (--out), or delete them",
            )
    return standing(place, FORMAT, header)


def _write(place: Path, header: Mapping[str, Any], prepared: _Prepared, items: range, run: Map, say: Say) -> int:
    """Writes the sidecar of these items; returns how many of them an earlier run had done."""
    keys, columns = [prepared.corpus.keys[i] for i in items], prepared.rows.columns
    with SidecarWriter(place, FORMAT, header, keys, columns) as writer:
        resumed = len(writer)
        started = spoken = time.monotonic()
        blocks = (items[first : first + BLOCK] for first in range(resumed, len(items), BLOCK))
        for rows, reason in chain.from_iterable(run(prepared, blocks)):
            writer.add(rows, reason)
            if time.monotonic() - spoken > PROGRESS_SECONDS:
                spoken, count = time.monotonic(), len(writer)
                say(f"    {count} of {len(items)} images ({(count - resumed) / (spoken - started):.1f}/s)")
    return resumed


def _checked(found: Detections, where: str, max_rows: int) -> ImageRegions:
    """With [IMG] in front, cut to `max_rows`. Raises DataError for whatever no detector can have meant."""
    image = image_regions(
        found.features, found.boxes, found.width, found.height, classes=found.classes, max_rows=max_rows, where=where
    )
    if found.classes is not None:
        check_distributions(np.asarray(found.classes, np.float32), where=where)
    return image


def _line(row: dict) -> str:
    parts = [row["shard"], f"{row['used']} of {row['offered']} images"]
    parts.append(f"{row['regions'] / max(row['used'], 1):.1f} regions each")
    if row["built"]:
        rate = (row["offered"] - row["resumed"]) / max(row["seconds"], 1e-3)
        parts.append(f"{row['seconds']:.1f} s ({rate:.1f} images/s)")
        if row["resumed"]:
            parts.append(f"resumed after {row['resumed']}")
    else:
        parts.append("unchanged")
    parts += [f"{count} x {reason}" for reason, count in row["reasons"].items()]
    return " | ".join(parts)


def find_source(
    text: str,
    *,
    feature_size: int | None = None,
    words: int = 512,
    vocabulary: str | Path | None = None,
    threshold: float = 0.2,
    device: str | None = None,
) -> RegionSource:
    """The source that "name" or "name:place" stands for (see the head of this file).

    feature_size: F, where the source can choose it. words, vocabulary: visual words of a grid, and their file.
    threshold: lowest confidence of a detected region. Raises UsageError for an unknown name, and what the source
    raises.
    """
    name, _, place = text.partition(":")
    if name not in SOURCES:
        do = did_you_mean(name, SOURCES)
        raise UsageError("unknown source of regions", got=text, expected=", ".join(SOURCES), do=do)
    if not place and name not in ("truth", "grid"):
        raise UsageError("this source needs a place", got=text, expected=f"{name}:FILE, {name}:FOLDER or a hub name")
    if name == "truth":
        return Truth(feature_size)
    if name == "grid":
        patches = patch_encoder(place, device) if place else Pixels()
        return Grid(patches, words=words, vocabulary=vocabulary, feature_size=feature_size)
    if name in ("detector", "faster-rcnn"):
        if feature_size is not None:
            raise UsageError("a detector's features have the size they have", where="feature_size", got=feature_size)
        return SOURCES[name](place, threshold=threshold, device=device)
    return SOURCES[name](place, feature_size=feature_size)
