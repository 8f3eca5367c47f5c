"""Settings that cannot be are refused by their name, through every door and before anything is built."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import numpy as np
import pytest
import torch

import unimo.model.build as model_build
from unimo.benchmark.plan import Entry
from unimo.config import check_settings, describe, flatten, from_dict, override, setting, to_dict
from unimo.config.aliases import ELSEWHERE, SETTINGS, TASKS, plain
from unimo.config.values import group_type, hints_of
from unimo.data.augment import Views
from unimo.errors import ResourceError, UnimoError, UsageError, WeightsError
from unimo.evaluation.evaluate import evaluate
from unimo.evaluation.plan import EvaluationData
from unimo.finetune.settings import Finetuning
from unimo.model.build import SIZES, ModelSettings, build, rough_parameters
from unimo.model.task_heads import HeadSettings
from unimo.neighbours.settings import NeighbourSettings
from unimo.objectives.adversarial import Adversarial
from unimo.recipes import RECIPES
from unimo.recipes.finetuning import TUNINGS, find_tuning
from unimo.train.optimizer import OptimizerSettings
from unimo.train.settings import Run

ROOTS = (Run, Finetuning, EvaluationData, NeighbourSettings, ModelSettings, HeadSettings, Adversarial, Entry)
# Numbers that may be anything finite: chance, and where a scale lies.
FREE = {"seed", "centre", "min_sentence_score", "min_image_score", "min_overlap"}


def groups_of(cls):
    """A settings class and every class of its groups."""
    inner = [group for hint in hints_of(cls).values() if (group := group_type(hint)) is not None]
    return {cls}.union(*(groups_of(group) for group in inner))


def refusal(text: str, settings: Any = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        override(settings or Run(), [text])
    return caught.value


# ---- rows of the table of cases


@pytest.mark.parametrize(
    "text",
    [
        "model.patch=0", "model.heads=0", "model.initial_std=0", "model.dropout=5", "model.width=-16",
        "model.grounding_method=x", "model.image_depth=-1", "model.attention_dropout=-1", "model.chosen=-1",
        "model.heads=-2", "model.image_size=0", "optimizer.final=-1", "optimizer.weight_decay=-1",
        "optimizer.layer_decay=7", "data.pair_views.crop=3", "data.pair_views.grey=-1", "data.image_views.jitter=-2",
        "data.max_bad_fraction=nan", "optimizer.lr=inf", "minutes=nan", "data.max_bad_fraction=1.5",
    ],
)  # fmt: skip
def test_case_a_value_that_cannot_be_is_refused_by_name(text):
    fault, key = refusal(text), text.partition("=")[0]
    assert fault.where == key and fault.expected


@pytest.mark.parametrize(
    "text",
    ["data.views.crop=3", "data.views.grey=-1", "optimizer.final=-1", "model.patch=0", "batch_size=0", "seed=1.5"],
)
def test_case_fine_tuning_refuses_them_too(text):
    assert refusal(text, Finetuning()).where == text.partition("=")[0]


@pytest.mark.parametrize("name", ["vocabulary", "width", "text_depth", "image_depth", "positions", "dictionary"])
@pytest.mark.parametrize("value", [10**9, 2**40, -1, 2.5, True, "many", [4], {"rows": 4}, float("nan"), 10**400])
def test_case_foreign_configurations_are_refused_before_anything_is_allocated(monkeypatch, name, value):
    monkeypatch.setattr(torch.nn, "Parameter", None)  # whoever allocates fails
    told = {**to_dict(ModelSettings("tiny")), name: value}
    with pytest.raises(WeightsError) as caught:
        from_dict(ModelSettings, told, where="config.json", error=WeightsError)
    assert caught.value.where == f"config.json.{name}"
    with pytest.raises(UsageError) as refused:
        build(dataclasses.replace(ModelSettings("tiny"), **{name: value}))
    assert refused.value.where == f"model.{name}"


def test_case_an_unknown_size_gets_the_list_of_sizes():
    fault = refusal("model.size=huge")
    assert all(size in fault.expected for size in SIZES)
    assert fault.do is None
    assert refusal("model.size=tinny").do == "did you mean tiny?"


@pytest.mark.parametrize(
    ("key", "settings", "hint"),
    [
        ("optimiser.rate", Run(), "optimizer.lr"),
        ("lr", Finetuning(), "optimizer.lr"),
        ("optimiser.weight_decay", Run(), "optimizer.weight_decay"),
        ("device", Run(), "CUDA_VISIBLE_DEVICES"),
        ("batch_size", Run(), "batch.pairs"),
        ("batch", Finetuning(), "batch_size"),
        ("num_train_epochs", Finetuning(), "epochs"),
        ("max_steps", Run(), "steps"),
        ("warmup_ratio", Run(), "optimizer.warmup"),
        ("weight_decay", Run(), "optimizer.weight_decay"),
        ("num_workers", Run(), "workers"),
        ("fp16", Run(), "precision"),
        ("gradient_checkpointing", Run(), "activation_checkpointing"),
        ("recompute", Run(), "activation_checkpointing"),
        ("longest", Finetuning(), "read.max_length"),
        ("average", Run(), "ema_decay"),
        ("max_length", Finetuning(), "read.max_length"),
        ("num_beams", Finetuning(), "write.num_beams"),
        ("model.hidden-size", Run(), "model.width"),
        ("output_dir", Run(), "--out"),
    ],
)
def test_case_a_key_of_another_tool_leads_to_ours(key, settings, hint):
    assert hint in refusal(f"{key}=1", settings).do


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bert", "--roberta"),
        ("roberta-base", "--roberta"),
        ("clip", "--vit"),
        ("glue", "cola, sst2"),
        ("imagenet-1k", "did you mean imagenet?"),
        ("SST-2", "did you mean sst2?"),
        ("captioning", "did you mean captions?"),
        ("daquarr", "did you mean daquar?"),
        ("xyzzy", "classification, regression"),
    ],
)
def test_case_a_task_by_another_name_leads_to_ours(name, hint):
    with pytest.raises(UsageError) as caught:
        find_tuning(name)
    assert hint in caught.value.do


# ---- the table of other names


def test_names_of_other_tools_are_none_of_ours_and_lead_to_keys_that_there_are():
    pretraining, finetuning = set(flatten(Run())), set(flatten(Finetuning(adversarial=Adversarial())))
    ours = pretraining | finetuning | {field.name for field in dataclasses.fields(Entry)}
    for theirs, keys in SETTINGS.items():
        assert theirs not in pretraining & finetuning and set(keys) <= ours, theirs
    assert not set(ELSEWHERE) & (set(SETTINGS) | ours)
    assert not {plain(name) for name in TASKS} & {plain(name) for name in TUNINGS}


@pytest.mark.parametrize("settings", [Run(), Finetuning()], ids=["pre-training", "fine-tuning"])
def test_no_hint_is_absurd(settings):
    """What is like no key has no guess; what is a letter away from one has it."""
    rng = np.random.default_rng(0)
    letters = np.array(list("bdfgjkqvwxyz"))
    for length in (1, 2, 3, 5, 9):
        for _ in range(20):
            key = "".join(rng.choice(letters, length))
            do = refusal(f"{key}=1", settings).do
            assert do and "None" not in do
            assert "did you mean" not in do or length < 4, (key, do)


# ---- declarations


def test_every_number_has_bounds():
    free = set()
    for cls in set().union(*map(groups_of, ROOTS)):
        for field in dataclasses.fields(cls):
            hint = hints_of(cls)[field.name]
            kinds = {hint, *typing.get_args(hint)}
            bounds = field.metadata["bounds"]
            if kinds & {int, float} and bounds.at_least is None and bounds.above is None:
                free.add(field.name)
    assert free == FREE | {"spread"}


@pytest.mark.parametrize("name", [*RECIPES, *TUNINGS])
def test_every_recipe_can_be(name):
    run = RECIPES[name]() if name in RECIPES else TUNINGS[name]
    check_settings(run)
    assert override(run, []) == from_dict(type(run), json.loads(json.dumps(to_dict(run)))) == run
    assert len(describe(run)) == len(flatten(run))


def test_what_is_wrong_in_python_is_refused_too():
    """Dataclasses take anything; whoever is given them looks."""
    wrong = [
        (dataclasses.replace(Run(), steps="5"), "steps"),
        (dataclasses.replace(Run(), seed=True), "seed"),
        (dataclasses.replace(Run(), model=None), "model"),
        (dataclasses.replace(Run(), model={"width": 5}), "model"),
        (dataclasses.replace(Run(), model=ModelSettings(dropout=float("nan"))), "model.dropout"),
        (dataclasses.replace(Run(), optimizer=OptimizerSettings(factors=(1.0, float("inf")))), "optimizer.factors"),
        (dataclasses.replace(Finetuning(), read=Views()), "read"),
    ]
    for settings, key in wrong:
        with pytest.raises(UsageError) as caught:
            check_settings(settings)
        assert caught.value.where == key
    with pytest.raises(UsageError, match="model"):
        build({"width": 5})  # type: ignore[arg-type]
    check_settings(dataclasses.replace(Run(), minutes=5))  # a whole number is a number


def test_a_whole_number_is_no_truth_value_and_the_other_way_round():
    @dataclasses.dataclass(frozen=True)
    class Small:
        on: bool = setting(False, "A switch.")
        n: int = setting(1, "A number.", at_least=1)
        names: tuple[str, ...] = setting((), "Paths.", filled=True)

    for values in ({"on": 1}, {"n": True}, {"n": 1.0}, {"names": [""]}, {"names": ["a\0b"]}, {"names": "a"}, {"n": 0}):
        with pytest.raises(UsageError) as caught:
            from_dict(Small, values, where="here")
        assert caught.value.where == f"here.{next(iter(values))}"


def test_contradictions_are_told_with_all_their_keys():
    for texts, keys in (
        (["model.heads=7"], ("model.heads",)),
        (["model.image_size=100"], ("model.image_size",)),
        (["model.patch_padding=16"], ("model.patch_padding",)),
        (["optimizer.hold=0.5", "optimizer.decay=noam"], ("optimizer.hold", "optimizer.decay")),
        (["optimizer.boundaries=0.8,0.6"], ("optimizer.boundaries", "optimizer.factors")),
        (["objectives.mlm.nodes=0.6", "objectives.mlm.relations=0.6"], ("objectives.mlm.nodes",)),
        (["model.chosen=5000"], ("model.chosen", "model.dictionary")),
        (["model.vocabulary=1000"], ("model.vocabulary",)),
        (["objectives.masked_grounding.weight=1", "model.masked_grounding=true", "model.grounding_method=normal"],
         ("objectives.masked_grounding.chosen", "model.grounding_method")),
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            override(Run(), texts)
        assert all(key in str(caught.value.where).split(", ") for key in keys), caught.value


# ---- memory


def test_a_model_that_does_not_fit_is_refused_before_it_is_built(monkeypatch):
    settings = ModelSettings("tiny", vocabulary=1000)
    needed = 4 * rough_parameters(settings)
    monkeypatch.setattr(model_build, "free_memory", lambda: needed - 1)
    with pytest.raises(ResourceError, match="does not fit into memory"):
        build(settings)
    with torch.device("meta"):
        build(settings)  # takes none
    for free in (needed + 1, None):
        monkeypatch.setattr(model_build, "free_memory", lambda free=free: free)
        build(settings)


@pytest.mark.parametrize("member", ["unimo", "unimo-2"])
@pytest.mark.parametrize("size", SIZES)
def test_the_estimate_of_memory_is_near_what_is_built(member, size):
    settings = ModelSettings(size, member=member, region_heads=True)
    with torch.device("meta"):
        count = sum(p.numel() for p in build(settings).parameters())
    assert rough_parameters(settings) == pytest.approx(count, rel=0.03)


# ---- doors


def test_public_functions_look_at_settings_before_they_open_anything(tmp_path):
    from unimo.finetune.finetune import finetune
    from unimo.neighbours.prepare import neighbours
    from unimo.train.loop import train

    nowhere = str(tmp_path / "nothing here")
    for call in (
        lambda: train(dataclasses.replace(RECIPES["scenes"](), keep=0), tmp_path / "run"),
        lambda: finetune(dataclasses.replace(Finetuning(), patience=-1), tmp_path / "run"),
        lambda: evaluate(tmp_path, data=EvaluationData(shortlist=-1)),
        lambda: neighbours(nowhere, nowhere, nowhere, tmp_path / "n", settings=NeighbourSettings(pool=0)),
        lambda: build(ModelSettings("tiny", patch=0)),
    ):
        with pytest.raises(UnimoError, match="out of range"):
            call()
    assert not list(tmp_path.iterdir())
