"""Finding shards: what lies under the paths, folders and globs a user names, per kind of data."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from unimo.errors import DataError, UsageError, nearest

Kind = Literal["texts", "images", "pairs"]
Verify = Literal["decode", "header"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TEXT_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
EXPECTED = {
    "texts": "files ending in " + ", ".join(TEXT_SUFFIXES),
    "images": f"image files ({', '.join(IMAGE_SUFFIXES)}), WebDataset .tar or .parquet files",
    "pairs": "WebDataset .tar files, .parquet files with an image column, or a .jsonl beside its images",
}


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


def find_sources(kind: Kind, paths: str | Path | Sequence[str | Path]) -> list[Source]:
    """The shards behind what the user named, sorted; DataError when a path is missing or holds nothing of
    this kind."""
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise UsageError(f"no path given for {kind}", expected="a file, a folder, a glob or a list of these")
    found: list[Source] = []
    for entry in given:
        found += _sources_at(kind, entry)
    found.sort(key=lambda source: os.fspath(source.path))
    for earlier, later in pairwise(found):
        if earlier.path.resolve() == later.path.resolve() and set(later.files) <= set(earlier.files):
            raise DataError(
                "the same shard is named twice",
                where=later.path,
                got=", ".join(map(str, given)),
                do="name it once",
            )
    return found


def _sources_at(kind: Kind, entry: str | Path) -> list[Source]:
    name = os.fspath(entry)
    if re.match(r"pipe:|[A-Za-z][A-Za-z0-9+.-]*://", name) or "\0" in name:
        raise UsageError(
            "not a path",
            got=name,
            expected="a local file, folder or glob",
            do="fetch the data first; nothing is fetched or run here",
        )
    path = Path(name).expanduser()
    if path.is_dir():
        sources = _in_folder(kind, path)
    elif path.exists() or path.is_symlink():
        sources = _among(kind, path.parent, [path])
    elif matches := sorted(glob.glob(os.fspath(path), recursive=True)):  # noqa: PTH207
        files = [Path(match) for match in matches if not Path(match).is_dir()]
        folders = [Path(match) for match in matches if Path(match).is_dir()]
        root = Path(os.path.commonpath([file.parent for file in files])) if files else path.parent
        sources = _among(kind, root, files) + [s for folder in folders for s in _in_folder(kind, folder)]
    else:
        raise DataError(f"path of {kind} does not exist", where=path, expected=EXPECTED[kind], do=_missing_hint(path))
    if not sources:
        raise DataError(
            f"no {kind} found",
            where=path,
            got=_what_is_there(path),
            expected=EXPECTED[kind],
            do="correct the path, or convert the files",
        )
    return sources


def _in_folder(kind: Kind, folder: Path) -> list[Source]:
    sources = _among(kind, folder, list(_walk(folder)))
    if kind != "pairs":
        return sources
    # tars and tables are often accompanied by .parquet or .jsonl files that only repeat their captions
    for form in ("tar", "parquet", "jsonl"):
        chosen = [source for source in sources if source.form == form]
        if chosen:
            return chosen
    return []


def _among(kind: Kind, root: Path, files: list[Path]) -> list[Source]:
    """Shards among files of one folder or glob; loose images and .txt files together are one shard, rooted
    at root."""
    sources: list[Source] = []
    loose: list[str] = []
    loose_suffixes = {"texts": (".txt",), "images": IMAGE_SUFFIXES, "pairs": ()}[kind]
    for path in files:
        name = path.name.lower()
        if name.endswith(loose_suffixes):
            loose.append(path.relative_to(root).as_posix())
        elif name.endswith(".tar") and kind != "texts":
            sources.append(Source(path, "tar"))
        elif name.endswith((".jsonl", ".jsonl.gz")) and kind != "images":
            images = _walk(path.parent) if kind == "pairs" else ()
            listed = (p.relative_to(path.parent).as_posix() for p in images if p.name.lower().endswith(IMAGE_SUFFIXES))
            sources.append(Source(path, "jsonl", tuple(listed)))
        elif name.endswith(".parquet"):
            sources.append(Source(path, "parquet"))
    if kind == "images" and any(source.form == "tar" for source in sources):
        sources = [source for source in sources if source.form != "parquet"]  # img2dataset's statistics beside its tars
    return sources + ([Source(root, "loose", tuple(sorted(loose)))] if loose else [])


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder in sorted order, links followed (once), hidden names passed over."""
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _what_is_there(path: Path) -> str:
    if not path.is_dir():
        return f"a file ending in {path.suffix or 'nothing'}"
    endings = Counter(file.suffix.lower() or "no ending" for file in _walk(path))
    listed = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
    return f"files: {listed}" if listed else "an empty folder"


def _missing_hint(path: Path) -> str:
    if glob.has_magic(os.fspath(path)):
        return "no file matches the pattern; check it (quoted, so that the shell leaves it alone)"
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    return f"did you mean {path.parent / near}?" if near else "correct the path"


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    near = nearest(name, names)
    return None if near is None else f"did you mean {near}?"
