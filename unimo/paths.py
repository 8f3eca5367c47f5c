"""Paths as users write them: `~`, `{000..002}` and `{a,b}`, `*`, `?`, `[..]` and `**`.

What a path of the user can be wrong in ends here as an error that names it: an address or a command instead of a path,
a home folder that nobody has, a name longer than the system allows, a pattern that nothing matches, a folder that may
not be listed. A name that is there as it stands is never taken for a pattern.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from unimo.errors import DataError, UsageError, nearest

HUB = "hf:"  # begins the name of a data set of the Hugging Face hub, which is no path
ADDRESS = re.compile(r"(https?|s3|gs|gcs|az|abfs|hf|memory)://")  # begins what `unimo.corpus.remote` reads
MOST_NAMES = 300_000  # that braces may stand for
MOST_SIBLINGS = 10_000  # names of a folder that are compared with a misspelt one
_MOST_BRACES = 50
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(-?\d{1,18}))?")
_LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")


def user_path(given: str | os.PathLike[str], where: object = None) -> Path:
    """A path with `~` filled in; UsageError for what can be none. where: option, for the message."""
    name = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(name, str):
        got, do = repr(given)[:80], "name a file or a folder"
        raise UsageError("not a path", where=where, got=got, expected="a string or a Path", do=do)
    check_name(name, where)
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # no such user, or no HOME and no name for the user's number
        expected = "~ alone with HOME set, or ~NAME of a user of this machine"
        do = "write the whole path, or ./~ for a name that begins like this"
        raise UsageError("no such home folder", where=where, got=name, expected=expected, do=do) from error
    check_length(path, where)
    return path


def check_name(name: str, where: object = None) -> None:
    """UsageError for an address or a command, which are not fetched or run here."""
    if re.match(r"pipe:|[A-Za-z][A-Za-z0-9+.-]*://", name) or "\0" in name:
        do = "fetch the data first; only --pairs, --images and --texts read addresses (s3, gs, az, hf, https)"
        got, expected = re.sub("//.*@", "//", name), "a local file, folder or pattern"  # without user and password
        raise UsageError("not a path", where=where, got=got, expected=expected, do=do)


def check_length(path: Path, where: object = None) -> None:
    """UsageError where the system refuses the very name."""
    name = os.fspath(path)
    max_length = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if max_length > 255 or len(os.fsencode(name)) > 4095:  # NAME_MAX and PATH_MAX of Linux
        got = f"{len(name)} characters, the longest part {max_length} bytes: {name[:60]}…"
        expected = "at most 4095 bytes, and 255 for each part between slashes"
        do = "look for a missing comma, or for a text given as a path"
        raise UsageError("path is too long", where=where, got=got, expected=expected, do=do)


def expand(
    given: str | os.PathLike[str],
    failed: list[DataError] | None = None,
    *,
    what: str = "path does not exist",
    expected: object = None,
) -> list[Path]:
    """The files and folders that a path or pattern means, sorted for each alternative of its braces.

    failed: takes an error for each folder on the way that may not be listed; without it, the first is raised. what,
    expected: for the message. DataError when an alternative does not exist or a pattern matches nothing, naming every
    such one.
    """
    failures: list[DataError] = []
    found, missing = [], []
    for path in _alternatives_of(given):
        matches = [path] if os.path.lexists(path) else _matches(path, failures)
        found += matches
        if not matches:
            missing.append(path)
    if failures and failed is None:
        raise failures[0]
    if failed is not None:
        failed += failures
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        got, do = failures[0].one_line() if failures else None, missing_hint(missing[0])
        raise DataError(what, where=", ".join(map(str, missing[:3])) + more, got=got, expected=expected, do=do)
    return list(dict.fromkeys(found))


def matches(given: str | os.PathLike[str]) -> bool:
    """Whether a path exists, or every alternative of a pattern matches something."""
    try:
        return bool(expand(given, []))
    except DataError:
        return False


def missing_hint(path: Path) -> str:
    """What to do about a path that is not there: the name that was meant, or the first folder that is missing."""
    if glob.has_magic(os.fspath(path)):
        return "nothing matches the pattern; check it (quoted, so that the shell leaves it alone)"
    folder = next((parent for parent in path.parents if parent.is_dir()), Path(path.anchor or "."))
    name, *rest = path.relative_to(folder).parts
    try:
        near = _meant(name, os.listdir(folder)[:MOST_SIBLINGS])  # noqa: PTH208 - strings
    except OSError as error:
        return f"{folder}: {error.strerror}; correct the path or the permissions"
    if near:
        whole = folder.joinpath(near, *rest)
        return f"did you mean {whole if os.path.lexists(whole) or not rest else folder / near}?"
    return f"there is no folder {folder / name} either; correct the path" if rest else "correct the path"


def _meant(name: str, siblings: list[str]) -> str | None:
    """The one that a name means: without its ending (train of train.jsonl.gz), without what numbers the shards
    (train of train-000.tar, train-001.tar), or misspelt."""
    names = sorted(each for each in siblings if not each.startswith("."))
    begin = [each for each in names if each.startswith(name) and not each.endswith(".safetensors")]
    endings = {each.rpartition(".")[2] for each in begin}
    if len(endings) == 1 and not any(each.startswith(f"{name}.") for each in begin):
        return begin[0] if len(begin) == 1 else f"{name}*.{endings.pop()}"
    without = {each.partition(".")[0]: each for each in reversed(names)}
    near = nearest(name, [*names, *without])
    return without.get(near or "", near)


def listing(folder: Path, failed: list[DataError]) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name; a folder that may not be listed becomes an error in `failed`."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if any(other.where == folder for other in failed):
            return []
        got, expected = error.strerror or str(error), "permission to list it; what it holds is not read"
        do = "repair the permissions, or name the folders to be read one by one"
        failed.append(DataError("cannot list folder", where=folder, got=got, expected=expected, do=do))
        return []


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # read as a file, it says what is wrong


def alternatives(name: str) -> Iterator[str]:
    """The names that braces stand for, in order, as in a shell: a{1..3}, a{01..10..3}, a{x,y}, nested or side by side.

    Braces without a comma or a range stand for themselves.
    """
    group = _first_group(name)
    if group is None:
        yield name
        return
    begin, options, end = group
    tails = list(islice(alternatives(name[end:]), MOST_NAMES + 1))
    for option in options:
        for tail in tails:
            yield name[:begin] + option + tail


def _alternatives_of(given: str | os.PathLike[str]) -> Iterator[Path]:
    name = os.fspath(given)
    there = os.path.lexists(os.path.expanduser(name))  # noqa: PTH111 - never raises
    yield from map(user_path, [name] if there else names_of(name))


def names_of(name: str) -> list[str]:
    """The names that braces stand for; UsageError where there are too many."""
    if name.count("{") > _MOST_BRACES:
        do = "name the folder, which is searched as a whole"
        raise UsageError("too many braces in a path", where=name[:200], expected=f"at most {_MOST_BRACES}", do=do)
    names = list(islice(alternatives(name), MOST_NAMES + 1))
    if len(names) > MOST_NAMES:
        raise _too_many(name)
    return names


def _first_group(name: str) -> tuple[int, list[str], int] | None:
    """(where the first pair of braces with a comma or a range begins, what it stands for, where it ends)."""
    for begin, character in enumerate(name):
        if character != "{":
            continue
        depth, commas = 0, [begin]
        for end in range(begin, len(name)):
            depth += {"{": 1, "}": -1}.get(name[end], 0)
            if depth == 1 and name[end] == ",":
                commas.append(end)
            if depth == 0:
                inner = [name[a + 1 : b] for a, b in zip(commas, [*commas[1:], end])]
                options: Iterable[str] | None = _range(inner[0], name) if len(inner) == 1 else inner
                if options is not None:
                    return begin, [each for option in options for each in alternatives(option)], end + 1
                break
    return None


def _range(text: str, name: str) -> list[str] | None:
    if letters := _LETTERS.fullmatch(text):
        first, last = (ord(letter) for letter in letters.groups() if letter)
        return [chr(c) for c in range(first, last + 1)] or [chr(c) for c in range(first, last - 1, -1)]
    found = _RANGE.fullmatch(text)
    if found is None:
        return None
    first, last, step = int(found[1]), int(found[2]), abs(int(found[3] or 1)) or 1
    if abs(last - first) // step >= MOST_NAMES:
        raise _too_many(name)
    padded = any(re.match(r"-?0\d", end) for end in found.groups()[:2])
    width = max(len(found[1]), len(found[2])) if padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [f"{number:0{width}d}" for number in numbers]


def _too_many(name: str) -> UsageError:
    do = "name the folder, which is searched as a whole"
    return UsageError("a pattern stands for too many paths", where=name[:200], expected=f"at most {MOST_NAMES}", do=do)


def _matches(pattern: Path, failed: list[DataError]) -> list[Path]:
    """Like `glob.glob`, which passes over folders that it may not list without a word."""
    parts = pattern.parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), None)
    if first is None:
        return []
    found = _below(Path(*parts[:first]), parts[first:], failed, set())
    return sorted(dict.fromkeys(found), key=os.fspath)


def _below(
    folder: Path, parts: tuple[str, ...], failed: list[DataError], seen: set[tuple[Path, tuple[str, ...]]]
) -> Iterator[Path]:
    if not parts:
        if os.path.lexists(folder):
            yield folder
        return
    part, rest = parts[0], parts[1:]
    if not glob.has_magic(part):
        yield from _below(folder / part, rest, failed, seen)
        return
    if not folder.is_dir():
        return
    if part == "**":  # at its end a pattern means the folder, which is searched as a whole
        here = (folder.resolve(), parts)
        if here in seen:
            return
        seen.add(here)
        yield from _below(folder, rest, failed, seen)
    for entry in listing(folder, failed) if rest or part != "**" else ():
        if entry.name.startswith(".") and not part.startswith("."):
            continue
        if part == "**":
            if is_folder(entry):
                yield from _below(folder / entry.name, parts, failed, seen)
        elif fnmatch.fnmatchcase(entry.name, part) and (not rest or is_folder(entry)):
            yield from _below(folder / entry.name, rest, failed, seen)
