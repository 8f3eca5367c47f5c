"""Everything that lies below a folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from unimo.corpus.bad_samples import Notes
from unimo.errors import DataError
from unimo.paths import is_folder, listing

OURS = re.compile(r"\.unimo-.*|.+\.(texts|images|pairs)\.(index|regions)\.safetensors.*|.+\.pairs\.rewrites\.jsonl.*")
"""Names of what is prepared and lies beside the data."""


@dataclass
class Tree:
    """The files below a folder, in the order in which they are met: those of a folder, then its folders by name."""

    files: list[Path] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    failed: list[DataError] = field(default_factory=list)


def walk(folder: Path) -> Tree:
    """Everything below a folder; links are followed, each folder is entered once. Told: hidden names, folders met
    again, and as errors the folders that may not be listed."""
    tree, seen = Tree(), set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            status = here.stat()
        except OSError:
            status = None  # listing it says why
        if status and (status.st_dev, status.st_ino) in seen:
            tree.notes.tell("folders met a second time through a link", os.fspath(here))
            continue
        if status:
            seen.add((status.st_dev, status.st_ino))
        folders = []
        for entry in listing(here, tree.failed):
            path = here / entry.name
            if entry.name.startswith("."):
                if not OURS.fullmatch(entry.name):
                    tree.notes.tell(
                        "hidden files or folders (a name that begins with a dot)",
                        printable(path.relative_to(folder).as_posix()),
                    )
            elif is_folder(entry):
                folders.append(path)
            else:
                tree.files.append(path)
        waiting += reversed(folders)
    return tree


def walk_order(name: str) -> tuple:
    """Sorts names of files as `walk` meets them: of each folder files first, then folders."""
    *folders, file = PurePath(name).parts
    return (*((1, folder) for folder in folders), (0, file))


def printable(name: object) -> str:
    """A file name that can be written down: bytes that are not UTF-8 appear as \\udc.."""
    return str(name).encode("utf-8", "backslashreplace").decode()
