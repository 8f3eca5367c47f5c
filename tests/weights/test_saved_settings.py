"""A saved folder's config.json from anywhere: what does not fit its weights is refused before anything is allocated."""

from __future__ import annotations

import copy
import json
import random
import shutil
import tracemalloc
from dataclasses import replace

import pytest
import torch
from weights.test_pretrained import SETTINGS, lively

from unimo import checkpoint
from unimo.config import to_dict
from unimo.errors import UnimoError, UsageError, WeightsError
from unimo.model.build import ModelSettings, build
from unimo.model.task_heads import HeadSettings
from unimo.safetensors_files import read_safetensors, shapes
from unimo.weights import loading
from unimo.weights.loading import check_shapes, load_model, model_settings, settings_and_words
from unimo.weights.saving import save_pretrained

WORDS = 60
TINY = {name: replace(settings, vocabulary=WORDS) for name, settings in SETTINGS.items()}
TINY["head"] = replace(TINY["baseline"], head=HeadSettings(labels=("a", "b", "c"), hidden=8))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One folder of each kind, written once; a test works on a copy of its config.json beside links to its weights."""
    base = tmp_path_factory.mktemp("saved")
    for kind, settings in TINY.items():
        model = lively(settings)
        model.know_words(torch.tensor([4, 5, 9]))
        save_pretrained(model, base / kind, settings, facts={"step": 7})
    return base


def changed(saved, tmp_path, kind, change):
    """A copy of a folder with `change` done to its config."""
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "model.safetensors").hardlink_to(saved / kind / "model.safetensors")
    config = json.loads((saved / kind / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class NothingBuilt(Exception):
    """Raised where memory would be asked for."""


def shapes_alone(given):
    """In place of `build` and of the reader: allowed where tensors have no memory."""
    if torch.empty(0).device.type != "meta":
        raise NothingBuilt
    return build(given)


def refused(folder, monkeypatch=None):
    """The error, with at most a few MiB touched on the way; nothing may be built."""
    if monkeypatch is not None:
        monkeypatch.setattr(loading, "build", shapes_alone)
        monkeypatch.setattr(loading, "read_safetensors", shapes_alone)
    tracemalloc.start()
    try:
        with pytest.raises(UnimoError) as caught:
            load_model(folder)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    return caught.value


def setting(key, value):
    def change(config):
        group = config["settings"]["model"]
        for part in key.split(".")[:-1]:
            group = group[part]
        group[key.split(".")[-1]] = value

    return change


CASES = [
    ("unimo-2", "vocabulary", 10**9), ("unimo-2", "width", 2**20), ("unimo-2", "text_depth", 10**6),
    ("unimo-2", "vocabulary", 10**6), ("unimo-2", "width", 32), ("unimo-2", "text_depth", 3), ("unimo-2", "patch", 4),
    ("unimo-2", "image_depth", 1), ("unimo-2", "grounded_depth", 400), ("unimo-2", "positions", 41),
    ("unimo-2", "dictionary", 0), ("unimo-2", "dictionary", 13), ("unimo-2", "image_size", 32),
    ("unimo-2", "masked_grounding", False), ("unimo-2", "image_contrastive", False), ("unimo-2", "member", "unimo"),
    ("unimo-2", "grounding_projection", True), ("unimo-2", "tie_word_embeddings", False),
    ("projected", "contrastive_projection", False), ("projected", "grounding_projection", False),
    ("unimo", "depth", 10**6), ("unimo", "depth", 12), ("unimo", "region_size", 2048), ("unimo", "region_classes", 8),
    ("unimo", "region_heads", False), ("unimo", "matching", 1), ("unimo", "matching", 0), ("unimo", "dialogue", False),
    ("unimo", "member", "unimo-2"), ("head", "head.labels", ["a", "b"]), ("head", "head.hidden", 0),
    ("head", "head.hidden", 2**20), ("head", "head.kind", "number"), ("unimo-2", "text_depth", "2"),
    ("unimo-2", "width", 16.5), ("unimo-2", "width", True), ("unimo-2", "width", [16]), ("unimo-2", "size", None),
    ("unimo-2", "vocabulary", -1), ("unimo-2", "heads", 0),
]  # fmt: skip


@pytest.mark.parametrize("kind, key, value", CASES)
def test_case_settings_that_are_not_those_of_the_weights(saved, tmp_path, monkeypatch, kind, key, value):
    """Row: config.json with vocabulary 10^9, width 2^20, text_depth 10^6: refused by its key, with nothing built."""
    error = refused(changed(saved, tmp_path, kind, setting(key, value)), monkeypatch)
    assert isinstance(error, WeightsError) and "config.json" in str(error.where)
    named = "head" if key == "head.kind" else key.rpartition(".")[2]
    assert named in str(error.where)


@pytest.mark.parametrize(
    "value",
    [[], {}, 3, "abc", True, [4, 4], [5, 4], [-1, 3], [4, WORDS], [4, 10**9], [4, 5.0], ["4"], [True, 4], [None], [[4]],
     list(range(10**3))],
)  # fmt: skip
def test_case_known_words_of_wrong_types_or_out_of_range(saved, tmp_path, monkeypatch, value):
    """Row: config.json with known_words of wrong types or out of range."""

    def change(config):
        config["known_words"] = value

    error = refused(changed(saved, tmp_path, "unimo", change), monkeypatch)
    assert isinstance(error, WeightsError) and "known_words" in str(error.where)


def test_known_words_that_are_right_are_taken(saved, tmp_path):
    for value in (None, [0], [WORDS - 1], list(range(WORDS))):
        folder = changed(saved, tmp_path, "unimo", lambda config, value=value: config.update(known_words=value))
        model, state = load_model(folder)
        assert (None if model.vocabulary_subset is None else model.vocabulary_subset.tolist()) == value
        assert state.state["known_words"] == value and settings_and_words(folder)[0] == TINY["unimo"]
    for wrong in ([5, 4], [0, 0], [], [WORDS], [-1, 2]):
        with pytest.raises(UsageError, match="known words"):
            model.know_words(torch.tensor(wrong, dtype=torch.int64))
    with pytest.raises(UsageError, match="known words"):
        model.know_words(torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("facts", [[], 3, "x", None])
def test_facts_that_are_none_are_refused(saved, tmp_path, facts):
    assert "facts" in str(refused(changed(saved, tmp_path, "unimo", lambda config: config.update(facts=facts))).where)


def test_what_a_run_noted_does_not_stand_above_the_folder(saved, tmp_path):
    """Facts are notes: settings and known words among them change nothing. None at all is no fault."""
    facts = {"settings": {"model": 3}, "known_words": ["x"], "step": 9}
    folder = changed(saved, tmp_path, "unimo", lambda config: config.update(facts=facts))
    model, state = load_model(folder)
    assert state.step == 9 and state.state["known_words"] == [4, 5, 9] == model.vocabulary_subset.tolist()
    assert state.state["settings"]["model"]["member"] == "unimo"
    load_model(changed(saved, tmp_path, "unimo", lambda config: config.pop("facts")))


def checkpoint_of(folder, change=None, words=None):
    """A checkpoint as a run writes it."""
    settings = TINY["unimo"]
    model = lively(settings)
    state = {"settings": {"model": to_dict(settings)}, "known_words": words}
    if change is not None:
        change(state)
    tensors = {name: x.detach().clone() for name, x in model.named_parameters()}
    checkpoint.save(folder, 3, {"model": tensors}, state)
    return folder


@pytest.mark.parametrize("key, value", [("vocabulary", 10**9), ("depth", 10**6), ("depth", 3), ("region_size", 9)])
def test_case_checkpoints_are_compared_too(tmp_path, key, value):
    folder = checkpoint_of(tmp_path / "run", setting(key, value))
    error = refused(folder)
    assert isinstance(error, WeightsError) and str(error.where).endswith(key) and "state.json" in str(error.where)


def test_case_known_words_of_a_checkpoint(tmp_path):
    assert load_model(checkpoint_of(tmp_path / "good", words=[2, 3]))[0].vocabulary_subset.tolist() == [2, 3]
    assert settings_and_words(tmp_path / "good")[1].tolist() == [2, 3]
    for name, words in (("order", [3, 2]), ("type", ["x"]), ("range", [WORDS])):
        folder = checkpoint_of(tmp_path / name, words=words)
        for open_it in (load_model, settings_and_words):
            with pytest.raises(WeightsError, match="known_words"):
                open_it(folder)


ODD = [
    None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 10**9, 2**40, 10**400, 0.5, -0.5, 1e300, "", "x", "topk", "tanh",
    "\u0000", [], [1], ["a", "b"], {}, {"a": 1}, [[[]]], "unimo", "unimo-2", "relu",
]  # fmt: skip


def test_mutations_of_a_config_load_or_are_refused_by_name(saved, tmp_path):
    """Wrong types, negative, huge, missing and extra keys, at every level: a UnimoError that names a key of the file,
    and never more than a few MiB."""
    rng, loaded, refusals = random.Random(16), 0, 0
    for _ in range(120):
        kind = rng.choice(list(TINY))
        config = json.loads((saved / kind / "config.json").read_text())
        before = copy.deepcopy(config)
        groups = [config, config["settings"], config["settings"]["model"], config["settings"]["model"]["released"]]
        if config["settings"]["model"]["head"]:
            groups.append(config["settings"]["model"]["head"])
        group = rng.choices(groups, [1, 1, 8, 1, 3][: len(groups)])[0]
        key = rng.choice(list(group))
        match rng.randrange(6):
            case 0:
                group[key] = group[key]
            case 1:
                del group[key]
            case 2:
                group[rng.choice(["hidden_size", "widht", "", "x" * 50, "__class__"])] = rng.choice(ODD)
            case _:
                group[key] = rng.choice(ODD)
        folder = changed(saved, tmp_path, kind, lambda new, config=config: (new.clear(), new.update(config)))
        tracemalloc.start()
        try:
            load_model(folder)
            loaded += 1
        except UnimoError as error:
            refusals += 1
            said = error.one_line()
            assert "config.json" in said, (before, config, said)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 8 << 20
    assert loaded > 10 and refusals > 50


def test_a_model_on_no_device_has_the_shapes_that_are_compared(saved):
    """The comparison itself: the right settings pass for every kind, so nothing is refused that fits."""
    for kind, settings in TINY.items():
        weights = saved / kind / "model.safetensors"
        found = shapes(weights)
        assert found == {name: tuple(x.shape) for name, x in read_safetensors(weights).items()}
        check_shapes(settings, found, where="here", weights=weights)
        with pytest.raises(WeightsError, match="surplus"):
            check_shapes(settings, found | {"surplus": (1,)}, where="here", weights=weights)
    with pytest.raises(WeightsError, match="no settings"):
        model_settings({"settings": {}}, "here")
    assert model_settings({"settings": {"model": {}}}, "here") == ModelSettings()
