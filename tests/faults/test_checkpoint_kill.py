"""Kill a saver anywhere: what it had finished is there afterwards, whole.

Three harnesses of growing strictness. Each must also lose data when the save is a naive one: a harness that
cannot fail proves nothing.

    random kills    SIGKILL at random instants of a process that saves in a loop
    every call      the process dies at its n-th call to the disk, for every n; a write dies half-way
    power cut       only what was flushed is sure to survive; the rest may be there, partly there or gone

The first two run in a process of their own (this file as a script) that imports torch once and forks victims.
"""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unimo.checkpoint import Disk, latest, load, save
from unimo.errors import UnimoError

CALLS = ("make", "create", "write", "sync", "sync_folder", "rename", "remove")
NAIVE = "last.pt"


def tensors_of(step: int, size: int) -> dict:
    return {
        "model": {"w": torch.full((size,), float(step))},
        "optimizer": {"w": torch.full((size,), -float(step))},
    }


def atomic_save(folder: Path, step: int, size: int, disk: Disk | None = None) -> None:
    save(folder, step, tensors_of(step, size), {"step": step}, disk=disk)


def atomic_load(folder: Path) -> int | None:
    """The step of what a new process would resume from, after checking every number; None: nothing there."""
    path = latest(folder, report=lambda reason: None)
    if path is None:
        return None
    found = load(path)
    wanted = tensors_of(found.step, found.tensors["model"]["w"].numel())
    assert all(torch.equal(found.tensors[group]["w"], wanted[group]["w"]) for group in wanted)
    assert found.state == {"step": found.step}
    return found.step


def naive_save(folder: Path, step: int, size: int, disk: Disk | None = None) -> None:
    """What most training scripts do: write over the last file."""
    disk = disk or Disk()
    with contextlib.suppress(FileNotFoundError):
        disk.remove(folder / NAIVE)
    with disk.create(folder / NAIVE) as file:
        torch.save({"step": step, **tensors_of(step, size)}, _Through(disk, file))
        disk.sync(file)


class _Through:
    """A file object that writes through the counted calls."""

    def __init__(self, disk, file):
        self.write, self.flush = (lambda data: disk.write(file, data)), file.flush


def naive_load(folder: Path) -> int | None:
    try:
        return torch.load(folder / NAIVE, weights_only=True)["step"]
    except Exception:
        return None


SAVERS = {"atomic": (atomic_save, atomic_load), "naive": (naive_save, naive_load)}


# ---------------------------------------------------------------------------------------------- the victims


