"""A plan of the benchmark suite: tasks to fine-tune for, their files, and the zero-shot tasks repeated afterwards.

    {"tasks": [{"task": "sst2", "group": "understanding, single-modal",
                "train": ["sst2/train.tsv"], "dev": ["sst2/dev.tsv"], "set": ["batch_size=16"]}],
     "abilities": {"pairs": ["flickr8k/val"], "tasks": ["retrieval", "masked_words"]}}

A task is one of `unimo recipes`; keys of a task are the fields of `Entry`, those of abilities the settings of
`unimo evaluate`. Paths are relative to where the command runs, like those of every command.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unimo.config import from_dict, setting
from unimo.config.aliases import task_hint
from unimo.errors import DataError, UsageError
from unimo.json_files import load_json
from unimo.paths import matches

RANDOM = "-random"  # ends the folder of a task that began with random weights
SEED = "-seed-"  # with a number, ends the folder of a task's later seeds
RESERVED = ("data", "pretrained")  # folders beside those of the tasks
Group = Literal[
    "understanding, single-modal", "understanding, cross-modal", "generation, single-modal", "generation, cross-modal"
]


@dataclass(frozen=True)
class Entry:
    """One task of a plan."""

    task: str = setting("", "a fine-tuning recipe")
    group: Group = setting("understanding, single-modal", "where in the table it stands")
    name: str = setting("", "its name in the table and its folder; empty: that of the recipe")
    train: tuple[str, ...] = setting((), "files of the training split")
    dev: tuple[str, ...] = setting((), "files of the split that chooses the weights")
    test: tuple[str, ...] = setting((), "files of the split that is only scored; empty: dev is reported")
    images: tuple[str, ...] = setting((), "images that rows name")
    regions: tuple[str, ...] = setting((), "their regions, if not beside them (UNIMO)")
    columns: tuple[str, ...] = setting((), "part=column of your own files")
    reader: str | None = setting(None, "how files are read; none: as the task says")
    set: tuple[str, ...] = setting((), "key=value: settings of this fine-tuning")
    time_weight: float = setting(1.0, "training time: twice that of a task with half the weight", above=0)
    about: str = setting("", "what the task is, in a sentence")

    @property
    def called(self) -> str:
        return self.name or self.task


@dataclass(frozen=True)
class Plan:
    """abilities: settings of `unimo.evaluation.plan.EvaluationData`; empty: no zero-shot task is repeated."""

    entries: tuple[Entry, ...]
    abilities: Mapping[str, Any] = field(default_factory=dict)


def read_plan(path: str | Path) -> Plan:
    """The plan in a JSON file. UsageError names the entry that is wrong; `check_plan` checks the rest."""
    values = load_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("tasks"), list) or not values["tasks"]:
        raise UsageError("not a plan", where=path, expected='{"tasks": [{"task": ..., "train": [...]}, ...]}')
    for key in values:
        if key not in ("tasks", "abilities"):
            raise UsageError("unknown key in a plan", where=path, got=key, expected="tasks, abilities")
    entries = tuple(from_dict(Entry, value, where=f"{path}, tasks[{i}]") for i, value in enumerate(values["tasks"]))
    return Plan(entries, values.get("abilities", {}))


def missing_files(entry: Entry) -> Iterator[tuple[str, str]]:
    """Split and path of every file of a task that is not there."""
    for split in ("train", "dev", "test", "images", "regions"):
        yield from ((split, path) for path in getattr(entry, split) if not matches(path))


def check_folder_name(name: str, where: str) -> None:
    """UsageError for a name that cannot be that of a folder, or that the suite gives to folders of its own."""
    own = name in RESERVED or name.endswith(RANDOM) or SEED in name
    if not name or name != Path(name).name or name.startswith(".") or own:
        raise UsageError("not a name of a folder", where=where, got=name, expected="letters and digits")


def check_plan(plan: Plan, recipes: Collection[str], *, where: str) -> None:
    """Everything that can be told before hours of training: tasks, names, files. Raises UsageError and DataError."""
    seen: dict[str, int] = {}
    for i, entry in enumerate(plan.entries):
        here = f"{where}, tasks[{i}]"
        if entry.task not in recipes:
            do = task_hint(entry.task, recipes) or "unimo recipes"
            expected = ", ".join(sorted(recipes))
            raise UsageError("no such task", where=f"{here}.task", got=entry.task, expected=expected, do=do)
        name = entry.called
        check_folder_name(name, f"{here}.name")
        if name in seen:
            what, do = "two tasks of one name", "give one of them another name"
            raise UsageError(what, where=f"{here}.name", got=f"{name}, also tasks[{seen[name]}]", do=do)
        seen[name] = i
        for split, path in missing_files(entry):
            raise DataError("no such file", where=f"{here}.{split}", got=path)
        if not entry.train or not (entry.dev or entry.test):
            raise UsageError("a task needs rows", where=here, expected="train, and dev or test or both")
