"""Several runs of one task: seeds, and every combination of a grid of settings, in folders of their own; one summary.

    runs/mine/optimizer.lr=1e-5,seed=1/ ...     each a whole fine-tuning run
    runs/mine/summary.json                        mean and spread over seeds, and what was best on dev

Started again, finished runs are left alone, if they were asked for the same, and the one that was interrupted goes on.
"""

from __future__ import annotations

import itertools
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from unimo.config import diff, override, to_dict
from unimo.errors import UsageError
from unimo.finetune.job import finetune
from unimo.finetune.settings import Finetuning
from unimo.json_files import load_json, write_json
from unimo.machine import describe_machine
from unimo.train.provenance import commit

DONE = "marks.json"
WANTED = "wanted.json"  # the settings a finished run was to have


def sweep(
    run: Finetuning,
    out: str | Path,
    *,
    seeds: int = 1,
    grid: Sequence[str] = (),
    say: Callable[[str], None] = print,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Fine-tunes every combination of the grid with every seed, from 1 on; returns what summary.json says.

    grid: texts such as "optimizer.lr=1e-5,3e-5". The best combination is that with the highest mean on dev; with it
    stands its mean on test, which had no say. batch_size: see `unimo.finetune.job.finetune`. UsageError where `out`
    holds a finished run of other settings.
    """
    out = Path(out)
    if seeds < 1:
        raise UsageError("a sweep needs a seed", where="--seeds", got=seeds, expected="1 or more")
    choices = [parse(text) for text in grid]
    rows: list[dict[str, Any]] = []
    for chosen in itertools.product(*choices):
        changed = override(run, chosen)
        marks: list[dict[str, float]] = []
        for seed in range(1, seeds + 1):
            name = ",".join([*chosen, f"seed={seed}"])
            say(f"---- {name}")
            marks.append(_one(override(changed, [f"seed={seed}"]), out / name.replace("/", "_"), say, batch_size))
        rows.append({"settings": list(chosen), "seeds": seeds, **_summary(marks)})
    scored = [row for row in rows if "dev" in row]
    best = max(scored, key=lambda row: row["dev"]["mean"], default=None)
    facts = {
        "command": shlex.join(sys.argv),
        "commit": commit() or "unknown (not a git checkout)",
        "started from": run.init_from or "random weights",
        "machine": ", ".join(f"{name} {value}" for name, value in describe_machine().items()),
    }
    summary = {"task": run.task, "chosen by": list(run.metrics[:1]), "facts": facts, "runs": rows, "best on dev": best}
    write_json(out / "summary.json", summary)
    for line in table(rows, best):
        say(line)
    say(str(out / "summary.json"))
    return summary


def parse(text: str) -> list[str]:
    """ "key=a,b" -> ["key=a", "key=b"]."""
    key, equals, values = (part.strip() for part in text.partition("="))
    found = [value.strip() for value in values.split(",") if value.strip()]
    if not key or not equals or not found:
        raise UsageError("a grid must read key=value,value", got=text, expected="optimizer.lr=1e-5,3e-5")
    return [f"{key}={value}" for value in dict.fromkeys(found)]


def table(rows: Sequence[dict[str, Any]], best: dict[str, Any] | None) -> list[str]:
    """One line a combination: mean ± spread of every split; the best on dev is marked."""
    lines = []
    for row in rows:
        marks = "  ".join(
            f"{split} {row[split]['mean']:.4f} ± {row[split]['spread']:.4f}"
            for split in ("dev", "test")
            if split in row
        )
        lines.append(f"{'*' if row is best else ' '} {' '.join(row['settings']) or 'as given'}: {marks}")
    return lines


def _one(run: Finetuning, folder: Path, say: Callable[[str], None], batch_size: int | None) -> dict[str, float]:
    """The marks of one run, made or found."""
    if (folder / DONE).is_file():
        changed = diff(load_json(folder / WANTED), run) if (folder / WANTED).is_file() else []
        if changed:
            raise UsageError(
                "a finished run was made with other settings",
                where=folder,
                got=", ".join(f"{key} was {old}, is {new}" for key, old, new in changed[:5]),
                expected="the settings of that run",
                do="choose another --out, or remove this folder",
            )
        return dict(load_json(folder / DONE))
    resume = (folder / "settings.json").is_file()
    marks = finetune(run, folder, resume=resume, say=say, batch_size=batch_size).marks
    if marks:
        write_json(folder / WANTED, to_dict(run))
        write_json(folder / DONE, marks)
    return marks


def _summary(marks: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Of every split: mean, spread (standard deviation over seeds, 0 for one), largest, and each."""
    found: dict[str, Any] = {}
    for split in ("dev", "test"):
        values = [one[split] for one in marks if split in one and math.isfinite(one[split])]
        if values:
            spread = stdev(values) if len(values) > 1 else 0.0
            found[split] = {"mean": mean(values), "spread": spread, "best": max(values), "each": values}
    return found
