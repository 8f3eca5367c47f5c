"""Random values for every setting of every recipe: each works in a tiny run, or is refused by its name.

A release is tried with thousands: UNIMO_DRAWS=5000 pytest tests/train/test_random_settings.py
"""

from __future__ import annotations

import os
import shutil
import typing
from collections import defaultdict
from typing import Any, Literal

import numpy as np
import pytest
from tiny_recipes import TinyRecipes
from tiny_task import quiet

from unimo.config import flatten, override
from unimo.config.values import group_type, hints_of
from unimo.errors import Restart, UnimoError
from unimo.finetune.finetune import finetune
from unimo.finetune.settings import Finetuning
from unimo.recipes import RECIPES
from unimo.recipes.finetuning import TUNINGS
from unimo.train import loop as T
from unimo.train.settings import Run

DRAWS = int(os.environ.get("UNIMO_DRAWS", "340"))  # half of them for either kind of run: more than there are keys
BATCH_SIZE = 6  # values that share a tiny run
WILD = [
    "0", "-1", "1", "2", "-0.0", "0.5", "1.5", "-2", "1e9", "1000000000", "1e30", "-1e30", "1e-30", "9" * 20,
    "nan", "inf", "-inf", "none", "true", "no", "", " ", "x", "é", "a,b", "[]", "[1]", '["a"]', "[1,", '{"a": 1}',
    "[nan]", "1e999", "0x10", "1_000", "٣", "../..", "null", '[""]', "1,2,3", "/dev/null",
]  # fmt: skip
MILD = ["0", "1", "2", "3", "5", "8", "16", "33", "64", "0.1", "0.25", "0.5", "0.75", "0.9", "0.99", "1.0"]
SLOW = {"workers": 2}  # so many processes are started for it: larger values are not tried


def leaves(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type, optional groups opened."""
    found: dict[str, Any] = {}
    for name, hint in hints_of(cls).items():
        group = group_type(hint)
        found |= {prefix + name: hint} if group is None else leaves(group, f"{prefix}{name}.")
    return found


def choices_of(hint: Any) -> list[str]:
    members = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return [str(one) for one in members]
    return ["true", "false"] if hint is bool else [one for member in members for one in choices_of(member)]


KINDS: dict[str, tuple[type, list[str]]] = {
    "pre-training": (Run, list(RECIPES)),
    "fine-tuning": (Finetuning, list(TUNINGS)),
}


def draws(kind: str, count: int, seed: int = 16) -> list[tuple[str, str, str]]:
    """(recipe, key, value): keys in random order, each as often as any other; half of the values could be meant."""
    rng, (cls, recipes) = np.random.default_rng(seed), KINDS[kind]
    keys, found = list(leaves(cls).items()), []
    while len(found) < count:
        for at in rng.permutation(len(keys)):
            key, hint = keys[at]
            value = str(rng.choice((choices_of(hint) or MILD) if rng.random() < 0.5 else WILD))
            found.append((str(rng.choice(recipes)), key, value))
    return found[:count]


def names(fault: UnimoError, key: str, value: str) -> bool:
    """Whether the message says which setting is meant: by its key, its group or, where files are named, its value."""
    told, said = str(fault.where).replace(";", ",").split(", "), value.strip('[]"')
    by_key = any(key == one or key.startswith(f"{one}.") for one in told)
    by_value = {said, value, *said.split(",")} & {told[0], str(fault.got)} or (
        len(said) > 1 and said in f"{fault.where} {fault.got}"
    )
    return by_key or (bool(value) and bool(by_value))


class StopsEarly(T.run_folder.StopFlag):
    """A run that would be long is asked to stop after two steps."""

    def __bool__(self) -> bool:
        self.asked = getattr(self, "asked", 0) + 1
        return self.asked >= 2


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> TinyRecipes:
    return TinyRecipes(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(T.run_folder, "StopFlag", StopsEarly)
    monkeypatch.chdir(tmp_path)


def works(settings: Any, out: Any) -> UnimoError | None:
    """Two steps, and of fine-tuning the answers. The error that refused it, or None; others are faults of ours."""
    try:
        T.train(settings, out, say=quiet) if isinstance(settings, Run) else finetune(
            settings, out, say=quiet, batch_size=2
        )
    except Restart:
        return None
    except UnimoError as fault:
        return fault
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return None


@pytest.mark.timeout(300 + 10 * DRAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_random_values_work_or_are_refused_by_name(recipes, tmp_path, kind):
    count = DRAWS // len(KINDS)
    refused, unnamed, groups = 0, [], defaultdict(list)
    for i, (recipe, key, value) in enumerate(draws(kind, count)):
        member = ("unimo-2", "unimo")[i % 2]
        start = recipes.run(recipe, member)
        try:
            override(start, [f"{key}={value}"])
        except UnimoError as fault:
            refused += 1
            unnamed += [] if names(fault, key, value) else [f"{recipe}: {key}={value}: {fault}"]
            continue
        if key in SLOW and int(value) >= SLOW[key]:
            continue
        # Not two values for one key, nor too many for one run.
        shared = next((g for g in groups[recipe, member] if key not in g and len(g) < BATCH_SIZE), None)
        if shared is None:
            groups[recipe, member].append(shared := {})
        shared[key] = value
    ran = 0
    for (recipe, member), many in groups.items():
        for changes in many:
            while changes:
                text = [f"{key}={value}" for key, value in changes.items()]
                try:
                    fault = works(override(recipes.run(recipe, member), text), tmp_path / "run")
                except UnimoError as contradiction:
                    fault = contradiction
                except Exception as fault_of_ours:
                    raise AssertionError(f"{recipe}, {member}: {' '.join(text)}") from fault_of_ours
                if fault is None:
                    ran += len(changes)
                    break
                guilty = [key for key, value in changes.items() if names(fault, key, value)]
                if not guilty:
                    unnamed.append(f"{recipe}, {member}: {' '.join(text)}: {fault}")
                    break
                refused += len(guilty)
                for key in guilty:
                    del changes[key]
    assert not unnamed, "\n".join(unnamed)
    assert refused >= count // 4 and ran >= count // 4


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_every_recipe_is_drawn(kind):
    cls, recipes = KINDS[kind]
    keys = set(leaves(cls))
    assert {key for _, key, _ in draws(kind, max(DRAWS // 2, len(keys)))} == keys
    for name in recipes:
        run = RECIPES[name]() if name in RECIPES else TUNINGS[name]
        assert set(flatten(run)) - {"model.head", "adversarial"} <= keys
