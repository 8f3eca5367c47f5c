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

A source is asked for one image at a time; what it cannot answer, or answers wrongly, is named in the report, and the
image has no regions. The published features are a Faster R-CNN's, trained on Visual Genome, which no maintained
library computes: they enter as files. The grid is for people without a detector, and our own idea.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unimo.corpus.bad_samples import BadSamples, tell_left_out
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.corpus.finding import Kind, Verify, did_you_mean
from unimo.data.regions import ImageRegions, image_regions
from unimo.errors import DataError, UsageError
from unimo.regions.detector_files import HDF5, LMDB, NPZ, TSV, Lines
from unimo.regions.detectors import Detector, FasterRCNN, model_look
from unimo.regions.grid import Grid, Pixels
from unimo.regions.rows import Precision, RowFormat, check_distributions
from unimo.regions.sidecar import Sidecar, open_header, sidecar_path, spans
from unimo.regions.source import Found, RegionSource, Say, Shown
from unimo.regions.truth import Truth
from unimo.regions.writer import SidecarWriter

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
    most: int = 36,
    precision: Precision = "float16",
    top: int = 0,
    tokenizer=None,
    bad_samples: BadSamples | None = None,
    index_dir: str | Path | None = None,
    verify: Verify = "decode",
    say: Say = print,
    **options: Any,
) -> list[dict]:
    """Writes one sidecar for each shard, those that are there already excepted, and says one row each and a total.

    source: a RegionSource, or a text for `find_source`, which also takes `options`. out: folder of the sidecars, if not
    beside the shards. most: boxes kept of an image, in the source's order. top: likeliest classes kept, 0 for all.
    Killed at any time and started again, it writes the same bytes. Returns the rows (shard, built, resumed, offered,
    used, quarantined, regions, seconds, reasons).

    Raises DataError if not one image has regions, UsageError where other regions lie in the way, and what
    `open_corpus` raises. Bad images raise nothing.
    """
    if kind not in ("images", "pairs"):
        raise UsageError("these have no images", got=kind, expected="images or pairs")
    if isinstance(source, str):
        source = find_source(source, **options)
    elif options:
        raise UsageError("options of a source that is already made", got=", ".join(options))
    if tokenizer is None and kind == "pairs":
        from unimo.tokenizer import Tokenizer  # images need no vocabulary in memory

        tokenizer = Tokenizer.default()
    bad_samples = BadSamples() if bad_samples is None else bad_samples
    unread = BadSamples(bad_samples.path)  # of samples without an image; `bad_samples` counts the images alone
    corpus = open_corpus(
        kind,
        paths,
        tokenizer=tokenizer,
        bad_samples=unread,
        index_dir=index_dir,
        verify=verify,
        max_bad_fraction=1,
    )
    folder = None if out is None else Path(out)
    rows = RowFormat(source.feature_size, source.classes, precision, min(top, source.classes))
    tell_left_out(unread, say)
    source.learn(corpus, sidecar_path(corpus.shards[0][0], kind, folder).parent, say)
    facts = source.facts()
    done: list[dict[str, Any]] = []
    for shard, first, end in spans(corpus):
        place = sidecar_path(shard, kind, folder)
        header = open_header(corpus, first, end, facts, rows, most)
        started = time.monotonic()
        sidecar, resumed = _standing(place, header), 0
        built = sidecar is None
        if sidecar is None:
            sidecar, resumed = _write(place, header, rows, source, corpus, range(first, end), most, say)
        bad = sidecar.quarantined
        for entry in bad:
            parts: dict[str, Any] = {name: value for name, value in entry.items() if name != "key"}
            bad_samples.add(DataError(**parts), key=entry["key"], shard=shard)
        used = len(sidecar) - len(bad)
        bad_samples.offer(len(sidecar))
        bad_samples.use(used)
        row: dict[str, Any] = {"shard": str(shard), "built": built, "resumed": resumed}
        row |= {"offered": len(sidecar), "used": used, "quarantined": len(bad)}
        row |= {"regions": int(sidecar.offsets[-1]) - used, "seconds": round(time.monotonic() - started, 3)}  # no [IMG]
        row |= {"reasons": dict(Counter(entry["what"] for entry in bad).most_common())}
        done.append(row)
        say(_line(row))
    all_used, all_bad = sum(row["used"] for row in done), sum(row["quarantined"] for row in done)
    listed = f", listed in {bad_samples.path}" if all_bad and bad_samples.path else ""
    sizes = f"F = {rows.features}, K = {rows.classes}"
    say(f"{len(done)} shards: regions of {all_used} images, {sizes}; {all_bad} bad{listed}")
    if not all_used:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in bad_samples.summary()["reasons"].items())
        raise DataError("not one image has regions", where=bad_samples.path, got=reasons, do="look at the reasons")
    return done


