"""Finding shards: what lies under the paths, folders and patterns a user names, per kind of data.

Everything that lies there is a shard, belongs to one, or is counted as passed over, by reason and with examples.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Literal

from unimo.corpus.bad_samples import Notes
from unimo.errors import DataError, UsageError
from unimo.formats.columns import Fields
from unimo.formats.tables import columns_in, convert, described, ending_of, form_of, is_table, rows_of
from unimo.paths import ADDRESS, HUB, expand, is_folder, listing

Kind = Literal["texts", "images", "pairs"]
Verify = Literal["decode", "header"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
LOOSE = {"texts": (".txt", ".md"), "images": IMAGE_SUFFIXES, "pairs": (*IMAGE_SUFFIXES, ".txt", ".json")}
EXPECTED = {
    "texts": ".txt or .md files, or a .jsonl, .json, .csv, .tsv, .parquet or .arrow with a column of texts",
    "images": f"image files ({', '.join(IMAGE_SUFFIXES)}), WebDataset .tar, or .parquet or .arrow with images",
    "pairs": "a table that names images and captions (.csv, .tsv, .jsonl, .json of COCO, Karpathy, BLIP or LLaVA, "
    ".parquet, .arrow, Flickr's token.txt), WebDataset .tar files, or images with a .txt or .json of the same name",
}
OURS = re.compile(r"\.unimo-.*|.+\.(texts|images|pairs)\.(index|regions)\.safetensors.*|.+\.pairs\.rewrites\.jsonl.*")
"""Names of what is prepared and lies beside the data."""
_SAVED = ("dataset_info.json", "state.json")  # beside the .arrow files of datasets.save_to_disk
_SAYS_CAPTIONS = ("sentences", "conversations")  # of Karpathy and LLaVA, which the reader turns into captions


@dataclass(frozen=True)
class Source:
    """One shard: a file, or a folder with the names of its loose files.

    form: tar, loose, or the form of a table (`unimo.formats.tables`). listed: a table that names its images.
    """

    path: Path
    form: str
    files: tuple[str, ...] = ()
    listed: bool = False

    @property
    def base(self) -> Path:
        """The folder that names of the shard's files are relative to."""
        return self.path if self.form == "loose" else self.path.parent

    @property
    def described(self) -> str:
        """What it is, for people."""
        if self.form in ("tar", "loose"):
            return {"tar": "WebDataset tar", "loose": "folder of files"}[self.form]
        return described(self.path, self.form)


@dataclass
class Found:
    """sources: the shards, sorted. notes: what was passed over. failed: folders that may not be listed, each with an
    unknown number of samples."""

    sources: list[Source] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    failed: list[DataError] = field(default_factory=list)


def find(kind: Kind, paths: str | Path | Sequence[str | Path], fields: Fields | None = None) -> Found:
    """The shards behind what the user named, and what was passed over.

    fields: by which tables of samples are known from others. DataError when a path is missing or holds nothing of this
    kind, UsageError when it is none.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        expected, do = "a file, a folder, a pattern or a list of these", "name at least one, or leave this kind out"
        raise UsageError(f"no path given for {kind}", where=kind, expected=expected, do=do)
    found = Found()
    for entry in given:
        if ADDRESS.match(str(entry)):
            from unimo.corpus.remote import find_remote

            find_remote(kind, str(entry), found)
            continue
        if str(entry).startswith(HUB):
            from unimo.corpus.hub import saved_dataset

            entry = saved_dataset(entry)
        _find_at(kind, entry, found, fields or Fields())
    found.sources.sort(key=lambda source: os.fspath(source.path))
    for earlier, later in pairwise(found.sources):
        if earlier.path.resolve() == later.path.resolve() and set(later.files) <= set(earlier.files):
            got, expected = ", ".join(map(str, given[:5])), "each file or folder once"
            what = "the same shard is named twice"
            raise DataError(what, where=later.path, got=got, expected=expected, do="name it once")
    return found


def walk(folder: Path, found: Found | None = None, depth: int | None = None) -> list[Path]:
    """The files below a folder: those of a folder, then its folders by name. Links are followed, each folder is entered
    once. Reported in found: hidden names, folders met again, and folders that may not be listed. depth: of folders."""
    found = Found() if found is None else found
    files: list[Path] = []
    seen, waiting = set(), [(folder, 0)]
    while waiting:
        here, level = waiting.pop()
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
        if depth is None or level < depth:
            waiting += [(each, level + 1) for each in reversed(folders)]
    return files


def walk_order(name: str) -> tuple:
    """Sorts names of files as `walk` meets them: of each folder files first, then folders."""
    *folders, file = PurePath(name).parts
    return (*((1, folder) for folder in folders), (0, file))


def printable(name: object) -> str:
    """A file name that can be written down: bytes that are not UTF-8 appear as \\udc.."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def fits(kind: Kind, path: Path, fields: Fields, unread: bool = True) -> bool:
    """Whether a table holds samples of a kind. unread: the answer for one that cannot be read so far; taken for one, it
    says what is wrong."""
    try:
        found = columns_in(path, form_of(path))
    except DataError:
        found = None
    if found is None:
        return unread
    if kind == "images":
        return any(found.get(name) for name in fields.image)
    if kind == "texts":
        return not found.keys().isdisjoint(fields.text)
    captions = {*fields.captions, *_SAYS_CAPTIONS}
    return not (found.keys().isdisjoint(fields.image) or found.keys().isdisjoint(captions))


