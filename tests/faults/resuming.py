"""Training runs killed and resumed until they are done, compared bit for bit with one that nobody disturbed.

This file is also a script (`stage.py`) that forks the runs.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from dying import Countdown, counted, disk_events, ended, fork, killed
from stage import serve
from tiny_run import bits_of, log_of, quiet, tiny, warm_up

from unimo import checkpoint
from unimo.objectives import objective as objectives
from unimo.train import loop as T
from unimo.train import run_folder

STEPS = 8
SETTINGS = (f"steps={STEPS}", "save_steps=1", "batch.images=2", "model.width=8")
AT_ONCE = 3  # steps in which a process is killed at the latest; with those of its start


def train(run, out: Path, countdown: Countdown | None = None) -> None:
    """Begins the run, or goes on with it; a step is an event, too."""
    if countdown is not None:
        step = objectives.step
        objectives.step = lambda *arguments: (countdown.event("step"), step(*arguments))[1]
    T.train(run, out, resume=(out / "settings.json").exists(), say=quiet)


class Runs:
    """Kills runs and compares what they become with one that nobody disturbed."""

    def __init__(self, folder: Path):
        T.matmul_rate = lambda *_: 1e9
        self.folder, self.world = folder, warm_up(folder)
        few = tiny(self.world, *SETTINGS, f"steps={AT_ONCE}")
        began = time.monotonic()
        self.events = counted(lambda countdown: train(few, folder / "few", countdown))
        self.seconds = time.monotonic() - began
        self.by_workers = [tiny(self.world, *SETTINGS, f"workers={workers}") for workers in (0, 1)]
        assert ended(fork(lambda: train(self.by_workers[0], folder / "calm"))) == 0
        self.calm = self._outcome(folder / "calm")

    def kill(self, kills: int, seed: int, clock: bool = False) -> dict:
        """Kills runs until `kills` are spent; one that gets to its end is compared, and the next one begins.

        clock: kill from outside after a drawn time, see `dying.killed`.
        """
        draw = random.Random(seed)
        done = compared = different = while_saving = 0
        resumed_from, places = set(), set()
        while done < kills or not compared:
            out = self.folder / f"{seed}-{compared}"
            place: str | None = "not yet"
            while place is not None:
                run = self.by_workers[done % 2]
                if done >= kills:  # nobody kills the last one any more
                    assert ended(fork(lambda: train(run, out))) == 0  # noqa: B023
                    break
                place = killed(lambda countdown: train(run, out, countdown), draw, self.events, clock * self.seconds)  # noqa: B023
                if place is not None:
                    done += 1
                    places.add(place)
                    saved = sorted((out / "checkpoints").glob("step-*"))
                    while_saving += any(".partial." in p.name or ".trash." in p.name for p in saved)
                    found = checkpoint.latest(out / "checkpoints", report=quiet)
                    resumed_from.add(found.name if found else "nothing")
            compared += 1
            different += self._outcome(out) != self.calm
        return {
            "kills": done, "while_saving": while_saving, "resumed_from": sorted(resumed_from),
            "places": sorted(places), "compared": compared, "different": different,
        }  # fmt: skip

    def second_signal(self) -> dict:
        """A second SIGTERM while the checkpoint is being written ends the process at once; nothing is lost."""
        run, out = tiny(self.world, *SETTINGS, "steps=3"), self.folder / "signals"

        def impatient(kind, path, *_):
            if kind == "write" and "step-00000002.partial" in path:
                os.kill(os.getpid(), signal.SIGTERM)  # the first is noticed after the save, the second ends it

        def impatiently():
            with disk_events(impatient):
                train(run, out)

        code = ended(fork(impatiently))
        left = checkpoint.latest(out / "checkpoints")
        assert ended(fork(lambda: train(run, out))) == 0
        steps = [record["step"] for record in run_folder.read_log(out / "log.jsonl")]
        return {"ended_by": -code, "left": left.name, "steps": steps}

    def _outcome(self, out: Path) -> tuple[list, dict[str, bytes]]:
        log = log_of(out)
        assert [record["step"] for record in log] == list(range(STEPS))
        return log, bits_of(checkpoint.latest(out / "checkpoints"))


if __name__ == "__main__":
    played = Runs(Path(sys.argv[1]))
    serve(lambda scene, *numbers: getattr(played, scene)(*numbers))
