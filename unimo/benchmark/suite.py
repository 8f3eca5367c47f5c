"""The benchmark suite: one model fine-tuned and scored for every task of a plan, and its zero-shot scores repeated.

    DIR/pretrained        abilities of the model itself
    DIR/TASK              one fine-tuned run each: its scores, examples, the same abilities again and what was forgotten
    DIR/TASK-random       the same task from random weights
    DIR/benchmark.json    the table, written anew after every task
    DIR/benchmark.html    its page, with the examples that each DIR/TASK/examples.json holds

A task and its partner from random weights are compared under equal rules: the same number of steps, fixed before
either begins, the same whole schedule (nothing stops early), the same rows and the same way to choose a checkpoint.
Steps stand in the plan (`"set": ["steps=600"]`), or are those that the task's part of the time allows.

Started again, what is finished is left alone. Time is divided among what is left to do; what was not begun is named.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from unimo import distributed
from unimo.benchmark.forgetting import forgotten, write_before
from unimo.benchmark.plan import RANDOM, SEED, Entry, Plan, check_plan, read_plan
from unimo.benchmark.scenes_plan import scenes_plan
from unimo.benchmark.table import PRETRAINED, in_order, page, task_rows, untrained_rows
from unimo.config import from_dict, override, to_dict
from unimo.errors import UsageError
from unimo.evaluation import report
from unimo.evaluation.evaluate import evaluate
from unimo.evaluation.item_sums import read_sums
from unimo.evaluation.plan import EvaluationData
from unimo.evaluation.zero_shot.scenes import find_world
from unimo.finetune.finetune import finetune
from unimo.finetune.finished import DONE, finish, finished
from unimo.finetune.job import Task
from unimo.finetune.qualitative_examples import FILE as EXAMPLES
from unimo.finetune.qualitative_examples import report_examples
from unimo.finetune.settings import Finetuning
from unimo.finetune.task_type import BATCH_SIZE
from unimo.inference.model import load
from unimo.json_files import load_json, write_json
from unimo.recipes.finetuning import TUNINGS, tuned
from unimo.train.loop import train
from unimo.train.provenance import call_facts, model_facts
from unimo.train.run_folder import read_log

Row = dict[str, Any]
Say = Callable[[str], None]
ABILITIES = "abilities"  # folder of what a fine-tuned model can still do
FORGOTTEN = "forgetting.json"  # in there: what it can less than before
SUMS = "sums.json"  # beside the abilities of the model itself: what each item adds to its scores
SCORING = 20.0  # seconds that scoring a task is expected to take, until one was scored
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

    def wanted(self, start: str, assignments: Sequence[str]) -> Row:
        """What must be the same for a finished run to be taken as it is. start: hash of the model."""
        what = {"start": start, "task": to_dict(self.entry), "random": self.random, "set": list(assignments)}
        return what if self.seed == 1 else {**what, "seed": self.seed}

    def settings(self, model: str, assignments: Sequence[str]) -> Finetuning:
        """Nothing stops the run early; without steps or epochs in the plan the clock decides them."""
        entry = self.entry
        data = {name: getattr(entry, name) for name in ("train", "dev", "test", "images", "regions", "columns")}
        source, own = "random" if self.random else model, ("steps=none", "epochs=none", "minutes=none", "patience=0")
        run = tuned(entry.task, source, like=model, data=data, reader=entry.reader, changes=own)
        run = override(override(run, entry.set), assignments)
        if run.minutes is not None:
            what, do = "a comparison needs a number of steps", "steps=..., or leave the length to the task's time"
            raise UsageError(what, where=f"{entry.called}, minutes", got=run.minutes, expected="none", do=do)
        return replace(run, seed=run.seed + self.seed - 1)


def run_suite(model: str | Path, plan: str | Path | Plan, out: str | Path, **options: Any) -> dict[str, Any]:
    """Fine-tunes for and scores all tasks of a plan in folder `out`; returns what benchmark.json says.

    plan: a JSON file (`unimo.benchmark.plan`), "scenes" for a run that was trained on the generated world, or a `Plan`.
    options: as of `Suite`. Raises what reading, training and scoring raise; what was finished before stays.
    """
    suite = Suite(str(model), Path(out), **options)
    suite.open(plan)
    suite.score_pretrained()
    for seed in range(1, suite.seeds + 1):
        suite.run_seed(seed)
    whole = suite.save()
    suite.say(report.tables_text(page(whole)))
    suite.say(f"{suite.out / 'benchmark.json'}  {suite.out / 'benchmark.html'}")
    return whole


@dataclass
class Suite:
    """One call of the suite.

    minutes: of the whole call; nothing is begun that would not end in time. random: every task from random weights
    too. seeds: fine-tuning seeds of a task whose first is not better than its partner's. assignments: key=value,
    settings of every task. batch_size: rows that share a pass when scored. scoring: seconds of a job that were not
    training, the most so far.
    """

    model: str
    out: Path
    minutes: float = 15.0
    random: bool = False
    seeds: int = 1
    assignments: Sequence[str] = ()
    batch_size: int | None = None
    say: Say = print
    began: float = field(default_factory=lambda: time.monotonic())
    scoring: float = 0.0
    not_begun: list[str] = field(default_factory=list)

    def open(self, plan: str | Path | Plan) -> None:
        """Refuses what can be refused before anything is trained."""
        if distributed.start()[1] > 1:
            raise UsageError("one process at a time", where="torchrun", do="start it without torchrun")
        if not 0 < self.minutes < math.inf:
            raise UsageError("no time", where="--minutes", got=self.minutes, expected="above 0")
        if self.seeds < 1 or (self.seeds > 1 and not self.random):
            what, expected = "seeds are for tasks beside their partners", "1, or more with --random"
            raise UsageError(what, where="--seeds", got=self.seeds, expected=expected)
        pipeline = load(self.model, precision="fp32")
        self.facts = call_facts() | model_facts(pipeline)
        self.start = self.facts["checkpoint hash"].partition(" ")[0]
        self.plan = _opened(plan, (pipeline.facts.get("settings") or {}).get("data", {}), self.out)
        partners = (False, True) if self.random else (False,)
        self.jobs = [Job(entry, random) for random in partners for entry in self.plan.entries]
        for job in self.jobs:
            job.settings(self.model, self.assignments)

    def score_pretrained(self) -> None:
        """The zero-shot scores of the model itself."""
        folder, wanted = self.out / PRETRAINED, {"start": self.start, "abilities": dict(self.plan.abilities)}
        if self.plan.abilities and (finished(folder, wanted) is None or not (folder / SUMS).is_file()):
            write_before(folder / SUMS, self._abilities(self.model, folder))
            finish(folder, wanted)
            self.say(f"abilities of {self.model}: {folder / 'report.html'}")

    def run_seed(self, seed: int) -> None:
        """All jobs with one seed, those that are finished or decided left out."""
        todo = []
        for job in (replace(job, seed=seed) for job in self.jobs):
            if seed > 1 and verdict_of(job.entry, self.out) == "better":
                continue
            if finished(self.out / job.folder, job.wanted(self.start, self.assignments)) is not None:
                self.say(f"---- {job.folder}: finished before")
            else:
                todo.append(job)
        for i, job in enumerate(todo):
            # Its part of the time that scoring everything leaves.
            weights = sum(other.entry.time_weight for other in todo[i:])
            weights += (self.seeds - seed) * sum(other.entry.time_weight for other in self.jobs)
            count = len(todo) - i + (self.seeds - seed) * len(self.jobs)
            seconds = (self._left() - self._scoring * count) * job.entry.time_weight / weights
            self._run(job, max(LEAST, seconds / 60))

    def _left(self) -> float:
        return 60 * self.minutes - (time.monotonic() - self.began)

    @property
    def _scoring(self) -> float:
        return self.scoring or SCORING

    def _run(self, job: Job, minutes: float) -> None:
        left, folder = self._left(), self.out / job.folder
        run, seconds = of_length(job.settings(self.model, self.assignments), job, minutes, self.out)
        if run is None or left <= self._scoring + seconds:
            self.not_begun.append(job.folder)
            self.say(f"---- {job.folder}: not begun, it would not end within {self.minutes:g} minutes")
            return
        self.say(f"---- {job.folder}: {f'{run.steps:,} steps' if run.steps else f'{run.epochs:g} epochs'}")
        clock, first = time.monotonic(), not job.random and job.seed == 1
        resume = (folder / "settings.json").is_file()
        finetune(run, folder, resume=resume, say=self.say, batch_size=self.batch_size, zero_shot=first)
        if self.plan.abilities and first:
            again = self._abilities(folder, folder / ABILITIES)
            write_json(folder / ABILITIES / FORGOTTEN, forgotten(self.out / PRETRAINED / SUMS, again))
        finish(folder, job.wanted(self.start, self.assignments))
        self.scoring = max(self.scoring, time.monotonic() - clock - length_of(folder)[1])
        self.save()

    def _abilities(self, model: str | Path, out: Path) -> dict[str, Any]:
        """The zero-shot scores of a model, written to `out`/evaluation.json."""
        data = replace(from_dict(EvaluationData, self.plan.abilities, where="abilities"), random_weights=False)
        out.mkdir(parents=True, exist_ok=True)
        return evaluate(model, out=out, data=data, precision="fp32", say=lambda _: None)

    def save(self) -> dict[str, Any]:
        """benchmark.json and benchmark.html of everything that is finished in `out`, whenever that was."""
        spent = (time.monotonic() - self.began) / 60
        done = [entry for entry in self.plan.entries if scores_of(self.out / entry.called)["scores"]]
        rows = [row for entry in done for row in rows_of(entry, self.out)]
        rows = in_order([*rows, *untrained_rows(scores_of(self.out / PRETRAINED)["scores"])])
        notes = []
        if not self.plan.abilities:
            notes.append("no abilities in the plan: what fine-tuning made the model forget was not scored")
        if self.not_begun:
            notes.append(f"not begun, the time was over: {', '.join(self.not_begun)}")
        examples = {entry.called: f"{entry.called}/{EXAMPLES}" for entry in done}
        whole: Row = {
            "title": f"{Path(self.model).resolve().name}: benchmark suite",
            "tasks": rows,
            "forgetting": [row for entry in done for row in _forgetting(entry, self.out)],
            "examples": {name: path for name, path in examples.items() if (self.out / path).is_file()},
            "missing": [job.folder for job in self.jobs if not (self.out / job.folder / DONE).is_file()],
            "notes": notes,
            "facts": {
                **self.facts,
                "rows in a pass": str(self.batch_size or BATCH_SIZE),
                "minutes": f"{spent:.1f} of {self.minutes:g} in this call",
            },
        }
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "benchmark.json", whole)
        shown = whole["examples"].items()
        examples_of_all = [one for name, path in shown for one in report_examples(name, load_json(self.out / path))]
        report.render({**page(whole), "examples": examples_of_all}, self.out / "benchmark.html")
        return whole


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
        where, plan = str(plan), read_plan(plan)
    check_plan(plan, TUNINGS, where=where)
    from_dict(EvaluationData, plan.abilities, where="abilities")
    return plan


# ---- how long a job is


def of_length(run: Finetuning, job: Job, minutes: float, out: Path) -> tuple[Finetuning | None, float]:
    """The run with its number of steps, and the seconds it will take where that is known.

    Where the plan names none, those from the model with the first seed decide: all others of the task make as many;
    None where it was not made.
    """
    first = out / job.entry.called
    later = job.random or job.seed > 1
    steps, seconds = length_of(first) if later and (first / DONE).is_file() else (None, 0.0)
    if run.steps or run.epochs:
        return run, seconds
    if later:
        return (replace(run, steps=steps) if steps else None), seconds
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


def length_of(folder: Path) -> tuple[int, float]:
    """Steps a run made and the seconds they took, from the last line of its log."""
    *_, last = read_log(folder / "log.jsonl")
    return last["step"] + 1, last["seconds"]


# ---- what came of it


def rows_of(entry: Entry, out: Path) -> list[Row]:
    """The rows of a task, over all seeds that are finished both from the model and from random weights."""
    own, random = [], []
    for seed in itertools.count(1):
        first, second = (scores_of(out / Job(entry, of_random, seed).folder) for of_random in (False, True))
        if not first["scores"] or (seed > 1 and not second["scores"]):
            break
        own.append(first)
        random += [second] if second["scores"] else []
    sums = [one["sums"] for one in own], [one["sums"] for one in random]
    scores = [one["scores"] for one in own], [one["scores"] for one in random]
    return task_rows(entry, *scores, own[0]["facts"] if own else {}, sums)


def verdict_of(entry: Entry, out: Path) -> str | None:
    """What the task's first metric says of the model beside random weights; None where there is no partner yet."""
    rows = rows_of(entry, out)
    return rows[0]["verdict"] if rows else None


def scores_of(folder: Path) -> dict[str, Any]:
    """Scores, facts and item sums of a finished part; none where it is not finished."""
    if not ((folder / DONE).is_file() and (folder / "evaluation.json").is_file()):
        return {"scores": [], "facts": {}, "sums": {}}
    return {"facts": {}, **load_json(folder / "evaluation.json"), "sums": read_sums(folder / "evaluation.npz")}


def _forgetting(entry: Entry, out: Path) -> Iterator[Row]:
    path = out / entry.called / ABILITIES / FORGOTTEN
    for row in load_json(path) if path.is_file() else ():
        yield {"task": entry.called, **row}