def holds_images(path: Path) -> bool:
    """Whether a table has its images in itself."""
    return path.name.lower().endswith((".parquet", ".arrow", ".feather")) and fits("images", path, Fields(), False)


def tables_in(folder: Path) -> list[Path]:
    """The tables of a folder of Hugging Face `datasets`: saved shards, or the metadata of an imagefolder."""
    folder = _split_of(folder, Found())
    metadata = sorted(path for path in folder.glob("metadata.*") if is_table(path.name))  # our index lies beside it
    if not (found := sorted(folder.glob("*.arrow")) or metadata):
        do = "a folder for each class: unimo finetune ... --reader folder; photographs to describe: unimo caption"
        expected = "metadata.csv, .jsonl or .parquet, or .arrow files"
        raise DataError("no table in this folder", where=folder, expected=expected, do=do)
    return found


def _find_at(kind: Kind, entry: str | Path, found: Found, fields: Fields) -> None:
    places = expand(entry, found.failed, what=f"path of {kind} does not exist", expected=EXPECTED[kind])
    folders = [_split_of(place, found) for place in places if place.is_dir()]
    files = [place for place in places if not place.is_dir()]
    before = len(found.sources)
    if files:
        root = Path(os.path.commonpath([file.parent for file in files]))
        _Sorting(kind, root, found, fields).add(files, named=len(places) == 1, beside=bool(folders))
    for folder in folders:
        _Sorting(kind, folder, found, fields).add(walk(folder, found))
    if len(found.sources) == before:
        for error in found.failed:  # an unreadable folder is not an empty one
            raise error
        there = [*files, *(file for folder in folders for file in walk(folder))]
        endings = Counter(file.suffix.lower() or "no ending" for file in there).most_common(5)
        got = "files: " + ", ".join(f"{count} {ending}" for ending, count in endings) if there else "an empty folder"
        commands = [command for command in map(convert, there) if command]
        do = f"convert them: {commands[0]}" if commands else "correct the path, or convert the files"
        if unread := next(filter(None, map(_unread, there)), None):
            do = f"the first that cannot be read: {unread.one_line()}"
        if kind == "texts" and there and endings[0][0] in IMAGE_SUFFIXES:
            do = "these are images: name them as such (--images)"
        raise DataError(f"no {kind} found", where=entry, got=got, expected=EXPECTED[kind], do=do)


def _unread(path: Path) -> DataError | None:
    """What is wrong with a table from its beginning."""
    try:
        first = next(rows_of(path, form_of(path)), None) if is_table(path.name) else None
    except DataError as error:
        return error
    return first if isinstance(first, DataError) else None


def _split_of(folder: Path, found: Found) -> Path:
    """The training split of a DatasetDict that was saved to disk; other folders as they are."""
    try:
        splits = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        return folder
    chosen = "train" if "train" in splits else str(splits[0]) if splits else ""
    others = [os.fspath(folder / str(split)) for split in splits if split != chosen]
    found.notes.tell(f"other splits of a saved dataset than {chosen}", *others, count=len(others))
    return folder / chosen


