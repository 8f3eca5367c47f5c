"""Names of images in tables, found among the images of a corpus.

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

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.corpus.finding import IMAGE_SUFFIXES, did_you_mean
from unimo.corpus.names import folded, variants
from unimo.corpus.walking import printable
from unimo.errors import DataError

_COCO = re.compile(r"COCO_\w+_(\d{12})")  # images of 2014; those of 2017 are called by their number alone
_CONTAINERS = ("tar", "parquet")  # whose keys do not say which folders they came from


class ImageKeys:
    """Finds the image a row means.

    keys: of the images, in order. places: (shard, its form) of each, if known. digests: (n, k), if known: equal for
    images that are equal.
    """

    def __init__(
        self,
        keys: Iterable[str],
        places: Sequence[tuple[Path, str]] | None = None,
        digests: np.ndarray | None = None,
    ):
        self.keys = list(keys)
        self.places, self.digests = places, digests
        self._missed = 0

    @classmethod
    def of(cls, images: Corpus) -> ImageKeys:
        spans = zip(images.shards, pairwise(images._first))
        places = [shard for shard, (first, end) in spans for _ in range(end - first)]
        return cls(images.keys, places, images._image_sha256)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, name: str, where: object) -> str:
        """The name of an image, as `names` has it. DataError when there is none, several, or it leaves the folder."""
        return self.names[self.item(name, where)]

    def item(self, name: str, where: object) -> int:
        """The number of an image among the keys; raises as `find`."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise DataError(
                "image path leaves the folder",
                where=where,
                got=name,
                expected="a key, or a path below the folder",
                do="write the path as seen from the folder of the images",
            )
        tried = [path.as_posix(), *(each for each in variants(name)[1:])]
        for each in tried:
            if found := self._fitting(self._index, each):
                return self._one(found, name, where)
        for each in tried:
            if found := self._fitting(self._folded, folded(each)):
                return self._one(found, name, where)
        raise self._missing(name, where)

    @cached_property
    def names(self) -> list[str]:
        """A name for each image that is no other image's: its key, or with the name of its shard before it."""
        names = list(self.keys)
        whole: dict[str, list[int]] = {}
        for i, key in enumerate(names):
            whole.setdefault(key, []).append(i)
        for key, items in whole.items():
            if len(self._different(items)) > 1:
                for i in items:
                    name = f"{self._shard_name(i, items)}/{key}"
                    names[i] = name if name not in whole else f"{self._shard_name(i, items, whole_path=True)}/{key}"
            # else all are one image, by whatever number
        return names

    @cached_property
    def _index(self) -> _Index:
        return _Index(self.keys, self._different)

    @cached_property
    def _folded(self) -> _Index:
        return _Index([folded(key) for key in self.keys], self._different)

    def _fitting(self, index: _Index, name: str) -> list[int]:
        """Images that a name may mean; the closest reading that fits any decides."""
        bare = _without_ending(name)
        if found := index.whole.get(name) or [*index.bare.get(bare, ()), *index.ends.get(name, ())]:
            return list(dict.fromkeys(found))
        if ends := index.ends.get(bare):
            return ends
        parts = name.split("/")
        for cut in range(1, len(parts)):  # folders above the key
            rest, above = "/".join(parts[cut:]), parts[:cut]
            items = index.whole.get(rest) or index.bare.get(_without_ending(rest)) or []
            lying = [i for i in items if self._lies_in(i, above)] or [i for i in items if self._is_container(i)]
            if lying:
                return lying
        number = _COCO.fullmatch(_without_ending(parts[-1]))
        return self._fitting(index, number[1]) if number else []

    def _is_container(self, i: int) -> bool:
        return self.places is None or self.places[i][1] in _CONTAINERS

    def _lies_in(self, i: int, above: list[str]) -> bool:
        """Whether the shard of an image is called so, from its end upwards."""
        if self.places is None:
            return False
        path, form = self.places[i]
        path = (path if form == "loose" or form in _CONTAINERS else path.parent).absolute()
        shards = {path.parts, (*path.parts[:-1], path.stem)} if form in _CONTAINERS else {path.parts}
        return any(
            [folded(part) for part in parts[-len(above) :]] == [folded(part) for part in above] for parts in shards
        )

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
        if self.places is None:
            shown = ", ".join(self.keys[i] for i in different[:2])
        else:
            shown = " and ".join(f"{printable(self.keys[i])} in {printable(self.places[i][0])}" for i in different[:2])
        more = f" and {len(different) - 2} more" if len(different) > 2 else ""
        raise DataError(
            "several images have this name",
            where=where,
            got=f"{name}: {shown}{more}",
            expected="one image, or images equal to the last byte",
            do=f"write {self.names[different[0]]} in the row, or give only the images that are meant",
        )

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
        expected = f"one of {len(self)} keys" + (f", such as {self.keys[0]}" if self.keys else "")
        alike = self._index.ends.get(name.rpartition("/")[2]) or self._index.whole.get(name.rpartition("/")[2])
        if alike:
            place = "" if self.places is None else f" in {printable(self.places[alike[0]][0])}"
            do = (
                f"there is {printable(self.keys[alike[0]])}{place}, in another folder: correct the row, "
                "or give the folder that its path begins in"
            )
            return DataError("image is missing", where=where, got=name, expected=expected, do=do)
        self._missed += 1
        # Comparing with all keys is slow: it helps once, not in a list of thousands.
        near = did_you_mean(name, self.keys) if len(self) <= 10_000 and self._missed <= 3 else None
        do = near or "add the image, correct the row, or remove it"
        return DataError("image is missing", where=where, got=name, expected=expected, do=do)


class _Index:
    """Images by their whole key, by the key without its ending, and by each of its ends: b/c.jpg and c.jpg of
    a/b/c.jpg, with and without the ending. Of an end no more than two images that differ are kept: two are too
    many."""

    def __init__(self, keys: list[str], different: Callable[[list[int]], list[int]]):
        self.whole: dict[str, list[int]] = {}
        self.bare: dict[str, list[int]] = {}
        self.ends: dict[str, list[int]] = {}
        for i, key in enumerate(keys):
            self.whole.setdefault(key, []).append(i)
            bare = _without_ending(key)
            self.bare.setdefault(bare, []).append(i)
            ends = []
            for full in dict.fromkeys((key, bare)):
                parts = full.split("/")
                ends += ["/".join(parts[cut:]) for cut in range(1, len(parts))]
            if number := _COCO.fullmatch(bare.rpartition("/")[2]):
                ends.append(number[1])
            for end in ends:
                items = self.ends.setdefault(end, [])
                if len(items) < 2:
                    items[:] = different([*items, i])


def _without_ending(name: str) -> str:
    ending = next((each for each in IMAGE_SUFFIXES if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)]