def fork(work) -> int:
    """Runs `work` in a child that never returns into the caller's code; returns its process id."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"victim failed: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return child


def kill_at_random(saver: str, folder: Path, kills: int, seed: int) -> dict:
    """Kills a saving process again and again. lost: how often less was there than it had reported saved."""
    save_step, load_step = SAVERS[saver]
    draw = random.Random(seed)
    lost, litter, steps = 0, 0, []
    save_step(folder, 0, 200_000)
    for _ in range(kills):
        before = load_step(folder) or 0
        reader, writer = os.pipe()

        def victim(first=before + 1, out=writer):
            for step in range(first, first + 1000):
                save_step(folder, step, 200_000)
                os.write(out, step.to_bytes(8, "little"))

        child = fork(victim)
        os.close(writer)
        time.sleep(draw.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as reports:
            reported = reports.read()
        sure = int.from_bytes(reported[-8:], "little") if reported else before
        found = load_step(folder)
        steps.append(sure)
        lost += found is None or found < sure
        if found is None:
            break  # the naive one has shown what it does
        litter += any(".partial." in path.name or ".trash." in path.name for path in folder.iterdir())
    return {"kills": len(steps), "lost": lost, "cut_within_a_save": litter, "last_step": steps[-1]}


class DyingDisk(Disk):
    """Ends the process at the n-th call; half of a write is done before."""

    def __init__(self, at: int):
        self.left = at

    def _count(self):
        self.left -= 1
        return self.left == 0

    def write(self, file, data):
        if self._count():
            super().write(file, data[: len(data) // 2])
            os._exit(9)
        return super().write(file, data)


def _dying(name):
    def call(self, *arguments):
        if self._count():
            os._exit(9)
        return getattr(Disk, name)(self, *arguments)

    return call


for _name in set(CALLS) - {"write"}:
    setattr(DyingDisk, _name, _dying(_name))


def kill_at_every_call(saver: str, folder: Path) -> dict:
    """Dies at call 1, 2, ... of a save over older ones, until it lives. lost: neither old nor new."""
    save_step, load_step = SAVERS[saver]
    lost, dirty, point = 0, 0, 0
    survived = False
    while not survived:
        point += 1
        here = folder / str(point)
        here.mkdir()
        for step in (1, 2):
            save_step(here, step, 100)
        child = fork(lambda: save_step(here, 3, 100, DyingDisk(point)))  # noqa: B023
        survived = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        lost += load_step(here) not in ((3,) if survived else (2, 3))
        save_step(here, 4, 100)  # the next start goes on and cleans up by itself
        dirty += load_step(here) != 4 or len(list(here.iterdir())) > 2
        shutil.rmtree(here)
    return {"points": point - 1, "lost": lost, "dirty": dirty}


def in_own_process(*arguments: object) -> dict:
    command = [sys.executable, __file__, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "victim failed" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def test_sixty_kills_at_random_instants_lose_nothing(tmp_path):
    result = in_own_process("random", "atomic", tmp_path, 60, 0)
    assert result["kills"] == 60 and result["lost"] == 0, result
    assert result["cut_within_a_save"] >= 5, f"the kills hardly met a save: {result}"
    assert result["last_step"] >= 20, f"the victims hardly got to save: {result}"


def test_the_random_harness_sees_a_naive_overwrite_lose_data(tmp_path):
    result = in_own_process("random", "naive", tmp_path, 60, 0)
    assert result["lost"] >= 1, result


def test_a_kill_at_every_call_to_the_disk_loses_nothing(tmp_path):
    result = in_own_process("every", "atomic", tmp_path)
    assert result["points"] >= 20, result
    assert result["lost"] == 0 and result["dirty"] == 0, result


def test_the_every_call_harness_sees_a_naive_overwrite_lose_data(tmp_path):
    assert in_own_process("every", "naive", tmp_path)["lost"] >= 1


def test_the_calls_are_all_that_touches_the_disk():
    """Otherwise 'every call' would be a claim about the harness only."""
    assert set(CALLS) == {name for name in vars(Disk) if not name.startswith("_")} - {"free"}


# ---------------------------------------------------------------------------------------------- power cut


class RecordingDisk(Disk):
    """Keeps the list of what was done, by path relative to `root`."""

    def __init__(self, root: Path):
        self.root, self.log, self.paths = root, [], {}

    def _note(self, kind, *details):
        self.log.append((kind, *(str(d.relative_to(self.root)) if isinstance(d, Path) else d for d in details)))

    def make(self, folder):
        self._note("make", folder)
        super().make(folder)

    def create(self, path):
        self._note("create", path)
        file = super().create(path)
        self.paths[file] = path
        return file

    def write(self, file, data):
        self._note("write", self.paths[file], bytes(data))
        return super().write(file, data)

    def sync(self, file):
        self._note("sync", self.paths[file])
        super().sync(file)

    def sync_folder(self, folder):
        self._note("sync_folder", folder)
        super().sync_folder(folder)

    def rename(self, old, new):
        self._note("rename", old, new)
        super().rename(old, new)

    def remove(self, path):
        self._note("remove", path)
        super().remove(path)


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
        if kind == "make":
            seen_root[head] = len(folders)
            changes.append([root, None, head, len(folders), False])
            folders.append({})
            seen.append({})
        elif kind == "create":
            seen[inside][name] = len(contents)
            changes.append([folders[inside], None, name, len(contents), False])
            contents.append([b"", b""])
        elif kind == "write":
            contents[seen[inside][name]][1] += rest[0]
        elif kind == "sync":
            contents[seen[inside][name]][0] = contents[seen[inside][name]][1]
        elif kind == "sync_folder":
            where = root if path == "." else folders[inside]
            for change in changes:
                change[4] |= change[0] is where
        elif kind == "rename":
            seen_root[rest[0]] = seen_root.pop(head)
            changes.append([root, head, rest[0], inside, False])
        elif kind == "remove":
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


def power_cuts(tmp_path: Path, durable: bool, states_per_prefix: int) -> tuple[int, int, int]:
    """(states tried, states with neither old nor new, finished saves that were gone)"""
    before, during = tmp_path / "before", tmp_path / "during"
    for step in (1, 2):
        atomic_save(before, step, 10)
    shutil.copytree(before, during)
    disk = RecordingDisk(during)
    save(during, 3, tensors_of(3, 10), {"step": 3}, durable=durable, disk=disk)
    draw = random.Random(0)
    tried = lost = forgotten = 0
    for cut in range(len(disk.log) + 1):
        finished = cut == len(disk.log)
        for _ in range(states_per_prefix):
            target = tmp_path / "after"
            after_power_cut(before, disk.log[:cut], target, draw)
            found = atomic_load(target)
            tried += 1
            lost += found not in (2, 3)
            forgotten += finished and found != 3
            shutil.rmtree(target)
    return tried, lost, forgotten


def test_a_power_cut_after_any_call_loses_nothing(tmp_path):
    tried, lost, forgotten = power_cuts(tmp_path, durable=True, states_per_prefix=20)
    assert tried >= 500 and lost == 0 and forgotten == 0


def test_the_power_cut_model_sees_what_flushing_is_for(tmp_path):
    assert power_cuts(tmp_path, durable=False, states_per_prefix=10)[2] >= 1


# ---------------------------------------------------------------------------------------------- going on


def test_an_interrupt_in_the_middle_of_a_save_leaves_no_litter(tmp_path):
    class Interrupted(Disk):
        def sync(self, file):
            raise KeyboardInterrupt

    atomic_save(tmp_path, 1, 10)
    with pytest.raises(KeyboardInterrupt):
        atomic_save(tmp_path, 2, 10, Interrupted())
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_failing_saves_can_be_retried_until_there_is_room(tmp_path):
    class Full(Disk):
        def sync(self, file):
            raise OSError(errno.ENOSPC, "No space left on device")

    atomic_save(tmp_path, 1, 10)
    for _ in range(3):
        with pytest.raises(UnimoError, match="disk full"):
            atomic_save(tmp_path, 2, 10, Full())
    atomic_save(tmp_path, 2, 10)
    assert atomic_load(tmp_path) == 2


if __name__ == "__main__":
    torch.set_num_threads(1)
    harness, saver, folder, *numbers = sys.argv[1:]
    run = {"random": kill_at_random, "every": kill_at_every_call}[harness]
    print(json.dumps(run(saver, Path(folder), *map(int, numbers))))
