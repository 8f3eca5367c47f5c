"""Random values for every setting of every recipe: each works in a tiny run, or is refused by its name.

A release is tried with thousands: UNIMO_DRAWS=5000 pytest tests/test_random_settings.py
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

from unimo import train as T
from unimo.config import flatten, override
from unimo.errors import Restart, UnimoError
from unimo.finetune import finetune
from unimo.model.task_heads import HeadSettings
from unimo.objectives.adversarial import Adversarial
from unimo.recipes import RECIPES
from unimo.recipes.finetuning import TUNINGS
from unimo.setting_values import group_type, hints_of
from unimo.train import Run

DRAWS = int(os.environ.get("UNIMO_DRAWS", "320"))
TOGETHER = 6  # values that share a tiny run
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


def draws(rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """(recipe, key, value): keys in random order, each as often as any other; half of the values could be meant."""
    kinds = {"pre-training": list(RECIPES), "fine-tuning": list(TUNINGS)}
    keys = [
        (kind, key, hint)
        for kind in kinds
        for key, hint in leaves(type({**RECIPES, **TUNINGS}[kinds[kind][0]]())).items()
    ]
    found = []
    while len(found) < DRAWS:
        for at in rng.permutation(len(keys)):
            kind, key, hint = keys[at]
            mild = choices_of(hint) or MILD
            value = str(rng.choice(mild if rng.random() < 0.5 else WILD))
            found.append((str(rng.choice(kinds[kind])), key, value))
    return found[:DRAWS]


def names(fault: UnimoError, key: str, value: str) -> bool:
    """Whether the message says which setting is meant, by its key or, of a path, by its value."""
    where = str(fault.where)
    return key in where or (len(value) > 1 and value in f"{where} {fault.got}")


class StopsEarly(T.runs.StopFlag):
    """A run that would be long is asked to stop after two steps."""

    def __bool__(self) -> bool:
        self.asked = getattr(self, "asked", 0) + 1
        return self.asked >= 2


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> TinyRecipes:
    return TinyRecipes(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(T, "matmul_rate", lambda *_: 1e9)
    monkeypatch.setattr(T.runs, "StopFlag", StopsEarly)
    monkeypatch.chdir(tmp_path)


def works(settings: Any, out: Any) -> UnimoError | None:
    """Two steps, and of fine-tuning the answers. The error that refused it, or None; others are faults of ours."""
    try:
        T.train(settings, out, say=quiet) if isinstance(settings, Run) else finetune(
            settings, out, say=quiet, together=2
        )
    except Restart:
        return None
    except UnimoError as fault:
        return fault
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return None


def test_random_values_work_or_are_refused_by_name(recipes, tmp_path):
    rng = np.random.default_rng(16)
    refused, unnamed, groups = 0, [], defaultdict(list)
    for recipe, key, value in draws(rng):
        member = str(rng.choice(["unimo-2", "unimo"]))
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
        shared = next((g for g in groups[recipe, member] if key not in g and len(g) < TOGETHER), None)
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
    assert refused >= DRAWS // 4 and ran >= DRAWS // 4


def test_every_key_of_every_recipe_is_drawn():
    keys = {key for _, key, _ in draws(np.random.default_rng(16))}
    tuning = leaves(type(TUNINGS["classification"]()))
    assert keys == set(leaves(Run)) | set(tuning) or len(keys) == DRAWS
    assert {f"adversarial.{name}" for name in hints_of(Adversarial)} <= set(tuning)
    assert {f"model.head.{name}" for name in hints_of(HeadSettings)} <= set(tuning)
    assert set(flatten(RECIPES["scenes"]())) - {"model.head"} <= set(leaves(Run))
