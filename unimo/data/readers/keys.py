"""Names of pictures in published files, found among the keys of a corpus: with or without folder and ending."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from unimo.data.finding import IMAGE_SUFFIXES, did_you_mean
from unimo.errors import DataError

_COCO = re.compile(r"COCO_\w+_(\d{12})")  # pictures of 2014; those of 2017 are called by their number alone


class PictureKeys:
    """Finds the key a row means: the very key, then without its ending, then without its folders.

    A shorter name that fits several pictures fits none.
    """

    def __init__(self, keys: Iterable[str]):
        self._exact: dict[str, str] = {}
        self._short: dict[str, str | None] = {}
        self._missed = 0
        for key in keys:
            self._exact[key] = key
            for name in _shorter(key):
                self._short[name] = key if self._short.get(name, key) == key else None

    def __len__(self) -> int:
        return len(self._exact)

    def find(self, name: str, where: object) -> str:
        """The key of a picture. DataError when there is no such picture, or the name leaves the folder."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise DataError(
                "image path leaves the folder", where=where, got=name, expected="a key, or a path below the folder"
            )
        plain = path.as_posix()
        for each in (plain, *_shorter(plain)):
            found = self._exact.get(each) or self._short.get(each)
            if found is not None:
                return found
        expected = f"one of {len(self)} keys" + (f", such as {next(iter(self._exact))}" if self._exact else "")
        self._missed += 1
        # Comparing with all keys is slow: it helps once, not in a list of thousands.
        near = did_you_mean(name, self._exact) if len(self) <= 10_000 and self._missed <= 3 else None
        raise DataError("picture is missing", where=where, got=name, expected=expected, do=near)


def _shorter(key: str) -> list[str]:
    bare = _without_ending(key)
    name = key.rpartition("/")[2]
    stem = _without_ending(name)
    number = _COCO.fullmatch(stem)
    return list(dict.fromkeys([bare, name, stem, *([number[1]] if number else [])]))


def _without_ending(name: str) -> str:
    ending = next((each for each in IMAGE_SUFFIXES if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)]
