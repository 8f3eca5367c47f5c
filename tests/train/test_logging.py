"""Curves go where they are wanted, and what is not installed is said before anything is opened."""

import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from unimo.errors import UsageError
from unimo.recipes import RECIPES
from unimo.train.logging import EXTRAS, Tracker
from unimo.train.loop import train


@pytest.mark.parametrize("kind", EXTRAS)
def test_a_tracker_that_is_not_installed_names_its_extra_before_a_run_begins(kind, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == kind else found(name, *rest))
    run = replace(RECIPES["scenes"](), log=kind)
    run = replace(run, data=replace(run.data, texts=("nowhere",)))
    with pytest.raises(UsageError, match="not installed") as caught:
        train(run, tmp_path / "run")
    assert f"unimo[{EXTRAS[kind]}]" in caught.value.do and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_services_get_the_settings_and_every_tenth_step(kind, tmp_path, monkeypatch):
    told = []
    service = SimpleNamespace(
        init=lambda **options: told.append(options),
        log=lambda values, step: told.append((step, values)),
        finish=lambda: told.append("finish"),
    )
    monkeypatch.setitem(sys.modules, kind, service)
    tracker = Tracker(kind, tmp_path / "mine", 0, {"seed": 3})
    for step in range(21):
        tracker.plot({"step": step, "loss": step / 2, "skipped": {"pairs": ["a"]}})
    tracker.close()
    assert told[0]["name"] == "mine" and told[0]["config"] == {"seed": 3} and told[-1] == "finish"
    assert told[1:-1] == [(step, {"loss": step / 2}) for step in (0, 10, 20)]


def test_tensorboard_is_written_where_it_is_installed_and_none_writes_nothing(tmp_path):
    pytest.importorskip("tensorboard")
    for kind in ("auto", "none"):
        tracker = Tracker(kind, tmp_path / kind, 0, {})
        tracker.plot({"step": 0, "loss": 1.0})
        tracker.close()
    assert list((tmp_path / "auto/tensorboard").iterdir()) and not (tmp_path / "none").exists()
