"""One split of a task: its rows, its images, and how both are opened.

    open_examples("sst2", "glue/SST-2/dev.tsv")
    open_examples("vqa", [questions, annotations], images="coco/val2014")
    open_examples("csv", "mine.csv", fields={"text": "Comment", "label": "Mood"})

A row is bad, named in the report and left out, whose id appeared before (captions of one image may share one), whose
image is missing or not the only one of its name, or that has no target while others have one. A file without any
target is a split to predict for; one that ends early is an error, for nobody can count what it lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from unimo.corpus.bad_samples import BadSamples, check_fraction
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.corpus.finding import holds_images, tables_in
from unimo.corpus.image_names import ImageFiles, ImageKeys
from unimo.errors import DataError, UsageError, did_you_mean
from unimo.finetune.example import Dropped, Example, Found, Noted, Target
from unimo.finetune.readers import READERS, Reader
from unimo.finetune.readers.collector import RowCollector
from unimo.formats.tables import FORMS
from unimo.paths import HUB, check_name, expand

PEEKED = 100  # rows whose images are looked for beside their file
SHOWN = 5  # bad rows that are kept to be named
Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Examples:
    """One split of n rows.

    name: of the split. images: corpus that holds the rows' images by their keys, or None. source: paths, for
    messages. fingerprint: SHA-256 over the rows and the images. bad: how many rows could not be used. first_bad: what
    was wrong with the first of them. notes: what was said about the file, and why rows were left out, with counts.
    """

    name: str
    rows: Sequence[Example]
    images: Corpus | None = None
    source: str = ""
    fingerprint: str = ""
    bad: int = 0
    first_bad: Sequence[DataError] = ()
    notes: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labelled(self) -> bool:
        """Whether the rows have targets; of opened splits, all have or none has, unless others were to be kept."""
        return any(row.target is not None for row in self.rows)

    def image_item(self, key: str) -> int:
        """The item of `images` with this key. UsageError without images, DataError when it is not among them."""
        if self.images is None:
            what, way = "a row names an image, and no images were given", "give the folder or tars of them as `images`"
            raise UsageError(what, where=self.source or self.name, got=key, do=way)
        return self._keys.exact(key, self.source or self.name)

    @cached_property
    def _keys(self) -> ImageKeys:
        assert self.images is not None
        return ImageKeys.of(self.images)


def open_examples(
    reader_name: str,
    path: Paths,
    *,
    images: Paths | Corpus | None = None,
    fields: Mapping[str, str | Sequence[str] | None] | None = None,
    name: str | None = None,
    need_targets: bool = False,
    keep_unlabelled: bool = False,
    bad_samples: BadSamples | None = None,
    index_dir: str | Path | None = None,
    max_bad_fraction: float = 0.01,
    **options: Any,
) -> Examples:
    """Read one split.

    reader_name: a name of READERS. path: its file, files or pattern of files; where a reader takes two different files
    (questions and annotations, source and target), both in this order. images: folder, tars or an opened corpus with
    the rows' images; if not given, images beside a table are found by themselves. fields: part of an example ->
    column. name: of the split; by default of the file. bad_samples: also counts this split's rows, for a whole run.
    keep_unlabelled: rows without a target are kept beside others that have one. max_bad_fraction: of rows, and of
    images that are opened here. options: of the reader, such as split="val".

    Raises UsageError (no such reader, option or column) and DataError (a file that is missing, ends early or is of
    another layout; more than max_bad_fraction of the rows bad; no row at all; need_targets and there are none).
    """
    check_fraction(max_bad_fraction)
    reader = _reader(reader_name)
    options |= {} if fields is None else {"fields": fields}
    _check_options(reader_name, reader, options)
    named = [path] if isinstance(path, (str, Path)) else list(path)
    for entry in named:
        check_name(str(entry), f"reader {reader_name}")
    paths = [Path(entry) for entry in named]
    if not paths:
        raise UsageError("no path given", where=f"reader {reader_name}", expected="a file, a pattern or a list of them")
    source = ", ".join(map(str, paths))
    image_options: dict[str, Any] = {"bad_samples": bad_samples, "index_dir": index_dir}
    image_options["max_bad_fraction"] = max_bad_fraction
    given, files = images if isinstance(images, Corpus) else None, list[Path]()
    if reader.over == "images":
        if images is not None:
            raise UsageError("these rows stand in their images", where="images", got=images, do="leave images out")
        given = open_corpus("images", list(map(str, paths)), **image_options)
        found = reader(given, **options)
    else:
        files = _expanded(reader_name, reader, paths)
        found = _over_files(reader, files, options)
        if given is None and images is not None and not isinstance(images, Corpus):
            given = open_corpus("images", images, **image_options)

    collector = RowCollector(source, need_targets, keep_unlabelled)
    for each in found:
        collector.take(each)
    if given is None and reader.over == "files" and (beside := _images_beside(collector.rows, files)):
        given = open_corpus("images", beside, **image_options)
    rows = collector.settled(given)
    collector.report(bad_samples, max_bad_fraction)
    return Examples(
        name=name or paths[0].name.partition(".")[0],
        rows=rows,
        images=given,
        source=source,
        fingerprint=_fingerprint(rows, given),
        bad=collector.own.quarantined,
        first_bad=[error for _, error in collector.bad[:SHOWN]],
        notes=dict(collector.own.notes),
    )


def _reader(name: str) -> Reader:
    if name not in READERS:
        expected = ", ".join(sorted(READERS))
        raise UsageError("unknown reader", got=name, expected=expected, do=did_you_mean(name, READERS))
    return READERS[name]


def _check_options(name: str, reader: Reader, options: Mapping[str, Any]) -> None:
    for option in options:
        if option not in reader.options:
            what, expected = f"the reader {name} has no such option", ", ".join(reader.options) or "no options"
            raise UsageError(what, got=option, expected=expected, do=did_you_mean(option, reader.options))


def _expanded(name: str, reader: Reader, paths: list[Path]) -> list[Path]:
    """Files in order, patterns filled in."""
    found: list[Path] = []
    for path in paths:
        if str(path).startswith(HUB):
            from unimo.corpus.hub import saved_dataset

            path = saved_dataset(path)
        for place in expand(path, what="file is missing", expected=f"a file for the reader {name}"):
            table = place.is_dir() and (name in ("table", "captions") or name in FORMS)
            found += tables_in(place) if table else [place]
    most = len(reader.files)
    if len(found) < reader.needed or (most > 1 and len(found) > most):
        raise UsageError(
            f"the reader {name} takes other files",
            got=f"{len(found)}: {', '.join(map(str, found)) or 'none'}",
            expected=", ".join(reader.files[: reader.needed])
            + "".join(f", perhaps {f}" for f in reader.files[reader.needed :]),
            do="give them in this order",
        )
    return found


def _over_files(reader: Reader, paths: list[Path], options: Mapping[str, Any]) -> Found:
    if len(reader.files) > 1:
        yield from reader(*paths, **options)
        return
    names = Counter(path.name for path in paths)
    for path in paths:
        for found in reader(path, **options):
            if isinstance(found, Example) and names[path.name] > 1 and found.id.startswith(f"{path.name}:"):
                found = replace(found, id=f"{path.parent.name}/{found.id}")  # m/dev.tsv:1, mm/dev.tsv:1
            yield found


def _images_beside(rows: Sequence[Example], files: Sequence[Path]) -> list[str]:
    """The tables themselves, where they hold images; the folder of a table whose rows name images by paths from it, or
    the one where the first images that are named lie; nothing where none is there."""
    named = list(islice((row.image for row in rows if row.image is not None), PEEKED))
    if named and all(holds_images(file) for file in files):
        return [str(file) for file in files]
    path = files[0]
    # os.path, unlike Path, calls a name that no file can have a file that is not there.
    if any(os.path.isfile(path.parent / name) for name in named):  # noqa: PTH113
        return [str(path.parent)]
    places = ImageFiles(path.parent)
    for name in named[:3]:
        with contextlib.suppress(DataError):
            found = PurePosixPath(places.find(name, path.name))
            return [str(path.parent.joinpath(*found.parts[: 1 + found.parts.count("..")][: len(found.parts) - 1]))]
    return []


def _fingerprint(rows: Sequence[Example], images: Corpus | None) -> str:
    digest = hashlib.sha256(b"" if images is None else images.fingerprint.encode())
    for row in rows:
        values = [row.id, row.texts, row.image, row.target, dict(row.extra)]
        digest.update(json.dumps(values, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


__all__ = ["READERS", "Dropped", "Example", "Examples", "Found", "Noted", "Reader", "Target", "open_examples"]
