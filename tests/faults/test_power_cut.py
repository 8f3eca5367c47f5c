"""Only what was flushed is sure to survive a power cut; the rest may be there, partly there or gone. Nothing is lost.

The harness must also lose data when a save does not flush: one that cannot fail proves nothing.
"""

import random
import shutil
from pathlib import Path

from saving import atomic_load, atomic_save, recorded


def after_power_cut(before: Path, log: list, target: Path, draw: random.Random) -> None:
    """A disk as a power cut may leave it after these calls, written to `target`.

    Folders hold names of numbered contents. Bytes of a file that were not flushed survive up to a random
    length, with zeros from a random point on. Each change of a name reaches the disk or not, independently of
    all others, unless its folder was flushed afterwards.
    """
    contents: list[list[bytes]] = []  # file number -> [bytes flushed, bytes written]
    root: dict[str, int] = {}  # name -> folder number, on the disk
    folders: list[dict[str, int]] = []  # folder number -> name -> file number, on the disk
    for folder in sorted(before.iterdir()):
        root[folder.name] = len(folders)
        folders.append({file.name: len(contents) + i for i, file in enumerate(sorted(folder.iterdir()))})
        contents += [[file.read_bytes()] * 2 for file in sorted(folder.iterdir())]
    seen_root, seen = dict(root), [dict(folder) for folder in folders]  # the same, as programs see it
    changes: list[list] = []  # [where, name that goes, name that comes, number, flushed]

    for kind, path, *rest in log:
        head, _, name = path.partition("/")
        inside = seen_root.get(head, -1)
        if kind == "os.mkdir":
            seen_root[head] = len(folders)
            changes.append([root, None, head, len(folders), False])
            folders.append({})
            seen.append({})
        elif kind == "open":
            seen[inside][name] = len(contents)
            changes.append([folders[inside], None, name, len(contents), False])
            contents.append([b"", b""])
        elif kind == "write":
            contents[seen[inside][name]][1] += rest[0]
        elif kind == "fsync" and name:
            contents[seen[inside][name]][0] = contents[seen[inside][name]][1]
        elif kind == "fsync":
            where = root if path == "." else folders[inside]
            for change in changes:
                change[4] |= change[0] is where
        elif kind == "os.rename":
            seen_root[rest[0]] = seen_root.pop(head)
            changes.append([root, head, rest[0], inside, False])
        else:
            assert kind in ("os.remove", "os.rmdir"), kind
            changes.append([folders[inside] if name else root, name or head, None, None, False])

    for where, goes, comes, number, flushed in changes:
        if flushed or draw.random() < 0.5:
            where.pop(goes, None)
            if comes:
                where[comes] = number
    target.mkdir()
    for folder_name, number in root.items():
        (target / folder_name).mkdir()
        for name, file in folders[number].items():
            flushed, written = contents[file]
            length = draw.randint(len(flushed), len(written))
            zeros = draw.randint(0, length - len(flushed))
            (target / folder_name / name).write_bytes(written[: length - zeros] + bytes(zeros))


def power_cuts(tmp_path: Path, states_per_prefix: int, flushed: bool = True) -> tuple[int, int, int]:
    """(states tried, states with neither old nor new, finished saves that were gone)"""
    before, during = tmp_path / "before", tmp_path / "during"
    for step in (1, 2):
        atomic_save(before, step, 10)
    shutil.copytree(before, during)
    log = recorded(during, lambda: atomic_save(during, 3, 10))
    log = [event for event in log if flushed or event[0] != "fsync"]
    draw = random.Random(0)
    tried = lost = forgotten = 0
    for cut in range(len(log) + 1):
        for _ in range(states_per_prefix):
            target = tmp_path / "after"
            after_power_cut(before, log[:cut], target, draw)
            found = atomic_load(target)
            tried += 1
            lost += found not in (2, 3)
            forgotten += cut == len(log) and found != 3
            shutil.rmtree(target)
    return tried, lost, forgotten


def test_a_power_cut_after_any_call_loses_nothing(tmp_path):
    tried, lost, forgotten = power_cuts(tmp_path, states_per_prefix=24)
    assert tried >= 500 and lost == 0 and forgotten == 0


def test_the_power_cut_model_sees_what_flushing_is_for(tmp_path):
    assert power_cuts(tmp_path, states_per_prefix=10, flushed=False)[2] >= 1
