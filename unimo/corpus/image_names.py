"""Names of images in tables, found among the images of a corpus or the files of a folder.

A row names an image by a path, of which some may be missing and nothing may be wrong:

    train/1.jpg    the key itself, or with another ending or none (keys of a tar have none)
    1.jpg          without its folders, if one image alone is called so
    images/1.jpg   with the folders above the images, as far up as they are called so; of a tar, which folders
                   it came from is not known
    a/0001.jpg     with the name of the tar or folder, where two of them hold an image of this key

A name that fits several different images fits none; of images equal to the last byte the first is taken. What fits
none as it is written is looked for in the composed form of Unicode, and with backslashes as separators.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from unimo.corpus.finding import IMAGE_SUFFIXES, printable, walk
from unimo.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from unimo.corpus.corpus import Corpus

_COCO = re.compile(r"COCO_\w+_(\d{12})")  # images of 2014; those of 2017 are called by their number alone
_CONTAINERS = ("tar", "parquet", "arrow")  # whose keys do not say which folders they came from
TABLE_FOLDERS = ("annotations", "flickr8k_text")  # of published data sets, beside the folders of their images
MISSING = "image is missing"


class ImageFiles:
    """Finds files by the names that a table gives them.

    A name is seen from the table's folder, or from one above it (then folders that are called so are dropped); else it
    is looked for among all images below the folder. Beside it images are looked for only where the publishers put them
    there (COCO's annotations/ and ../train2017/): what lies beside any other folder may be another data set.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._above = folder.absolute().parts[1:]

    def find(self, name: str, where: str) -> str:
        """The path from the folder, as on disk. DataError where there is none, several, or it leaves the folder."""
        path, above = PurePosixPath(name), self._above
        if path.is_absolute() and path.parts[1 : len(above) + 1] == above:
            path = PurePosixPath(*path.parts[len(above) + 1 :])
        _check_inside(path, name, where)
        for cut in range(min(len(path.parts), len(above) + 1)):
            rest = PurePosixPath(*path.parts[cut:])
            if path.parts[:cut] == above[len(above) - cut :] and os.path.lexists(self.folder / rest):
                return rest.as_posix()
        base, names, keys = self._images
        return os.path.relpath(base / names[keys.item(path.as_posix(), where)], self.folder)

    @cached_property
    def _images(self) -> tuple[Path, list[str], ImageKeys]:
        """Where they lie, their names from there, and by which they are found."""
        names: list[str] = []
        beside = [(self.folder.parent, 2)] if self.folder.absolute().name.lower() in TABLE_FOLDERS else []
        for base, depth in [(self.folder, None), *beside]:
            if not names:
                images = (path for path in walk(base, depth=depth) if path.name.lower().endswith(IMAGE_SUFFIXES))
                names, home = [path.relative_to(base).as_posix() for path in images], base
        return home, names, ImageKeys(map(printable, names), [(home, "loose")] * len(names))


class ImageKeys:
    """Finds the image a row means.

    keys: of the images, in order. places: (shard, its form) of each, if known. digests: (n, k), if known: equal for
    images that are equal.
    """

    def __init__(
        self, keys: Iterable[str], places: Sequence[tuple[Path, str]] | None = None, digests: np.ndarray | None = None
    ):
        self.keys = list(keys)
        self.places, self.digests = places, digests
        self._missed = 0

    @classmethod
    def of(cls, images: Corpus) -> ImageKeys:
        spans = zip(images.shards, pairwise(images._first))
        places = [shard for shard, (first, end) in spans for _ in range(end - first)]
        return cls(images.keys, places, images.image_sha256)

    def __len__(self) -> int:
        return len(self.keys)

    def exact(self, name: str, where: object, do: str | None = None) -> int:
        """The number of the image with this very name (`names`). DataError where there is none, or several."""
        if name not in self._numbers:
            if name in self.keys:
                return self.item(name, where)  # of several images, which is an error of its own
            expected, do = f"one of {len(self._numbers)} keys", do or did_you_mean(name, self._numbers)
            raise DataError("no such image", where=where, got=name, expected=expected, do=do)
        return self._numbers[name]

    def find(self, name: str, where: object) -> str:
        """The name of an image, as `names` has it. DataError when there is none, several, or it leaves the folder."""
        return self.names[self.item(name, where)]

    def item(self, name: str, where: object) -> int:
        """The number of an image among the keys; raises as `find`."""
        path = PurePosixPath(name)
        _check_inside(path, name, where)
        tried, turned = [path.as_posix()], PurePosixPath(name.replace("\\", "/"))
        if "\\" in name and _is_inside(turned):
            tried.append(turned.as_posix())
        for exact in (True, False):
            for each in tried:
                index, each = (self._index, each) if exact else (self._folded, _folded(each))
                if found := self._fitting(index, each):
                    return self._one(found, name, where)
        raise self._missing(name, where)

    @cached_property
    def names(self) -> list[str]:
        """A name for each image that is no other image's: its key, or with the name of its shard before it."""
        names = list(self.keys)
        for key, items in self._index.whole.items():
            if len(self._different(items)) > 1:  # else all are one image, by whatever number
                for i in items:
                    name = f"{self._shard_name(i, items)}/{key}"
                    taken = name in self._index.whole
                    names[i] = f"{self._shard_name(i, items, whole_path=True)}/{key}" if taken else name
        return names

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Name -> number; images of one name are one image."""
        return {name: i for i, name in reversed(list(enumerate(self.names)))}

    @cached_property
    def _index(self) -> _Index:
        return _Index(self.keys, self)

    @cached_property
    def _folded(self) -> _Index:
        return _Index([_folded(key) for key in self.keys], self)

    def _fitting(self, index: _Index, name: str) -> list[int]:
        """Images that a name may mean; the closest reading that fits any decides."""
        bare = _bare(name)
        if found := index.whole.get(name) or [*index.bare.get(bare, ()), *index.ends.get(name, ())]:
            return list(dict.fromkeys(found))
        if ends := index.ends.get(bare):
            return ends
        parts = name.split("/")
        for cut in range(1, len(parts)):  # folders above the key
            rest, above = "/".join(parts[cut:]), parts[:cut]
            items = index.whole.get(rest) or index.bare.get(_bare(rest)) or []
            lying = [i for i in items if self._lies_in(i, above)]
            if lying := lying or [i for i in items if self.places is None or self.places[i][1] in _CONTAINERS]:
                return lying
        number = _COCO.fullmatch(_bare(parts[-1]))
        return self._fitting(index, number[1]) if number else []

    def _lies_in(self, i: int, above: list[str]) -> bool:
        """Whether the shard of an image is called so, from its end upwards."""
        if self.places is None:
            return False
        path, form = self.places[i]
        path = (path if form in ("loose", *_CONTAINERS) else path.parent).absolute()
        shards = {path.parts, (*path.parts[:-1], path.stem)} if form in _CONTAINERS else {path.parts}
        wanted = [_folded(part) for part in above]
        return any([_folded(part) for part in parts[-len(above) :]] == wanted for parts in shards)

    def _different(self, items: list[int]) -> list[int]:
        """The first of each of the images that differ."""
        if self.digests is None:
            return items
        first: dict[bytes, int] = {}
        for i in items:
            first.setdefault(self.digests[i].tobytes(), i)
        return list(first.values())

    def _one(self, found: list[int], name: str, where: object) -> int:
        different = self._different(found)
        if len(different) == 1:
            return different[0]
        shown = " and ".join(self._called(i) for i in different[:2])
        more = f" and {len(different) - 2} more" if len(different) > 2 else ""
        what, got = "several images have this name", f"{name}: {shown}{more}"
        do = f"write {self.names[different[0]]} in the row, or give only the images that are meant"
        raise DataError(what, where=where, got=got, expected="one image, or images equal to the last byte", do=do)

    def _called(self, i: int) -> str:
        return printable(self.keys[i]) + ("" if self.places is None else f" in {printable(self.places[i][0])}")

    def _shard_name(self, i: int, items: list[int], whole_path: bool = False) -> str:
        """As many names of folders above the shard as tell it from the others'."""
        if self.places is None:
            return str(i)
        paths = {j: self.places[j][0].absolute().parts for j in items}
        for length in range(len(paths[i]) if whole_path else 1, len(paths[i]) + 1):
            mine = paths[i][-length:]
            if sum(parts[-length:] == mine for parts in paths.values()) == 1:
                return printable("/".join(mine))
        return printable(self.places[i][0])

    def _missing(self, name: str, where: object) -> DataError:
        end = name.rpartition("/")[2]
        if alike := self._index.ends.get(end) or self._index.whole.get(end):
            do = f"there is {self._called(alike[0])}, in another folder: correct the row, or give the folder that its "
            do += "path begins in"
        else:
            self._missed += 1
            # Comparing with all keys is slow: it helps once, not in a list of thousands.
            near = did_you_mean(name, self.keys) if len(self) <= 10_000 and self._missed <= 3 else None
            do = near or "add the image, correct the row, or remove it"
        expected = f"one of {len(self)} keys" + (f", such as {self.keys[0]}" if self.keys else "")
        return DataError(MISSING, where=where, got=name, expected=expected, do=do)


class _Index:
    """Images by their whole key, by the key without its ending, and by each of its ends: b/c.jpg and c.jpg of
    a/b/c.jpg, with and without the ending. Of an end no more than two images that differ are kept: two are too
    many."""

    def __init__(self, keys: list[str], images: ImageKeys):
        self.whole: dict[str, list[int]] = {}
        self.bare: dict[str, list[int]] = {}
        self.ends: dict[str, list[int]] = {}
        for i, key in enumerate(keys):
            bare = _bare(key)
            self.whole.setdefault(key, []).append(i)
            self.bare.setdefault(bare, []).append(i)
            parts = [full.split("/") for full in dict.fromkeys((key, bare))]
            ends = ["/".join(each[cut:]) for each in parts for cut in range(1, len(each))]
            number = _COCO.fullmatch(bare.rpartition("/")[2])
            for end in [*ends, *([number[1]] if number else [])]:
                items = self.ends.setdefault(end, [])
                if len(items) < 2:
                    items[:] = images._different([*items, i])


def _folded(name: str) -> str:
    """The same for names that differ only in their form: composed characters (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _bare(name: str) -> str:
    """Without the ending of an image."""
    ending = next((each for each in IMAGE_SUFFIXES if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)]


def _is_inside(path: PurePosixPath) -> bool:
    return not path.is_absolute() and ".." not in path.parts and bool(path.parts)


def _check_inside(path: PurePosixPath, name: str, where: object) -> None:
    """DataError for a name that leads out of the folder it is seen from, or is none."""
    if not _is_inside(path):
        expected, do = "a path below the folder of the table, or a key", "write the path as seen from that folder"
        raise DataError("image path leaves the folder", where=where, got=name, expected=expected, do=do)
