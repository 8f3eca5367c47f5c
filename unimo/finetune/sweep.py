"""A sweep: every combination of a grid of settings with several seeds, chosen on dev.

    runs/sweep/optimizer.lr=1e-4,seed=1/ ...     each a whole fine-tuning run
    runs/sweep/summary.json, summary.md          mean and spread over seeds; chosen: the best mean on dev, of equal
                                                 means the lower loss

Started again, finished runs are left alone, if they were made with the same settings, and the interrupted one goes on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from unimo.config import override, to_dict
from unimo.disk import write_atomic
from unimo.errors import UsageError
from unimo.finetune.finetune import finetune
from unimo.finetune.finished import finish, finished
from unimo.finetune.settings import Finetuning
from unimo.formatting import markdown_table
from unimo.json_files import write_json
from unimo.train.provenance import call_facts
from unimo.train.run_folder import read_log

# What decided most in small models: rates, their fall with depth, poolers, Muon's view of Q, K, V, averaged weights.
GRID = ("optimizer.lr=1e-4,3e-4,1e-3", "optimizer.layer_decay=1,0.8")
FRESH_POOLER, SPLIT_QKV, EMA = "read.fresh_pooler=false,true", "optimizer.split_qkv=false,true", "ema_decay=0,0.999"

DEV_LOSS = "dev loss"
COLUMNS = ("dev", "test", DEV_LOSS)


def default_grid(run: Finetuning) -> tuple[str, ...]:
    """The grid of a sweep that names none, without settings that a run does not heed."""
    poolers = (FRESH_POOLER,) if run.kind in ("classification", "regression") and run.init_from is not None else ()
    muon = (SPLIT_QKV,) if run.optimizer.matrix_optimizer == "muon" else ()
    return (*GRID, *poolers, *muon, EMA)


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

    grid: texts such as "optimizer.lr=1e-5,3e-5"; empty: no setting varies. The chosen combination is that with the
    highest mean on dev, of equals that with the lowest loss there; its mean on test stands beside it and had no say.
    batch_size: see `finetune`. UsageError where `out` holds a finished run of other settings.
    """
    out = Path(out)
    if seeds < 1:
        raise UsageError("a sweep needs a seed", where="--seeds", got=seeds, expected="1 or more")
    combinations = list(itertools.product(*map(parse, grid)))
    runs = [override(run, combination) for combination in combinations]  # a wrong setting is refused before any run
    if len(combinations) > 1 and not run.data.dev:
        raise UsageError("nothing to choose by", where="data.dev", do="--dev FILE: the split that chooses")
    rows = []
    for combination, changed in zip(combinations, runs):
        scores = []
        for seed in range(1, seeds + 1):
            name = ",".join([*combination, f"seed={seed}"])
            say(f"---- {name}")
            scores.append(_score(override(changed, [f"seed={seed}"]), out / name.replace("/", "_"), say, batch_size))
        rows.append({"settings": list(combination), "seeds": seeds, **_summary(scores)})
    best = max((row for row in rows if "dev" in row), key=_rank, default=None)
    facts = {**call_facts(), "started from": run.init_from or "random weights"}
    summary = {"task": run.task, "chosen by": list(run.metrics[:1]), "facts": facts, "runs": rows, "best on dev": best}
    write_json(out / "summary.json", summary)
    lines = table(rows, best)
    write_atomic(out / "summary.md", ("\n".join(lines) + "\n").encode())
    say("\n".join([*lines, f"{out / 'summary.json'}  {out / 'summary.md'}"]))
    return summary


def _rank(row: dict[str, Any]) -> tuple[float, float]:
    """Larger is better. Scores may all be 0 (BLEU-4 after few steps) where losses tell the settings apart."""
    return row["dev"]["mean"], -row[DEV_LOSS]["mean"] if DEV_LOSS in row else 0.0


def parse(text: str) -> list[str]:
    """ "key=a,b" -> ["key=a", "key=b"]."""
    key, equals, values = (part.strip() for part in text.partition("="))
    found = [value.strip() for value in values.split(",") if value.strip()]
    if not key or not equals or not found:
        raise UsageError("a grid must read key=value,value", got=text, expected="optimizer.lr=1e-5,3e-5")
    return [f"{key}={value}" for value in dict.fromkeys(found)]


def table(rows: Sequence[dict[str, Any]], best: dict[str, Any] | None) -> list[str]:
    """A Markdown table, one line a combination: mean ± spread over seeds; the chosen one is marked."""
    keys = [text.partition("=")[0] for text in rows[0]["settings"]]
    splits = [split for split in COLUMNS if any(split in row for row in rows)]
    cells = []
    for row in rows:
        values = [text.partition("=")[2] for text in row["settings"]]
        scores = [f"{row[s]['mean']:.4f} ± {row[s]['spread']:.4f}" if s in row else "–" for s in splits]
        cells.append([*values, *scores, "**chosen**" if row is best else ""])
    return markdown_table([*keys, *splits, "chosen"], *cells)


def _score(run: Finetuning, folder: Path, say: Callable[[str], None], batch_size: int | None) -> dict[str, float]:
    """The selection scores of one run, made or found, and its loss on dev."""
    wanted = to_dict(run)
    found = finished(folder, wanted)
    if found is None:
        resume = (folder / "settings.json").is_file()
        found = dict(finetune(run, folder, resume=resume, say=say, batch_size=batch_size).selection)
        if found:
            if dev := [(row["dev"], -row["dev_loss"]) for row in read_log(folder / "log.jsonl") if "dev" in row]:
                found[DEV_LOSS] = -max(dev)[1]  # of the checkpoint that was chosen
            finish(folder, wanted, found)
    return found


def _summary(scores: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Of every split, and of the loss: mean, spread (standard deviation over seeds, 0 for one), and each."""
    found: dict[str, Any] = {}
    for split in COLUMNS:
        values = [one[split] for one in scores if math.isfinite(one.get(split, math.nan))]
        if values:
            spread = stdev(values) if len(values) > 1 else 0.0
            found[split] = {"mean": mean(values), "spread": spread, "each": values}
    return found
