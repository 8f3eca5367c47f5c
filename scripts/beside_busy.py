"""How much of its quiet rate a run keeps beside busy processes: results/beside-busy.json.

    python scripts/beside_busy.py --out results/beside-busy.json
    python scripts/beside_busy.py scenes "photos --pairs PAIRS" "pytest -q -n 2 tests/model"

Steps of `unimo pretrain` in so many seconds (of pytest: seconds of the whole), quiet and beside, in turns and in both
orders; one short run comes first. For a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unimo.machine import describe_machine
from unimo.speed.turns import measured
from unimo.train.provenance import commit

# Minutes in place of steps leave `unimo-scenes` no order of its objectives: all of them at once.
RECIPES = ["scenes", "unimo-scenes --set objectives.mlm.alone_until=0 --set objectives.rewriting.begins=0"]
ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but compute, of this one's session: schedulers share by session first."""
    command = [sys.executable, "-c", "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"]
    running = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def rate(what: str, seconds: float, out: Path) -> float:
    """Steps a second of a pre-training run, or 1 / seconds of pytest."""
    if what.startswith("pytest"):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", *shlex.split(what)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return 1 / (time.perf_counter() - began)
    shutil.rmtree(out, ignore_errors=True)
    options = ["--minutes", str(seconds / 60), "--no-evaluate", "--log", "none", "--out", str(out)]
    command = [sys.executable, "-m", "unimo", "pretrain", *shlex.split(what), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    log = (out / "log.jsonl").read_text().splitlines()
    return len(log) / json.loads(log[-1])["seconds"]


def kept(what: str, given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """A score: the rate beside busy processes, of the quiet one."""
    rate(what, 1, out)
    rates: dict[int, list[float]] = {0: [], given.beside: []}
    for i in range(given.rounds):
        for processes in rates if i % 2 == 0 else reversed(list(rates)):
            with busy(processes):
                rates[processes].append(rate(what, given.seconds, out))
    quiet, loud = rates.values()
    each = ", ".join(f"{a:.3g} and {b:.3g}" for a, b in zip(quiet, loud))
    name = what if what.startswith("pytest") else what.split()[0]  # paths of data are this machine's own
    return {
        "task": "Beside busy processes",
        "metric": f"fraction of the quiet rate, {name}",
        "score": measured([b / a for a, b in zip(quiet, loud)], 3),
        "note": f"a second, quiet and beside, round by round: {each}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", default=RECIPES, help="recipes with options, or pytest")
    parser.add_argument("--beside", type=int, default=2, help="busy processes")
    parser.add_argument("--seconds", type=float, default=75, help="of a run")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out")
    given = parser.parse_args()
    scores = []
    with tempfile.TemporaryDirectory() as work:
        for what in given.what:
            scores.append(kept(what, given, Path(work) / "run"))
            print(json.dumps(scores[-1]), flush=True)
    machine = ", ".join(f"{name} {value}" for name, value in describe_machine().items())
    options = f"--beside {given.beside} --seconds {given.seconds:g} --rounds {given.rounds}"
    facts = {"command": f"python scripts/beside_busy.py {options}", "commit": commit(), "seed": 0, "machine": machine}
    if given.out:
        found = {"title": "Training beside busy processes", "facts": facts, "scores": scores}
        Path(given.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
