"""Two ways to save, ours and a naive one, and the harnesses that kill a process while it saves."""

from __future__ import annotations

import io
import mmap
import os
import random
import shutil
import time
from pathlib import Path

import torch
from dying import Countdown, counted, disk_events, ended, fork, killed

from unimo.checkpoint import latest, load, save
from unimo.disk import write_new

NAIVE = "last.pt"


def tensors_of(step: int, size: int) -> dict:
    return {
        "model": {"w": torch.full((size,), float(step))},
        "optimizer": {"w": torch.full((size,), -float(step))},
    }


def atomic_save(folder: Path, step: int, size: int) -> None:
    save(folder, step, tensors_of(step, size), {"step": step})


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


def naive_save(folder: Path, step: int, size: int) -> None:
    """What most training scripts do: write over the last file."""
    content = io.BytesIO()
    torch.save({"step": step, **tensors_of(step, size)}, content)
    (folder / NAIVE).unlink(missing_ok=True)
    write_new(folder / NAIVE, [content.getvalue()])


def naive_load(folder: Path) -> int | None:
    try:
        return torch.load(folder / NAIVE, weights_only=True)["step"]
    except Exception:
        return None


def recorded(folder: Path, work) -> list[tuple]:
    """What `work` did to the disk: (kind, path, data or new path), paths relative to `folder`."""
    log: list[tuple] = []

    def note(kind, path, *details):
        details = [bytes(x) if kind == "write" else os.path.relpath(x, folder) for x in details[:1]]
        log.append((kind, os.path.relpath(path, folder), *details))

    with disk_events(note):
        work()
    return log


SAVERS = {"atomic": (atomic_save, atomic_load), "naive": (naive_save, naive_load)}


def kill_savers(saver: str, folder: Path, kills: int, seed: int, clock: bool = False, size: int = 20_000) -> dict:
    """Kills one process after the other that saves again and again into the same folder, litter and all.

    clock: kill from outside after a drawn time, see `dying.killed`. lost: how often less was there afterwards than had
    been finished. places: kinds of events at which they died.
    """
    save_step, load_step = SAVERS[saver]
    draw, finished = random.Random(seed), mmap.mmap(-1, 8)
    lost, litter, steps, places = 0, 0, [], set()

    def saves(first: int, last: int) -> None:
        for step in range(first, last):
            save_step(folder, step, size)
            finished[:] = step.to_bytes(8, "little")

    began = time.monotonic()
    events = counted(lambda _: saves(0, 5))  # of which the later ones also remove an older one
    seconds = clock * (time.monotonic() - began)
    for _ in range(kills):
        before = load_step(folder) or 0
        finished[:] = before.to_bytes(8, "little")
        places.add(killed(lambda _: saves(before + 1, before + 1000), draw, events, seconds))  # noqa: B023
        sure, found = int.from_bytes(finished[:], "little"), load_step(folder)
        steps.append(sure)
        lost += found is None or found < sure
        if found is None:
            break  # the naive one has shown what it does
        litter += any(".partial." in path.name or ".trash." in path.name for path in folder.iterdir())
    return {"kills": len(steps), "lost": lost, "cut_within_a_save": litter, "last_step": steps[-1], "places": places}


def kill_at_every_event(saver: str, folder: Path) -> dict:
    """Dies at event 1, 2, ... of a save over older ones, until it lives or lost: neither old nor new is there."""
    save_step, load_step = SAVERS[saver]
    lost, dirty, point = 0, 0, 0
    survived = False
    while not survived and not lost:
        point += 1
        here = folder / str(point)
        here.mkdir()
        for step in (1, 2):
            save_step(here, step, 100)
        survived = ended(fork(lambda: (Countdown(point), save_step(here, 3, 100)))) == 0  # noqa: B023
        lost += load_step(here) not in ((3,) if survived else (2, 3))
        save_step(here, 4, 100)  # the next start goes on and cleans up by itself
        dirty += load_step(here) != 4 or len(list(here.iterdir())) > 2
        shutil.rmtree(here)
    return {"points": point - 1, "lost": lost, "dirty": dirty}
