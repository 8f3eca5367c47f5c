"""Names are bytes: one image, written in another normal form of Unicode or with the separators of another system."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

from unimo.corpus.walking import printable, walk
from unimo.errors import DataError
from unimo.paths import listing


def folded(name: str) -> str:
    """The same for names that differ only in their form: composed characters (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def variants(name: str) -> list[str]:
    """A name as it stands; with backslashes read as separators where it has any and stays below its folder."""
    turned = PurePosixPath(name.replace("\\", "/"))
    inside = not turned.is_absolute() and ".." not in turned.parts and bool(turned.parts)
    return [name] + ([turned.as_posix()] if "\\" in name and inside else [])


class FolderNames:
    """Finds files by the names that a table gives them, as they stand on disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._listed: dict[Path, dict[str, list[str]]] = {}
        self._by_name: dict[str, list[str]] | None = None

    def find(self, name: str) -> str:
        """The name on disk; the given one where nothing like it is there. DataError where two differ only in form."""
        if os.path.lexists(self.folder / name):
            return name
        found = (self._on_disk(each) for each in variants(name))
        return next((each for each in found if each is not None), name)

    def missing(self, name: str, where: str, error: DataError) -> DataError:
        """The error for a name that is not there, with a file of this name in another folder as the hint."""
        if self._by_name is None:
            self._by_name = {}
            for path in walk(self.folder).files:
                self._by_name.setdefault(folded(path.name), []).append(path.relative_to(self.folder).as_posix())
        others = self._by_name.get(folded(PurePosixPath(variants(name)[-1]).name), [])
        return DataError(
            error.what,
            where=where,
            got=error.got,
            expected=f"{printable(name)} below {self.folder}",
            do=f"did you mean {printable(others[0])}?" if len(others) == 1 else "restore the file or correct the row",
        )

    def _on_disk(self, name: str) -> str | None:
        here, parts = self.folder, list[str]()
        for part in PurePosixPath(name).parts:
            if not os.path.lexists(here / part):
                same = self._folder(here).get(folded(part), [])
                if len(same) > 1:
                    raise DataError(
                        "two files differ only in the form of Unicode",
                        where=here,
                        got=", ".join(ascii(each) for each in same[:3]),
                        expected=f"one file for {part!a}",
                        do="name the file exactly as it is written on disk, or rename one",
                    )
                if not same:
                    return None
                part = same[0]
            here, parts = here / part, [*parts, part]
        return "/".join(parts)

    def _folder(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._listed:
            names = self._listed[folder] = {}
            for entry in listing(folder, []) if folder.is_dir() else ():
                names.setdefault(folded(entry.name), []).append(entry.name)
        return self._listed[folder]
