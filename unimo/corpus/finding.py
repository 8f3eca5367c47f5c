"""Finding shards: what lies under the paths, folders and patterns a user names, per kind of data.

Everything that lies there is a shard, belongs to one, or is told as passed over: by reason, with counts and examples.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path, PurePath
from typing import Literal

from unimo.corpus.bad_samples import Notes
from unimo.corpus.text import Row, parquet_holds_bytes, read_jsonl
from unimo.errors import DataError, UsageError, nearest
from unimo.paths import expand, is_folder, listing

Kind = Literal["texts", "images", "pairs"]
Verify = Literal["decode", "header"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TEXT_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
LOOSE = {"texts": (".txt",), "images": IMAGE_SUFFIXES, "pairs": (*IMAGE_SUFFIXES, ".txt", ".json")}
EXPECTED = {
    "texts": "files ending in " + ", ".join(TEXT_SUFFIXES),
    "images": f"image files ({', '.join(IMAGE_SUFFIXES)}), WebDataset .tar or .parquet files",
    "pairs": "WebDataset .tar files, .parquet files with an image column, a .jsonl beside its images, or image files "
    "with a .txt or .json of the same name",
}
OURS = re.compile(r"\.unimo-.*|.+\.(texts|images|pairs)\.(index|regions)\.safetensors.*|.+\.pairs\.rewrites\.jsonl.*")
"""Names of what is prepared and lies beside the data."""
PEEKED = 20  # rows of a table that are looked at before it is passed over
_CALLED = {
    "tar": "shards (.tar)",
    "parquet": "tables (.parquet)",
    "jsonl": "tables (.jsonl)",
    "loose": "images with their captions",
}


@dataclass(frozen=True)
class Fields:
    """Names of JSON fields and table columns; the first that a record has is taken.

    text: of a document. image: its path, or bytes. captions: a string or a list of strings. label: class of an image.
    """

    text: tuple[str, ...] = ("text",)
    image: tuple[str, ...] = ("image", "image_path", "file_name", "jpg", "jpeg", "png", "webp")
    captions: tuple[str, ...] = ("captions", "caption", "text")
    label: tuple[str, ...] = ("label_name", "label")


@dataclass(frozen=True)
class Source:
    """One shard: a file, or a folder with the names of its loose files. form: tar, jsonl, parquet, loose."""

    path: Path
    form: str
    files: tuple[str, ...] = ()

    @property
    def base(self) -> Path:
        """The folder that names of the shard's files are relative to."""
        return self.path if self.form == "loose" else self.path.parent


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
        expected, do = "a file, a folder, a pattern or a list of these", "name at least one, or leave this kind out"
        raise UsageError(f"no path given for {kind}", where=kind, expected=expected, do=do)
    found = Found()
    for entry in given:
        _find_at(kind, entry, found, fields or Fields())
    found.sources.sort(key=lambda source: os.fspath(source.path))
    for earlier, later in pairwise(found.sources):
        if earlier.path.resolve() == later.path.resolve() and set(later.files) <= set(earlier.files):
            got, expected = ", ".join(map(str, given[:5])), "each file or folder once"
            what = "the same shard is named twice"
            raise DataError(what, where=later.path, got=got, expected=expected, do="name it once")
    return found


def walk(folder: Path, found: Found | None = None) -> list[Path]:
    """The files below a folder: those of a folder, then its folders by name. Links are followed, each folder is entered
    once. Told in found: hidden names, folders met again, and folders that may not be listed."""
    found = Found() if found is None else found
    files: list[Path] = []
    seen, waiting = set(), [folder]
    while waiting:
        here = waiting.pop()
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in seen:
                found.notes.tell("folders met a second time through a link", os.fspath(here))
                continue
            seen.add((status.st_dev, status.st_ino))
        except OSError:
            pass  # listing it says why
        folders: list[Path] = []
        for entry in listing(here, found.failed):
            path = here / entry.name
            if not entry.name.startswith("."):
                (folders if is_folder(entry) else files).append(path)
            elif not OURS.fullmatch(entry.name):
                name = printable(path.relative_to(folder).as_posix())
                found.notes.tell("hidden files or folders (a name that begins with a dot)", name)
        waiting += reversed(folders)
    return files


def walk_order(name: str) -> tuple:
    """Sorts names of files as `walk` meets them: of each folder files first, then folders."""
    *folders, file = PurePath(name).parts
    return (*((1, folder) for folder in folders), (0, file))