class _Sorting:
    """Sorts the files of one folder or pattern into shards; loose files together are one, rooted at root."""

    def __init__(self, kind: Kind, root: Path, found: Found, fields: Fields):
        self.kind, self.root, self.found, self.fields = kind, root, found, fields

    def add(self, files: list[Path], named: bool = False, beside: bool = False) -> None:
        """named: by the user, by itself: then a table is one, whatever it looks like. beside: the pattern means folders
        too."""
        tars, tables, loose = self._groups(files, named)
        images, sides = loose, list[Path]()
        if self.kind == "pairs":
            images, sides, alone = _with_sides(loose)
            captions = [path for path in alone if named or fits(self.kind, path, self.fields, unread=False)]
            self._pass_over("captions (.txt, .json) without an image of the same name", set(alone) - set(captions))
            tables, loose = tables + captions, images + sides if sides else []
        if not named:
            tables = self._fitting(tables, bool(tars), beside or bool(tars) or bool(loose))
        listed = [path for path in tables if self.kind != "texts" and self._names_files(path)]
        if self.kind == "pairs":
            embedded = [path for path in tables if path not in listed]
            ways = {"shards (.tar)": tars, "tables with images": embedded, "tables": listed, "image files": loose}
            chosen = next((way for way, those in ways.items() if those), "")
            tables, loose = self._only(chosen, tables, listed, images, sides)
        self.found.sources += [Source(path, "tar") for path in tars]
        self.found.sources += [Source(path, form_of(path), listed=path in listed) for path in tables]
        if loose:
            names = sorted(path.relative_to(self.root).as_posix() for path in loose)
            self.found.sources.append(Source(self.root, "loose", tuple(names)))

    def _fitting(self, tables: list[Path], tars: bool, others: bool) -> list[Path]:
        """Without tables that hold no samples, where anything else does: they only tell about it."""
        unfit = [p for p in tables if (self.kind == "images" and tars) or not fits(self.kind, p, self.fields)]
        if not unfit or not (others or len(unfit) < len(tables)):
            return tables
        what = "images and captions" if self.kind == "pairs" else self.kind
        self._pass_over_tables(unfit, f"without columns of {what}")
        return [path for path in tables if path not in unfit]

    def _only(
        self, chosen: str, tables: list[Path], listed: list[Path], images: list[Path], sides: list[Path]
    ) -> tuple[list[Path], list[Path]]:
        """Tables and loose files of the one form of pairs that is read; the others are passed over."""
        instead = f"beside {chosen}, which are read instead"
        if chosen == "image files":
            return [], images + sides
        if chosen == "tables":  # whether its images are named by a table is known when it is read
            self._pass_over(f"captions (.txt, .json) {instead}", sides)
            return tables, []
        self._pass_over(f"{'images with captions' if sides else 'images'} {instead}", images + sides)
        unread = tables if chosen == "shards (.tar)" else listed
        self._pass_over_tables(unread, instead)
        return [path for path in tables if path not in unread], []

    def _groups(self, files: list[Path], named: bool) -> tuple[list[Path], list[Path], list[Path]]:
        """Tars, tables and loose files; the rest is passed over."""
        groups: tuple[list[Path], list[Path], list[Path]] = ([], [], [])
        saved = {path.parent for path in files if path.name.endswith(".arrow")}
        for path in files:
            name = path.name.lower()
            if OURS.fullmatch(path.name):
                continue
            if path.parent in saved and (path.name in _SAVED or name.startswith("cache-")):
                self._pass_over("descriptions and caches of a saved dataset", [path])
            elif name.endswith(".tar") and self.kind != "texts":
                groups[0].append(path)
            elif is_table(name) and self._takes_table(name, named):
                groups[1].append(path)
            elif name.endswith(LOOSE[self.kind]):
                groups[2].append(path)
            else:
                ending = path.suffix.lower() if 1 < len(path.suffix) <= 12 else ""
                what = f"files ending in {ending}" if ending else "files without an ending"
                self._pass_over(f"{what}, not read as {self.kind}", [path])
        return groups

    def _takes_table(self, name: str, named: bool) -> bool:
        if self.kind == "images":  # a table that only names them is one by the user's word alone
            return named or name.endswith((".parquet", ".arrow", ".feather"))
        return self.kind == "texts" or not name.endswith(".json")  # which may lie beside an image

    def _pass_over(self, reason: str, those: Iterable[Path]) -> None:
        for path in those:
            self.found.notes.tell(reason, printable(path.relative_to(self.root).as_posix()))

    def _pass_over_tables(self, those: list[Path], why: str) -> None:
        for path in those:
            self._pass_over(f"tables (.{ending_of(path.name)}) {why}", [path])

    def _names_files(self, path: Path) -> bool:
        if (form := form_of(path)) not in ("parquet", "arrow"):
            return True
        found = columns_in(path, form)
        return found is not None and not any(found.get(name) for name in self.fields.image)


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
