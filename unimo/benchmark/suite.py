"""The benchmark suite: one model fine-tuned and scored for every task of a plan, and its zero-shot scores repeated.

    DIR/pretrained        abilities of the model itself
    DIR/TASK              one fine-tuned run each: its scores, examples, the same abilities again and what was forgotten
    DIR/TASK-random       the same task from random weights
    DIR/benchmark.json    the table, written anew after every task
    DIR/benchmark.html    its page, with the examples that each DIR/TASK/examples.json holds

A task and its partner from random weights are compared under equal rules: the same number of steps, fixed before
either begins, the same whole schedule (nothing stops early), the same rows and the same way to choose a checkpoint.
Steps stand in the plan (`"set": ["steps=600"]`), or are those that the task's share of the time allows.

Started again, what is finished is left alone. Time is shared out among what is left to do; what was not begun is named.
"""

from __future__ import annotations

import itertools
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from unimo import distributed, inference
from unimo.benchmark.forgetting import forgotten, write_before
from unimo.benchmark.plan import RANDOM, SEED, Entry, Plan, check_plan, read_plan
from unimo.benchmark.scenes_plan import scenes_plan
from unimo.benchmark.table import PRETRAINED, in_order, page, task_rows, untrained_rows
from unimo.config import from_dict, override, to_dict
from unimo.corpus.text import split_lines
from unimo.errors import UsageError
from unimo.evaluation import report
from unimo.evaluation.evaluate import EvaluationData, evaluate
from unimo.evaluation.zero_shot.scenes import find_world
from unimo.finetune.job import Task, finetune, prepared
from unimo.finetune.qualitative_examples import FILE as EXAMPLES
from unimo.finetune.qualitative_examples import report_examples
from unimo.finetune.settings import Finetuning
from unimo.finetune.task_type import BATCH_SIZE
from unimo.json_files import load_json, parse_json, write_json
from unimo.machine import describe_machine
from unimo.recipes.finetuning import TUNINGS, find_tuning, is_small, ours
from unimo.train.loop import train
from unimo.train.provenance import commit, weights_hash
from unimo.train.run_folder import read_log

Row = dict[str, Any]
Say = Callable[[str], None]
DONE = "done.json"
ABILITIES = "abilities"  # folder of what a fine-tuned model can still do
FORGOTTEN = "forgetting.json"  # in there: what it can less than before
SUMS = "sums.json"  # beside the abilities of the model itself: what each item adds to its scores
MARKING = 20.0  # seconds that scoring a task is expected to take, until one was scored
TIMED = 8  # steps by which the length of all is judged
LEAST = 0.05  # minutes of training, however little time is left for a task that is begun


@dataclass(frozen=True)
class Job:
    """A task of the plan, from the model or from random weights. seed: counted from 1."""

    entry: Entry
    random: bool = False
    seed: int = 1

    @property
    def folder(self) -> str:
        later = f"{SEED}{self.seed}" if self.seed > 1 else ""
        return self.entry.called + (RANDOM if self.random else "") + later


