"""Finding shards: what lies under the paths, folders and patterns a user names, per kind of data.

Everything that lies there is a shard, belongs to one, or is told as passed over: by reason, with counts and examples.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

from unimo.corpus.bad_samples import Notes
from unimo.corpus.text import Row, parquet_holds_bytes, read_jsonl
from unimo.corpus.walking import OURS, printable, walk
from unimo.errors import DataError, UsageError, nearest
from unimo.paths import expand

Kind = Literal["texts", "images", "pairs"]
Verify = Literal["decode", "header"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TEXT_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
SIDE_SUFFIXES = (".txt", ".json")  # what lies beside a loose image of the same name
EXPECTED = {
    "texts": "files ending in " + ", ".join(TEXT_SUFFIXES),
    "images": f"image files ({', '.join(IMAGE_SUFFIXES)}), WebDataset .tar or .parquet files",
    "pairs": "WebDataset .tar files, .parquet files with an image column, a .jsonl beside its images, or image files "
    "with a .txt or .json of the same name",
}
PEEKED = 20  # rows of a table that are looked at before it is passed over


@dataclass(frozen=True)
class Fields:
    """Names of JSON fields and table columns; the first that a record has is taken."""

    text: tuple[str, ...] = ("text",)  # a document
    image: tuple[str, ...] = (
        "image",
        "image_path",
        "file_name",
        "jpg",
        "jpeg",
        "png",
        "webp",
    )  # path, or bytes
    captions: tuple[str, ...] = ("captions", "caption", "text")  # a string or a list of strings
    label: tuple[str, ...] = ("label_name", "label")  # class of an image


@dataclass(frozen=True)
class Source:
    """One shard: a file, or a folder with the names of its loose files. form: tar, jsonl, parquet, loose."""

    path: Path
    form: str
    files: tuple[str, ...] = ()


@dataclass
class Found:
    """sources: the shards, sorted. notes: what was passed over. failed: folders that may not be listed, each with an
    unknown number of samples."""

    sources: list[Source] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    failed: list[DataError] = field(default_factory=list)


def find_sources(kind: Kind, paths: str | Path | Sequence[str | Path]) -> list[Source]:
    """The shards of `find`, without what was passed over."""
    return find(kind, paths).sources


def find(kind: Kind, paths: str | Path | Sequence[str | Path], fields: Fields | None = None) -> Found:
    """The shards behind what the user named, and what was passed over.

    fields: by which tables of images are known from others.

    DataError when a path is missing or holds nothing of this kind, UsageError when it is none.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise UsageError(
            f"no path given for {kind}",
            where=kind,
            expected="a file, a folder, a pattern or a list of these",
            do="name at least one, or leave this kind of data out",
        )
    found = Found()
    for entry in given:
        _find_at(kind, entry, found, fields or Fields())
    found.sources.sort(key=lambda source: os.fspath(source.path))
    for earlier, later in pairwise(found.sources):
        if earlier.path.resolve() == later.path.resolve() and set(later.files) <= set(earlier.files):
            raise DataError(
                "the same shard is named twice",
                where=later.path,
                got=", ".join(map(str, given[:5])),
                expected="each file or folder once",
                do="name it once",
            )
    return found


def _find_at(kind: Kind, entry: str | Path, found: Found, fields: Fields) -> None:
    places = expand(entry, found.failed, what=f"path of {kind} does not exist", expected=EXPECTED[kind])
    folders = [place for place in places if place.is_dir()]
    files = [place for place in places if not place.is_dir()]
    before = len(found.sources)
    if files:
        root = Path(os.path.commonpath([file.parent for file in files]))
        _among(kind, root, files, found, fields, named=len(places) == 1, beside=bool(folders))
    for folder in folders:
        tree = walk(folder)
        found.failed += tree.failed
        found.notes.join(tree.notes)
        _among(kind, folder, tree.files, found, fields)
    if len(found.sources) == before:
        for error in found.failed:  # an unreadable folder is not an empty one
            raise error
        raise DataError(
            f"no {kind} found",
            where=entry,
            got=_what_is_there(places),
            expected=EXPECTED[kind],
            do="correct the path, or convert the files",
        )


