"""A campaign's file: runs that differ in one ingredient of pre-training each, and the tasks they are compared on.

    {"recipe": "photos", "steps": 600, "set": ["data.pairs=flickr.tar"], "seeds": [0, 1, 2],
     "plan": "plan.json", "finetune": ["steps=300"],
     "runs": [{"name": "pairs"},
              {"name": "texts", "against": "pairs", "adds": "texts", "set": ["data.texts=wikipedia.jsonl.gz"]},
              {"name": "no-dictionary", "against": "texts", "removes": "dictionary", "set": ["model.dictionary=0"]},
              {"name": "random", "against": "texts", "removes": "pre-training"}]}

The keys are the fields of `Campaign` and `CampaignRun`; plan is one of `unimo benchmark`. Every run is pre-trained from
the recipe with the campaign's settings and its own. Two runs that are compared may differ only in settings that belong
to the ingredient (`INGREDIENTS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from unimo import recipes
from unimo.benchmark.plan import Entry, Plan, check_folder_name, check_plan, missing_files, read_plan
from unimo.config import diff, from_dict, override, setting
from unimo.errors import DataError, UsageError, nearest
from unimo.json_files import load_json
from unimo.paths import ADDRESS, matches
from unimo.recipes.finetuning import TUNINGS
from unimo.train.settings import Run, check

PRETRAINING = "pre-training"  # the ingredient that random weights lack
AND = " and "  # between ingredients that come together
INGREDIENTS: dict[str, tuple[str, ...]] = {  # name -> patterns of the settings in which runs with and without differ
    "texts": ("data.texts", "batch.text_tokens"),
    "images": ("data.images", "batch.images"),
    "dictionary": (
        "model.dictionary", "model.chosen", "model.masked_grounding", "objectives.dictionary.*",
        "objectives.masked_grounding.*",
    ),
    "rewriting": (
        "data.rewrites", "objectives.cmcl.pairs", "objectives.cmcl.negatives", "objectives.cmcl.binding",
        "objectives.itm.rewritten", "objectives.mlm.nodes", "objectives.mlm.node_ratio", "objectives.mlm.relations",
        "objectives.mlm.alone_until", "objectives.mlm.relations_from", "objectives.rewriting.*",
    ),
    "neighbours": (
        "data.neighbours", "objectives.rewriting.weight", "objectives.rewriting.scorer",
        "objectives.rewriting.temperature", "objectives.rewriting.related*", "objectives.rewriting.alone*",
    ),
    PRETRAINING: (),
}  # fmt: skip


@dataclass(frozen=True)
class CampaignRun:
    """One pre-training of the campaign."""

    name: str = setting("", "its name in the tables, and its folder")
    against: str = setting("", "the run that it is compared with; empty: with none")
    adds: str = setting("", f"the ingredient it has beyond the other: {', '.join(INGREDIENTS)}, or several ({AND})")
    removes: str = setting("", f"the ingredient it lacks; {PRETRAINING}: it is that run's model with random weights")
    set: tuple[str, ...] = setting((), "key=value: settings of this pre-training")

    @property
    def ingredient(self) -> str:
        return self.adds or self.removes

    @property
    def random(self) -> bool:
        return self.removes == PRETRAINING


@dataclass(frozen=True)
class Campaign:
    """runs are read apart: a list of `CampaignRun`."""

    recipe: str = setting("", "the pre-training recipe of all runs")
    steps: int = setting(1000, "steps of every pre-training", at_least=1)
    set: tuple[str, ...] = setting((), "key=value: settings of every pre-training")
    seeds: tuple[int, ...] = setting((0,), "seeds: of pre-training and of fine-tuning")
    plan: str = setting("", "file of the tasks, a plan of unimo benchmark")
    finetune: tuple[str, ...] = setting((), "key=value: settings of every fine-tuning")


def read_campaign(path: str | Path) -> tuple[Campaign, tuple[CampaignRun, ...]]:
    """The campaign in a JSON file. UsageError names the field that is wrong; `check_campaign` checks the rest."""
    values = load_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("runs"), list) or not values["runs"]:
        raise UsageError("not a campaign", where=path, expected='{"recipe": ..., "plan": ..., "runs": [{"name": ...}]}')
    runs = tuple(from_dict(CampaignRun, one, where=f"{path}, runs[{i}]") for i, one in enumerate(values.pop("runs")))
    return from_dict(Campaign, values, where=str(path)), runs


def pretraining(campaign: Campaign, run: CampaignRun, seed: int) -> Run:
    """The settings of one pre-training; those of the run replace those of the campaign."""
    given = {text.partition("=")[0].strip(): text for text in (*campaign.set, *run.set)}
    fixed = (f"steps={campaign.steps}", "minutes=none", f"seed={seed}")
    return override(recipes.find(campaign.recipe), [*given.values(), *fixed])


def check_campaign(campaign: Campaign, runs: Sequence[CampaignRun], *, where: str) -> None:
    """Everything that can be told before hours of training. Raises UsageError, and DataError for absent data."""
    known: dict[str, CampaignRun] = {}
    if not campaign.seeds or len(set(campaign.seeds)) < len(campaign.seeds):
        raise UsageError("seeds must differ", where=f"{where}, seeds", got=campaign.seeds, expected="one or more")
    for i, run in enumerate(runs):
        here = f"{where}, runs[{i}]"
        check_folder_name(run.name, f"{here}.name")
        if run.name in known:
            raise UsageError("two runs of one name", where=f"{here}.name", got=run.name, do="give it another name")
        _check_run(campaign, run, known, here)
        known[run.name] = run


def _check_run(campaign: Campaign, run: CampaignRun, known: dict[str, CampaignRun], here: str) -> None:
    if not run.against and not run.ingredient:
        return _check_settings(pretraining(campaign, run, campaign.seeds[0]), here)
    if run.against not in known:
        close = nearest(run.against, known)
        what, do = "a run is compared with one that stands before it", f"did you mean {close}?" if close else None
        raise UsageError(what, where=f"{here}.against", got=run.against or "none", expected=", ".join(known), do=do)
    if bool(run.adds) == bool(run.removes):
        what, expected = "which ingredient is it about?", "adds or removes, one of both"
        raise UsageError(what, where=here, got=f"adds={run.adds!r}, removes={run.removes!r}", expected=expected)
    patterns = keys_of_ingredient(run.ingredient, here)
    other = known[run.against]
    if run.random and (run.set or other.random):
        got = "settings of a pre-training" if run.set else f"{other.name}, of random weights too"
        raise UsageError("random weights are like those of a pre-trained run", where=here, got=got)
    if run.random:
        return None
    own, base = (pretraining(campaign, one, campaign.seeds[0]) for one in (run, other))
    changed = diff(base, own)
    if more := [row for row in changed if not any(fnmatchcase(row[0], pattern) for pattern in patterns)]:
        raise UsageError(
            f"{run.name} differs from {other.name} in more than {run.ingredient}",
            where=here,
            got="; ".join(f"{key}: {there} and {mine}" for key, there, mine in more[:5]),
            expected=f"differences in {', '.join(patterns) or 'nothing'}",
            do="give both the same settings, or compare it with another run",
        )
    if other.random or not changed:
        got = "random weights" if other.random else "the same settings"
        raise UsageError(f"{run.name} and {other.name} are no comparison", where=here, got=got)
    return _check_settings(own, here)


def keys_of_ingredient(names: str, where: str) -> tuple[str, ...]:
    """Patterns of the settings that belong to an ingredient, or to several with " and " between them."""
    found: list[str] = []
    for name in names.split(AND):
        if name not in INGREDIENTS:
            raise UsageError("no such ingredient", where=where, got=name, expected=", ".join(INGREDIENTS))
        found += INGREDIENTS[name]
    return tuple(found)


def _check_settings(run: Run, here: str) -> None:
    try:
        check(run, 1)
    except UsageError as fault:
        fault.where = f"{here}; {fault.where}"
        raise
    for kind in ("pairs", "images", "texts"):
        for path in getattr(run.data, kind):
            if not (ADDRESS.match(path) or matches(path)):
                raise DataError("no such file", where=f"{here}, data.{kind}", got=path)


def tasks_with_data(campaign: Campaign) -> tuple[Plan, dict[str, str]]:
    """The plan without the tasks whose files are absent, and these: name -> which file. Other faults are raised."""
    plan = read_plan(campaign.plan)
    missing = {entry.called: path for entry in plan.entries for _, path in missing_files(entry)}
    kept = tuple(entry for entry in plan.entries if entry.called not in missing)
    if not kept:
        raise DataError("no task of the plan has data", where=campaign.plan, got=", ".join(missing.values()))
    check_plan(Plan(kept), TUNINGS, where=campaign.plan)
    for entry in kept:
        _check_length(entry, campaign)
    return Plan(kept, plan.abilities), missing


def _check_length(entry: Entry, campaign: Campaign) -> None:
    if not any(text.strip().startswith(("steps=", "epochs=")) for text in (*entry.set, *campaign.finetune)):
        what, do = "runs are compared after equal steps", '"set": ["steps=600"], or "finetune" of the campaign'
        where, expected = f"{campaign.plan}, {entry.called}", "steps or epochs"
        raise UsageError(what, where=where, got="no steps", expected=expected, do=do)