def run_suite(
    model: str | Path,
    plan: str | Path | Plan,
    out: str | Path,
    *,
    minutes: float = 15.0,
    random: bool = False,
    seeds: int = 1,
    assignments: Sequence[str] = (),
    batch_size: int | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Fine-tunes for and scores all tasks of a plan in folder `out`; returns what benchmark.json says.

    plan: a JSON file (`unimo.benchmark.plan`), "scenes" for a run that was trained on the generated world, or a `Plan`.
    minutes: of the whole call; nothing is begun that would not end in time. random: every task from random weights
    too. seeds: fine-tuning seeds of a task whose first is not better than its partner's. assignments: key=value,
    settings of every task. batch_size: rows that share a pass when scored. Raises what reading, training and scoring
    raise; what was finished before stays.
    """
    began, out = time.monotonic(), Path(out)
    if distributed.start()[1] > 1:
        raise UsageError("one process at a time", where="torchrun", do="start it without torchrun")
    if not 0 < minutes < math.inf:
        raise UsageError("no time", where="--minutes", got=minutes, expected="above 0")
    if seeds < 1 or (seeds > 1 and not random):
        expected = "1, or more with --random"
        raise UsageError("seeds are for tasks beside their partners", where="--seeds", got=seeds, expected=expected)
    pipeline = inference.load(model, precision="fp32")
    facts = pipeline.facts
    weights = "ema.safetensors" if facts.get("ema") else "model.safetensors"
    start = weights_hash(Path(facts["path"]), weights)
    settings = facts.get("settings") or {}
    plan = _opened(plan, settings.get("data", {}), out)
    jobs = [Job(entry) for entry in plan.entries]
    jobs += [Job(entry, True) for entry in plan.entries if random]
    for job in jobs:
        _run(job, str(model), assignments)  # a misspelt setting is told now

    def left() -> float:
        return 60 * minutes - (time.monotonic() - began)

    def told(not_begun: Sequence[str]) -> dict[str, Any]:
        spent = (time.monotonic() - began) / 60
        whole = _whole(plan, out, random, not_begun)
        whole["title"] = f"{Path(model).resolve().name}: benchmark suite"
        whole["facts"] = {
            **_facts(pipeline, start, weights),
            "rows in a pass": str(batch_size or BATCH_SIZE),
            "minutes": f"{spent:.1f} of {minutes:g} in this call",
        }
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "benchmark.json", whole)
        report.render({**page(whole), "examples": _examples(whole, out)}, out / "benchmark.html")
        return whole

    not_begun: list[str] = []
    before: Row = {"start": start, "abilities": dict(plan.abilities)}
    if plan.abilities and not (_finished(out / PRETRAINED, before) and (out / PRETRAINED / SUMS).is_file()):
        write_before(out / PRETRAINED / SUMS, _abilities(model, plan, out / PRETRAINED))
        write_json(out / PRETRAINED / DONE, before)
        say(f"abilities of {model}: {out / PRETRAINED / 'report.html'}")
    marking = 0.0  # seconds of a job that were not training, the most so far
    for seed in range(1, seeds + 1):
        todo = []
        for job in (replace(job, seed=seed) for job in jobs):
            what = _asked(job, start, assignments)
            if seed > 1 and _verdict(job.entry, out) == "better":
                continue
            if _finished(out / job.folder, what):
                say(f"---- {job.folder}: finished before")
            else:
                todo.append((job, what))
        later = (seeds - seed) * sum(job.entry.share for job in jobs)
        for i, (job, what) in enumerate(todo):
            overhead, remaining = marking or MARKING, left()
            shares = sum(other.entry.share for other, _ in todo[i:]) + later
            count = len(todo) - i + (seeds - seed) * len(jobs)
            share = (remaining - overhead * count) / 60 * job.entry.share / shares
            run, seconds = _of_length(_run(job, str(model), assignments), job, max(LEAST, share), out)
            if run is None or remaining <= overhead + seconds:
                not_begun.append(job.folder)
                say(f"---- {job.folder}: not begun, it would not end within {minutes:g} minutes")
                continue
            say(f"---- {job.folder}: {f'{run.steps:,} steps' if run.steps else f'{run.epochs:g} epochs'}")
            clock, folder = time.monotonic(), out / job.folder
            resume = (folder / "settings.json").is_file()
            first = not job.random and job.seed == 1
            finetune(run, folder, resume=resume, say=say, batch_size=batch_size, zero_shot=first)
            if plan.abilities and first:
                again = _abilities(folder, plan, folder / ABILITIES)
                write_json(folder / ABILITIES / FORGOTTEN, forgotten(out / PRETRAINED / SUMS, again))
            write_json(folder / DONE, what)
            marking = max(marking, time.monotonic() - clock - _made(folder)[1])
            told(not_begun)
    whole = told(not_begun)
    say(report.tables_text(page(whole)))
    say(f"{out / 'benchmark.json'}  {out / 'benchmark.html'}")
    return whole


# ---- what is done


def _opened(plan: str | Path | Plan, trained: dict[str, Any], out: Path) -> Plan:
    where = "plan"
    if plan == "scenes":
        paths = [path for kind in ("pairs", "images", "texts") for path in trained.get(kind, ())]
        world = find_world(paths)
        if world is None:
            what, do = "the run was not trained on the generated world", "--plan plan.json"
            raise UsageError(what, where="--plan scenes", got=", ".join(paths) or "no data", do=do)
        (out / "data").mkdir(parents=True, exist_ok=True)
        plan = scenes_plan(world, out / "data", regions=trained.get("regions", ()))
    elif not isinstance(plan, Plan):
        where = str(plan)
        plan = read_plan(plan, TUNINGS)
    check_plan(plan, TUNINGS, where=where)
    from_dict(EvaluationData, plan.abilities, where="abilities")
    return plan


def _run(job: Job, model: str, assignments: Sequence[str]) -> Finetuning:
    """The fine-tuning of a job. Nothing stops it early; without steps or epochs in the plan the clock decides them."""
    entry = job.entry
    run = prepared(find_tuning(entry.task), None if job.random else model, model)
    if is_small(run):
        run = ours(run)
    data = replace(run.data, train=entry.train, dev=entry.dev, test=entry.test, images=entry.images)
    data = replace(data, regions=entry.regions, columns=entry.columns, reader=entry.reader or run.data.reader)
    run = replace(run, data=data, steps=None, epochs=None, minutes=None, patience=0)
    run = override(override(run, entry.set), assignments)
    if run.minutes is not None:
        what, do = "a comparison needs a number of steps", "steps=..., or leave the length to the share of the time"
        raise UsageError(what, where=f"{entry.called}, minutes", got=run.minutes, expected="none", do=do)
    return replace(run, seed=run.seed + job.seed - 1)


def _of_length(run: Finetuning, job: Job, minutes: float, out: Path) -> tuple[Finetuning | None, float]:
    """The run with its number of steps, and the seconds it will take where that is known.

    Those from the model with the first seed decide: all others of the task make as many; None where it was not made.
    """
    first = out / job.entry.called
    if job.random or job.seed > 1:
        if not (first / DONE).is_file():
            return None, 0.0
        steps, seconds = _made(first)
        return (run if run.steps or run.epochs else replace(run, steps=steps)), seconds
    if run.steps or run.epochs:
        return run, 0.0
    if (first / "settings.json").is_file():  # begun before: it goes on as it began
        return replace(run, steps=load_json(first / "settings.json")["steps"]), 0.0
    return replace(run, steps=steps_within(run, minutes)), 0.0  # what fits, fits


def steps_within(run: Finetuning, minutes: float) -> int:
    """How many steps of a run fit into so many minutes, by the median of a few; a tenth is left to the dev split."""
    data = replace(run.data, dev=(), test=())
    few = replace(run, data=data, steps=TIMED, minutes=None, epochs=None, log="none")
    with tempfile.TemporaryDirectory() as folder:
        train(Task(few), Path(folder) / "run", say=lambda _: None)
        seconds = [0.0, *(record["seconds"] for record in read_log(Path(folder) / "run/log.jsonl"))]
    each = median(after - before for before, after in pairwise(seconds))
    return max(1, int(0.9 * 60 * minutes / each))


def _made(folder: Path) -> tuple[int, float]:
    """Steps a run made and the seconds they took, from the last line of its log."""
    *_, last = split_lines((folder / "log.jsonl").read_text("utf-8"))
    record = parse_json(last, where=f"{folder / 'log.jsonl'}, last line")
    return record["step"] + 1, record["seconds"]


def _asked(job: Job, start: str, assignments: Sequence[str]) -> Row:
    """What must be the same for a finished task to be taken as it is."""
    what = {"start": start, "task": to_dict(job.entry), "random": job.random, "set": list(assignments)}
    return what if job.seed == 1 else {**what, "seed": job.seed}


def _finished(folder: Path, asked: Row) -> bool:
    if not (folder / DONE).is_file():
        return False
    before = load_json(folder / DONE)
    if before != asked:
        other = [f"{key} {before.get(key)}" for key in asked if before.get(key) != asked[key]]
        raise UsageError(
            "this was done with other settings",
            where=folder,
            got="; ".join(other) or before,
            expected="; ".join(f"{key} {asked[key]}" for key in asked if before.get(key) != asked[key]),
            do="choose another --out, or remove the folder",
        )
    return True


def _abilities(model: str | Path, plan: Plan, out: Path) -> dict[str, Any]:
    """What a model can do besides, written to `out`/evaluation.json."""
    data = from_dict(EvaluationData, plan.abilities, where="abilities")
    out.mkdir(parents=True, exist_ok=True)
    return evaluate(model, out=out, data=data, precision="fp32", say=lambda _: None)


# ---- what came of it


def _facts(pipeline: inference.Pipeline, start: str, weights: str) -> dict[str, str]:
    return {
        "command": shlex.join(sys.argv),
        "commit": commit() or "unknown (not a git checkout)",
        "checkpoint": f"{pipeline.facts['path']}, step {pipeline.facts['step']}",
        "checkpoint hash": f"{start} ({weights})",
        "parameters": f"{sum(p.numel() for p in pipeline.model.parameters()):,}",
        "machine": ", ".join(f"{name} {value}" for name, value in describe_machine().items()),
    }


def _whole(plan: Plan, out: Path, random: bool, not_begun: Sequence[str]) -> dict[str, Any]:
    """The table of everything that is finished in `out`, whenever that was."""
    rows, differences, notes = [], [], []
    before = _report(out / PRETRAINED)["scores"]
    for entry in plan.entries:
        told = _report(out / entry.called)
        if not told["scores"]:
            continue
        rows += _rows(entry, out)
        lost = out / entry.called / ABILITIES / FORGOTTEN
        differences += [{"task": entry.called, **row} for row in (load_json(lost) if lost.is_file() else ())]
    if not plan.abilities:
        notes.append("no abilities in the plan: what fine-tuning made the model forget was not scored")
    jobs = [Job(entry) for entry in plan.entries] + [Job(entry, True) for entry in plan.entries if random]
    missing = [job.folder for job in jobs if not (out / job.folder / DONE).is_file()]
    if not_begun:
        notes.append(f"not begun, the time was over: {', '.join(not_begun)}")
    rows = in_order([*rows, *untrained_rows(before)])
    shown = {entry.called: f"{entry.called}/{EXAMPLES}" for entry in plan.entries if entry.called not in missing}
    shown = {name: path for name, path in shown.items() if (out / path).is_file()}
    return {"tasks": rows, "forgetting": differences, "examples": shown, "missing": missing, "notes": notes}


def _rows(entry: Entry, out: Path) -> list[Row]:
    """The rows of a task, over all seeds that are finished both from the model and from random weights."""
    own, random = [], []
    for seed in itertools.count(1):
        pair = [_report(out / Job(entry, of_random, seed).folder) for of_random in (False, True)]
        if not pair[0]["scores"] or (seed > 1 and not pair[1]["scores"]):
            break
        own.append(pair[0])
        random += [pair[1]["scores"]] if pair[1]["scores"] else []
    return task_rows(entry, [one["scores"] for one in own], random, own[0]["facts"] if own else {})


def _verdict(entry: Entry, out: Path) -> str | None:
    """What the task's first metric says of the model beside random weights; None where there is no partner yet."""
    rows = _rows(entry, out)
    return rows[0]["verdict"] if rows else None


def _examples(whole: Row, out: Path) -> list[Row]:
    """The examples of every finished task, for the page."""
    return [one for name, path in whole["examples"].items() for one in report_examples(name, load_json(out / path))]


def _report(folder: Path) -> dict[str, Any]:
    """Scores and facts of a finished part; none where it is not finished."""
    known = (folder / DONE).is_file() and (folder / "evaluation.json").is_file()
    return {"scores": [], "facts": {}, **(load_json(folder / "evaluation.json") if known else {})}
