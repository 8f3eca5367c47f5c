"""Fine-tuning: a task is trained, and the weights with the best dev score are scored.

The folder of a fine-tuned run is that of any run, with `best` (the weights with the best score on the dev split),
`evaluation.json`, and one `predictions-SPLIT.jsonl` per split. `unimo.load` opens it.
"""

from __future__ import annotations

from pathlib import Path

from unimo import distributed
from unimo.finetune.job import Task
from unimo.finetune.scoring import Scored, score_task
from unimo.finetune.settings import Finetuning
from unimo.inference.model import load
from unimo.train.job import Say
from unimo.train.loop import train


def finetune(
    run: Finetuning,
    out: str | Path,
    *,
    resume: bool = False,
    say: Say = print,
    batch_size: int | None = None,
    zero_shot: bool = False,
) -> Scored:
    """Fine-tunes in folder `out` and scores what came of it.

    batch_size: rows that share a forward pass when scored, 32 if not given; with 1 no bit of an answer depends on
    another row. zero_shot: the model it started from is scored too, where it can answer untrained (see `score_task`).
    Raises what `unimo.train.loop.train` raises.
    """
    out, job = Path(out), Task(run)
    train(job, out, resume=resume, say=say)
    if distributed.rank() != 0:
        return Scored({}, {})
    before = None
    if zero_shot and run.kind == "retrieval" and run.init_from is not None:
        before = load(run.init_from, precision="fp32")
    return score_task(job, load(out, precision="fp32"), out, before=before, say=say, batch_size=batch_size)