def printable(name: object) -> str:
    """A file name that can be written down: bytes that are not UTF-8 appear as \\udc.."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _find_at(kind: Kind, entry: str | Path, found: Found, fields: Fields) -> None:
    places = expand(entry, found.failed, what=f"path of {kind} does not exist", expected=EXPECTED[kind])
    folders = [place for place in places if place.is_dir()]
    files = [place for place in places if not place.is_dir()]
    before = len(found.sources)
    if files:
        root = Path(os.path.commonpath([file.parent for file in files]))
        _among(kind, root, files, found, fields, named=len(places) == 1, beside=bool(folders))
    for folder in folders:
        _among(kind, folder, walk(folder, found), found, fields)
    if len(found.sources) == before:
        for error in found.failed:  # an unreadable folder is not an empty one
            raise error
        there = [file for place in places for file in (walk(place) if place.is_dir() else [place])]
        endings = Counter(file.suffix.lower() or "no ending" for file in there).most_common(5)
        got = "files: " + ", ".join(f"{count} {ending}" for ending, count in endings) if there else "an empty folder"
        do = "correct the path, or convert the files"
        raise DataError(f"no {kind} found", where=entry, got=got, expected=EXPECTED[kind], do=do)


def _among(
    kind: Kind, root: Path, files: list[Path], found: Found, fields: Fields, named: bool = False, beside: bool = False
) -> None:
    """Adds the shards among files of one folder or pattern; loose files together are one, rooted at root.

    named: by the user, by itself: then a table is one, whatever it looks like. beside: the pattern means folders too.
    """
    forms: dict[str, list[Path]] = {"tar": [], "parquet": [], "jsonl": [], "loose": []}

    def pass_over(reason: str, those: Iterable[Path]) -> None:
        for path in those:
            found.notes.tell(reason, printable(path.relative_to(root).as_posix()))

    for path in files:
        if OURS.fullmatch(path.name):
            continue
        if form := _form(kind, path.name.lower()):
            forms[form].append(path)
        else:
            ending = path.suffix.lower() if 1 < len(path.suffix) <= 12 else ""
            what = f"files ending in {ending}" if ending else "files without an ending"
            pass_over(f"{what}, not read as {kind}", [path])
    if kind == "pairs":
        images, sides, alone = _with_sides(forms["loose"])
        forms["loose"] = images + sides if sides else []
        pass_over("captions (.txt, .json) without an image of the same name", alone)
    if not named and kind != "texts" and sum(map(bool, forms.values())) + beside > 1:
        for form in ("parquet", "jsonl"):
            told = _tables_of_no_images(kind, forms, form, fields)
            if told and (beside or sum(map(len, forms.values())) > len(told)):
                forms[form] = [path for path in forms[form] if path not in told]
                pass_over(f"tables (.{form}) of no images, only beside them", told)
    if kind == "pairs":
        chosen = next((form for form, those in forms.items() if those), None)
        if chosen == "jsonl":
            # Whether its images are named by a table is known when the tables are read (`corpus._not_named`).
            forms["loose"] = []
            pass_over("captions (.txt, .json) beside tables (.jsonl), which are read instead", sides)
        elif chosen is not None and chosen != "loose" and not sides:
            pass_over(f"images beside {_CALLED[chosen]}, which are read instead", images)
        for form, those in forms.items():
            if form != chosen and those:
                pass_over(f"{_CALLED[form]} beside {_CALLED[str(chosen)]}, which are read instead", those)
                forms[form] = []
    found.sources += [Source(path, form) for form in ("tar", "parquet", "jsonl") for path in forms[form]]
    if forms["loose"]:
        loose = sorted(path.relative_to(root).as_posix() for path in forms["loose"])
        found.sources.append(Source(root, "loose", tuple(loose)))


def _form(kind: Kind, name: str) -> str | None:
    """What a file is for a kind of data, by the ending of its name in small letters; None: nothing."""
    if name.endswith(".tar") and kind != "texts":
        return "tar"
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith((".jsonl", ".jsonl.gz")) and kind != "images":
        return "jsonl"
    return "loose" if name.endswith(LOOSE[kind]) else None


def _with_sides(loose: list[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Images; captions beside one of them: NAME.txt, NAME.json or NAME.jpg.txt; captions beside none."""
    images = [path for path in loose if path.name.lower().endswith(IMAGE_SUFFIXES)]
    names = {os.fspath(name) for path in images for name in (path, path.with_suffix(""))}
    sides: list[Path] = []
    alone: list[Path] = []
    for path in loose:
        if not path.name.lower().endswith(IMAGE_SUFFIXES):
            (sides if os.fspath(path.with_suffix("")) in names else alone).append(path)
    return images, sides, alone


def _tables_of_no_images(kind: Kind, forms: dict[str, list[Path]], form: str, fields: Fields) -> dict[Path, None]:
    """Tables that only tell about the samples beside them, as img2dataset's 00000.parquet beside 00000.tar or the
    folder 00000."""
    if kind == "images" and forms["tar"]:
        return dict.fromkeys(forms[form])
    return {path: None for path in forms[form] if not _is_of_images(path, form, fields)}


def _is_of_images(path: Path, form: str, fields: Fields) -> bool:
    """Whether a table holds or names images itself; one that cannot be read so far is taken for one, and then says
    what is wrong."""
    if form == "parquet":
        stem = path.with_suffix("")
        return not stem.is_dir() and not stem.with_suffix(".tar").exists() and parquet_holds_bytes(path)
    rows = (row for row in islice(read_jsonl(path), PEEKED) if isinstance(row, Row))
    peeked = [any(row.values.get(name) is not None for name in fields.image) for row in rows]
    return any(peeked) or not peeked


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    near = nearest(name, names)
    return None if near is None else f"did you mean {near}?"
