"""A campaign carried out: every run pre-trained and fine-tuned for every task, one seed after the other.

    DIR/NAME/seed-S/run           the pre-training run
    DIR/NAME/seed-S/pretrained    its zero-shot scores, where the plan names abilities
    DIR/NAME/seed-S/TASK          the task fine-tuned from it (TASK-random: from random weights)
    DIR/campaign.json, .md, .svg  the comparisons, their statement and a plot, written anew after every run

Started again, it goes on where it was; nothing that is finished is made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimo import distributed
from unimo.benchmark.campaign import (
    Campaign,
    CampaignRun,
    check_campaign,
    pretraining,
    read_campaign,
    tasks_with_data,
)
from unimo.benchmark.comparisons import Scored, rows_with_and_without, scored
from unimo.benchmark.forest_plot import forest_plot
from unimo.benchmark.plan import Plan
from unimo.benchmark.statement import statement
from unimo.benchmark.suite import Job, Suite
from unimo.config import to_dict
from unimo.disk import write_atomic
from unimo.errors import UsageError
from unimo.finetune.finished import DONE, finish, finished
from unimo.json_files import write_json
from unimo.train.loop import train
from unimo.train.pretraining import Pretraining
from unimo.train.provenance import call_facts

Say = Callable[[str], None]
WITHOUT_END = 1e6  # minutes: lengths of a campaign are steps


def run_campaign(
    path: str | Path, out: str | Path, *, batch_size: int | None = None, say: Say = print
) -> dict[str, Any]:
    """Carries out the campaign in a JSON file, in folder `out`; returns what campaign.json says.

    batch_size: rows that share a pass when scored. Raises UsageError for runs that differ in more than their ingredient
    and what reading, training and scoring raise; what was finished before stays.
    """
    if distributed.start()[1] > 1:
        raise UsageError("one process at a time", where="torchrun", do="start it without torchrun")
    campaign, runs = read_campaign(path)
    check_campaign(campaign, runs, where=str(path))
    plan, missing = tasks_with_data(campaign)
    carried_out = _CarriedOut(campaign, runs, plan, missing, Path(out), batch_size, say)
    for name, file in missing.items():
        say(f"---- {name}: no data, {file} is not there")
    for seed in campaign.seeds:
        for run in runs:
            carried_out.make(run, seed)
            whole = carried_out.save()
    say(f"{Path(out) / 'campaign.json'}  {Path(out) / 'campaign.md'}")
    return whole


@dataclass
class _CarriedOut:
    campaign: Campaign
    runs: Sequence[CampaignRun]
    plan: Plan
    missing: dict[str, str]
    out: Path
    batch_size: int | None
    say: Say

    def folder(self, run: CampaignRun, seed: int) -> Path:
        return self.out / run.name / f"seed-{seed}"

    def make(self, run: CampaignRun, seed: int) -> None:
        """Pre-trains a run with one seed, scores it, and fine-tunes it for every task."""
        self.say(f"==== {run.name}, seed {seed}")
        source = next(one for one in self.runs if one.name == run.against) if run.random else run
        model, folder = self.folder(source, seed) / "run", self.folder(run, seed)
        if not run.random:
            self._pretrain(run, seed, model)
        suite = Suite(
            str(model), folder, minutes=WITHOUT_END, assignments=[*self.campaign.finetune, f"seed={seed}"],
            batch_size=self.batch_size, say=self.say,
        )  # fmt: skip
        suite.open(self.plan)
        if run.random:
            suite.jobs = [Job(entry, random=True) for entry in self.plan.entries]
        else:
            suite.score_pretrained()
        suite.run_seed(1)
        suite.save()

    def _pretrain(self, run: CampaignRun, seed: int, folder: Path) -> None:
        settings = pretraining(self.campaign, run, seed)
        if finished(folder, wanted := {"settings": to_dict(settings)}) is None:
            resume = (folder / "settings.json").is_file()
            train(Pretraining(settings), folder, resume=resume, say=self.say)
            finish(folder, wanted)

    def scores(self, run: CampaignRun) -> list[Scored]:
        """Of every seed that is finished, in the order of the seeds."""
        found = []
        for seed in self.campaign.seeds:
            folder = self.folder(run, seed)
            done = all((folder / Job(entry, run.random).folder / DONE).is_file() for entry in self.plan.entries)
            if done:
                found.append(scored(folder, self.plan.entries, random=run.random, seed=seed))
        return found

    def save(self) -> dict[str, Any]:
        """campaign.json and campaign.md of all that is finished."""
        made = {run.name: self.scores(run) for run in self.runs}
        seeds = {name: [one.seed for one in scores] for name, scores in made.items()}
        rows = []
        for run in self.runs:
            if run.against:
                own, other = made[run.name], made[run.against]
                ends = (own, other) if run.adds else (other, own)
                names = (run.name, run.against) if run.adds else (run.against, run.name)
                about = {"ingredient": run.ingredient, "with": names[0], "without": names[1]}
                rows += [{**about, **row} for row in rows_with_and_without(*ends)]
        whole = {
            "title": f"{self.campaign.recipe}: what each ingredient buys",
            "facts": call_facts(),
            "campaign": {**to_dict(self.campaign), "runs": [to_dict(run) for run in self.runs]},
            "seeds": seeds,
            "missing": [f"{run.name}, seed {seed}" for run in self.runs for seed in self.campaign.seeds
                        if seed not in seeds[run.name]],
            "without data": self.missing,
            "comparisons": rows,
        }  # fmt: skip
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "campaign.json", whole)
        write_atomic(self.out / "campaign.md", statement(whole).encode())
        with contextlib.suppress(ImportError):  # the plot is for whoever has matplotlib
            if plot := forest_plot(whole):
                write_atomic(self.out / "campaign.svg", plot)
        return whole
