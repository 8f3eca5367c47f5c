"""Kill a training run anywhere, start it again: every loss and every weight as if nothing had happened.

A process of its own (this file as a script) imports torch once and forks runs, each killed by SIGKILL after a
random time, until one gets to its end; then the log and the last checkpoint are compared with an undisturbed
run, bit for bit. The default campaign takes half a minute; a longer one:

    UNIMO_KILLS=2000 python -m pytest tests/faults/test_train_kill.py --timeout 0
    python tests/faults/test_train_kill.py FOLDER KILLS SEED
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_run import bits_of, log_of, quiet, tiny, warm_up, write_tiny_world

from unimo import checkpoint, runs
from unimo import train as T

SETTINGS = ("steps=16", "save_steps=1", "batch.images=2")
LATEST_KILL = 1.2  # seconds after the fork; a whole run takes a little longer


def start(run, out: Path) -> int:
    """Forks a process that begins the run, or goes on with it; returns its id. It never returns here."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            T.train(run, out, resume=(out / "settings.json").exists(), say=quiet)
            code = 0
        except BaseException as error:
            print(f"run failed: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return child


def campaign(folder: Path, kills: int, seed: int) -> dict:
    """Kills runs until `kills` are spent; one that gets to its end is compared, and the next one begins."""
    T.matmul_rate = lambda *_: 1e9
    world = warm_up(folder)
    draw = random.Random(seed)
    runs_by_workers = {workers: tiny(world, *SETTINGS, f"workers={workers}") for workers in (0, 1)}
    calm = folder / "calm"
    assert os.waitpid(start(runs_by_workers[0], calm), 0)[1] == 0
    expected_log, expected_bits = log_of(calm), bits_of(checkpoint.latest(calm / "checkpoints"))

    told = {"kills": 0, "while_saving": 0, "resumed_from": set(), "compared": 0, "different": 0, "failed": 0}
    while told["kills"] < kills or not told["compared"]:
        out = folder / f"run-{told['compared']}"
        while True:
            spare = told["kills"] >= kills
            child = start(runs_by_workers[told["kills"] % 2], out)
            if not spare:
                time.sleep(draw.uniform(0, LATEST_KILL))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFEXITED(status):
                told["failed"] += os.WEXITSTATUS(status) != 0
                break
            told["kills"] += 1
            saved = sorted((out / "checkpoints").glob("step-*")) if (out / "checkpoints").is_dir() else []
            told["while_saving"] += any(".partial." in p.name or ".trash." in p.name for p in saved)
            found = checkpoint.latest(out / "checkpoints", report=quiet)
            told["resumed_from"].add(found.name if found else "nothing")
        steps = [record["step"] for record in runs.read_log(out / "log.jsonl")]
        same = log_of(out) == expected_log and steps == list(range(16))
        same &= bits_of(checkpoint.latest(out / "checkpoints")) == expected_bits
        told["compared"] += 1
        told["different"] += not same
    return {**told, "resumed_from": len(told["resumed_from"])}


def second_signal(folder: Path) -> dict:
    """A second SIGTERM while the checkpoint is being written ends the process at once; nothing is lost."""
    T.matmul_rate = lambda *_: 1e9
    world = warm_up(folder)
    run = tiny(world, *SETTINGS, "steps=3")
    real = checkpoint.Disk.write

    def slow(disk, file, data):
        if "step-00000002.partial" in str(file.name):
            os.kill(os.getpid(), signal.SIGTERM)  # the first is noticed after the save, the second ends it
        return real(disk, file, data)

    checkpoint.Disk.write = slow
    status = os.waitpid(start(run, folder / "run"), 0)[1]
    checkpoint.Disk.write = real
    left = checkpoint.latest(folder / "run" / "checkpoints")
    assert os.waitpid(start(run, folder / "run"), 0)[1] == 0
    steps = [record["step"] for record in runs.read_log(folder / "run" / "log.jsonl")]
    return {
        "ended_by": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "left": left.name,
        "steps": steps,
    }


def as_script(*arguments) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_at_random_and_resumed_a_run_is_bit_identical(tmp_path):
    kills = int(os.environ.get("UNIMO_KILLS", "20"))
    told = as_script(tmp_path, kills, 0)
    print(told)
    assert told["kills"] >= kills and told["compared"] >= 1
    assert told["different"] == 0 and told["failed"] == 0
    assert told["resumed_from"] >= 4  # the kills fell into many different places, not into one


def test_a_second_signal_while_saving_ends_at_once_and_loses_nothing(tmp_path):
    told = as_script(tmp_path, "second-signal")
    assert told == {"ended_by": signal.SIGTERM, "left": "step-00000001", "steps": [0, 1, 2]}


def test_the_comparison_can_fail(tmp_path):
    """A run of another seed must count as different, or the campaign proves nothing."""
    world = write_tiny_world(tmp_path / "world")
    for seed in (0, 1):
        T.train(tiny(world, "steps=2", f"seed={seed}"), tmp_path / str(seed), say=quiet)
    ends = [bits_of(checkpoint.latest(tmp_path / str(seed) / "checkpoints")) for seed in (0, 1)]
    assert ends[0] != ends[1] and log_of(tmp_path / "0") != log_of(tmp_path / "1")


if __name__ == "__main__":
    if sys.argv[2] == "second-signal":
        print(json.dumps(second_signal(Path(sys.argv[1]))))
    else:
        print(json.dumps(campaign(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