def _among(
    kind: Kind,
    root: Path,
    files: list[Path],
    found: Found,
    fields: Fields,
    named: bool = False,
    beside: bool = False,
) -> None:
    """Adds the shards among files of one folder or pattern; loose files together are one, rooted at root.

    named: by the user, by itself: then a table is one, whatever it looks like. beside: the pattern means folders too.
    """
    forms: dict[str, list[Path]] = {"tar": [], "parquet": [], "jsonl": [], "loose": []}
    passed: dict[str, list[Path]] = {}  # reason -> files
    for path in files:
        name = path.name.lower()
        if OURS.fullmatch(path.name):
            continue
        form = _form(kind, name)
        if form is not None:
            forms[form].append(path)
        else:
            ending = path.suffix.lower() if 1 < len(path.suffix) <= 12 else ""
            what = f"files ending in {ending}" if ending else "files without an ending"
            passed.setdefault(f"{what}, not read as {kind}", []).append(path)
    if kind == "pairs":
        images, sides, alone = _with_sides(forms["loose"])
        forms["loose"] = images + sides if sides else []
        passed["captions (.txt, .json) without an image of the same name"] = alone
    if not named:
        _pass_over_tables(kind, forms, passed, fields, beside)
    if kind == "pairs":
        chosen = next((form for form, those in forms.items() if those), None)
        for form, those in forms.items():
            if form != chosen and those and not (form == "loose" and chosen == "jsonl"):
                passed[f"{_SAID[form]} beside {_SAID[str(chosen)]}, which are read instead"] = those
                forms[form] = []
        if chosen == "jsonl":
            # Whether its images are named by a table is known when the tables are read (`sources.not_named`).
            forms["loose"] = []
            passed["captions (.txt, .json) beside tables (.jsonl), which are read instead"] = sides
        elif chosen is not None and not forms["loose"] and not sides:
            passed[f"images beside {_SAID[chosen]}, which are read instead"] = images
    for reason, those in passed.items():
        for path in those:
            found.notes.tell(reason, printable(path.relative_to(root).as_posix()))
    found.sources += [Source(path, form) for form in ("tar", "parquet", "jsonl") for path in forms[form]]
    if forms["loose"]:
        loose = sorted(path.relative_to(root).as_posix() for path in forms["loose"])
        found.sources.append(Source(root, "loose", tuple(loose)))


_SAID = {
    "tar": "shards (.tar)",
    "parquet": "tables (.parquet)",
    "jsonl": "tables (.jsonl)",
    "loose": "images with their captions",
}


def _form(kind: Kind, name: str) -> str | None:
    """What a file is for a kind of data, by the ending of its name in small letters; None: nothing."""
    if name.endswith(".tar") and kind != "texts":
        return "tar"
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith((".jsonl", ".jsonl.gz")) and kind != "images":
        return "jsonl"
    loose = {"texts": (".txt",), "images": IMAGE_SUFFIXES, "pairs": IMAGE_SUFFIXES + SIDE_SUFFIXES}[kind]
    return "loose" if name.endswith(loose) else None


def _with_sides(loose: list[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Images; captions beside one of them: NAME.txt, NAME.json or NAME.jpg.txt; captions beside none."""
    images: list[Path] = []
    sides: list[Path] = []
    alone: list[Path] = []
    names: set[str] = set()
    for path in loose:
        if path.name.lower().endswith(IMAGE_SUFFIXES):
            images.append(path)
            names |= {os.fspath(path), os.fspath(path.with_suffix(""))}
    for path in loose:
        if not path.name.lower().endswith(IMAGE_SUFFIXES):
            (sides if os.fspath(path.with_suffix("")) in names else alone).append(path)
    return images, sides, alone


def _pass_over_tables(
    kind: Kind, forms: dict[str, list[Path]], passed: dict[str, list[Path]], fields: Fields, beside: bool
) -> None:
    """Tables that only tell about the samples beside them, as img2dataset's 00000.parquet beside 00000.tar or the
    folder 00000; not where they are all there is."""
    if kind == "texts" or sum(bool(those) for those in forms.values()) + beside < 2:
        return
    for form in ("parquet", "jsonl"):
        told = [path for path in forms[form] if not _is_of_images(path, form, fields)]
        if kind == "images" and forms["tar"]:
            told = forms[form]
        others = beside or sum(map(len, forms.values())) - len(told)
        if told and others:
            forms[form] = [path for path in forms[form] if path not in set(told)]
            passed[f"tables ({'.' + form}) of no images, only beside them"] = told


def _is_of_images(path: Path, form: str, fields: Fields) -> bool:
    """Whether a table holds or names images itself; one that cannot be read so far is taken for one, and then says
    what is wrong."""
    if form == "parquet":
        stem = path.with_suffix("")
        if stem.is_dir() or stem.with_suffix(".tar").exists():
            return False
        return parquet_holds_bytes(path)
    rows = (row for row in islice(read_jsonl(path), PEEKED) if isinstance(row, Row))
    peeked = [any(row.values.get(name) is not None for name in fields.image) for row in rows]
    return any(peeked) or not peeked


def _what_is_there(places: Iterable[Path]) -> str:
    endings: Counter[str] = Counter()
    for path in places:
        files = walk(path).files if path.is_dir() else [path]
        endings.update(file.suffix.lower() or "no ending" for file in files)
    listed = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
    return f"files: {listed}" if listed else "an empty folder"


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    near = nearest(name, names)
    return None if near is None else f"did you mean {near}?"