def _standing(place: Path, header: Mapping[str, str]) -> Sidecar | None:
    """The finished sidecar of these images and settings, or None where there is none or its images changed."""
    if not place.is_file():
        return None
    shutil.rmtree(place.with_name(place.name + ".partial"), ignore_errors=True)  # left by a kill after the last rename
    try:
        sidecar = Sidecar(place)
    except DataError:
        return None  # damaged, or of an older version: made again
    for name in ("source", "settings"):
        if sidecar.header[name] != header[name]:
            raise UsageError(
                "other regions lie here",
                where=place,
                got=f"{name} {sidecar.header[name]}",
                expected=header[name],
                do="choose another folder (--out), or delete them",
            )
    return sidecar if sidecar.header["fingerprint"] == header["fingerprint"] else None


def _write(
    place: Path,
    header: Mapping[str, str],
    rows: RowFormat,
    source: RegionSource,
    corpus: Corpus,
    items: range,
    most: int,
    say: Say,
) -> tuple[Sidecar, int]:
    """The sidecar of these items, and how many of them an earlier run had done."""
    with SidecarWriter(place, header, [corpus.keys[i] for i in items], rows) as writer:
        resumed = len(writer.errors)
        started = told = time.monotonic()
        for i in items[resumed:]:
            shown = Shown(corpus, i)
            try:
                writer.add(_checked(source.regions(shown), f"{shown.shard.name}, key {shown.key}", most))
            except DataError as error:
                writer.add(error)
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                count = len(writer.errors)
                say(f"    {count} of {len(items)} images ({(count - resumed) / (told - started):.1f}/s)")
        return Sidecar(writer.finish()), resumed


def _checked(found: Found, where: str, most: int) -> ImageRegions:
    """With [IMG] in front, at most `most` boxes. Raises DataError for whatever no detector can have meant."""
    image = image_regions(
        found.features, found.boxes, found.width, found.height, classes=found.classes, most=most + 1, where=where
    )
    if found.classes is not None:
        check_distributions(np.asarray(found.classes, np.float32), where=where)
    return image


def _line(row: dict) -> str:
    new = row["offered"] - row["resumed"]
    parts = [row["shard"], f"{row['used']} of {row['offered']} images"]
    parts.append(f"{row['regions'] / max(row['used'], 1):.1f} regions each")
    if row["built"]:
        parts.append(f"{row['seconds']:.1f} s ({new / max(row['seconds'], 1e-3):.1f} images/s)")
        if row["resumed"]:
            parts.append(f"went on behind {row['resumed']}")
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

    feature_size: F, where the source can choose or must be told. words, vocabulary: of a grid, its size and file.
    threshold: of a detector, the least confidence. Raises UsageError for an unknown name, and what the source raises.
    """
    name, _, place = text.partition(":")
    if name not in SOURCES:
        raise UsageError(
            "unknown source of regions", got=text, expected=", ".join(SOURCES), do=did_you_mean(name, SOURCES)
        )
    if not place and name not in ("truth", "grid"):
        raise UsageError("this source needs a place", got=text, expected=f"{name}:FILE, {name}:FOLDER or a hub name")
    if name == "truth":
        return Truth(feature_size)
    if name == "grid":
        look = model_look(place, device) if place else Pixels()
        return Grid(look, words=words, vocabulary=vocabulary, feature_size=feature_size)
    if name in ("detector", "faster-rcnn"):
        if feature_size is not None:
            raise UsageError("a detector's features have the size they have", where="feature_size", got=feature_size)
        return SOURCES[name](place, threshold=threshold, device=device)
    return SOURCES[name](place, feature_size=feature_size)
