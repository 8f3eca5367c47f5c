"""One door to every model we can open: a run, one of its checkpoints, a saved folder, a name on the hub."""

from __future__ import annotations

from pathlib import Path

import torch

from unimo import checkpoint
from unimo.config import from_dict
from unimo.errors import WeightsError
from unimo.model import conversion
from unimo.model.build import ModelSettings, build, fill
from unimo.model.pretrained import from_pretrained, is_pretrained
from unimo.model.unified import Unified


def load_model(
    source: str | Path, *, device: str | torch.device = "cpu", revision: str | None = None
) -> tuple[Unified, checkpoint.Checkpoint]:
    """The model, ready to answer, and where it comes from (step, path, and the state it was saved with).

    source: a run's folder (the checkpoint its dev split chose, else its newest good one), a checkpoint, a folder of
    `save_pretrained`, or a name on the hub. Averaged weights are preferred where the run kept them. WeightsError:
    nothing there, damaged, another shape.
    """
    path = Path(source)
    if is_pretrained(path) or not path.exists():
        model, config = from_pretrained(source, revision=revision)
        state = {**config, **config["facts"], "settings": config["settings"]}
        step = state.get("step", 0)
        return model.to(device), checkpoint.Checkpoint(step if type(step) is int else 0, {}, state, path)
    saved = checkpoint.load(newest(path) or path, groups=[])
    saved = checkpoint.load(saved.path, groups=["average" if saved.state.get("averaged") else "model"])
    settings = saved.state.get("settings")
    if not isinstance(settings, dict) or "model" not in settings:
        raise WeightsError("a checkpoint without settings", where=saved.path, expected="settings in state.json")
    model = build(from_dict(ModelSettings, settings["model"]))
    fill(model, next(iter(saved.tensors.values())), where=saved.path)
    if saved.state.get("known_words") is not None:
        model.know_words(torch.tensor(saved.state["known_words"]))
    return model.to(device).eval(), saved


def newest(source: str | Path) -> Path | None:
    """Where the checkpoints of a run are, those its dev split chose if there are any. None: not a run or checkpoint."""
    path = Path(source)
    if is_pretrained(path) or not path.exists():
        return None
    if (path / "best").is_dir() and checkpoint.latest(path / "best") is not None:
        return path / "best"
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def start_from(model: Unified, source: str | Path) -> conversion.Account:
    """Puts the weights of another model into this one, where both have a parameter; what it lacks stays as it is.

    source: as of `load_model`. Raises WeightsError if it has a parameter that this model has not, or in another shape.
    """
    weights = {name: x.detach() for name, x in load_model(source)[0].named_parameters()}
    account = conversion.convert(model, conversion.by_name(model, weights), weights, where=source, strict=False)
    refuse_unfit(account, source)
    return account


def refuse_unfit(account: conversion.Account, source: str | Path) -> None:
    """WeightsError if the other model has a parameter that this one has not, or in another shape."""
    if account.misshapen or account.extra:
        raise WeightsError(
            "these weights do not fit the model to start from them",
            where=source,
            got="; ".join(" ".join(line.split()) for line in account.table()[1:]),
            expected="every tensor of theirs in ours, of the same shape",
            do="give the model the same sizes (--set model....)",
        )
