"""Loader of every model we can open: a run, one of its checkpoints, a saved folder, a name on the hub."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from unimo import checkpoint
from unimo.errors import WeightsError
from unimo.model.build import ModelSettings, build, fill
from unimo.model.unified import Unified
from unimo.paths import user_path
from unimo.weights import files, key_map, saved_settings
from unimo.weights.pretrained import CONFIG, from_pretrained, is_pretrained


def load_model(
    source: str | Path, *, device: str | torch.device = "cpu", revision: str | None = None
) -> tuple[Unified, checkpoint.Checkpoint]:
    """The model in eval mode, and where it comes from (step, path, and the state it was saved with).

    source: a run's folder (the checkpoint its dev split chose, else its newest good one), a checkpoint, a folder of
    `save_pretrained`, or a name on the hub. Averaged weights are preferred where the run kept them. WeightsError:
    nothing there, damaged, another shape.
    """
    path, place = user_path(source, "model"), newest(source)
    if place is None:
        model, config = from_pretrained(source, revision=revision)
        own = {key: config.get(key) for key in ("settings", "known_words")}  # whatever its run has noted
        state = {**config, **config["facts"], **own}
        step = state.get("step", 0)
        return model.to(device), checkpoint.Checkpoint(step if type(step) is int else 0, {}, state, path)
    saved = checkpoint.load(place, groups=[])
    where = saved.path / checkpoint.STATE
    settings = saved_settings.model_settings(saved.state, where)
    known = saved_settings.vocabulary_subset(saved.state, settings, where)
    group = "ema" if saved.state.get("ema") else "model"
    weights = saved.path / f"{group}.safetensors"
    saved_settings.check_shapes(settings, files.shapes(weights), where=f"{where}: settings.model", weights=weights)
    saved = checkpoint.load(saved.path, groups=[group])
    model = build(settings)
    fill(model, saved.tensors[group], where=saved.path)
    if known is not None:
        model.know_words(known)
    return model.to(device).eval(), saved


def settings_and_words(source: str | Path) -> tuple[ModelSettings, Tensor | None]:
    """The settings a saved model was built with, and its known words; sources as of `load_model`.

    Nothing is built where the source is a run or a checkpoint.
    """
    place = newest(source)
    if place is None:
        state, where = load_model(source)[1].state, Path(source) / CONFIG
    else:
        saved = checkpoint.load(place, groups=[])
        state, where = saved.state, saved.path / checkpoint.STATE
    settings = saved_settings.model_settings(state, where)
    return settings, saved_settings.vocabulary_subset(state, settings, where)


def newest(source: str | Path) -> Path | None:
    """Where the checkpoints of a run are, those its dev split chose if there are any. None: not a run or checkpoint."""
    path = user_path(source, "model")
    if is_pretrained(path) or not path.exists():
        return None
    if (path / "best").is_dir() and checkpoint.latest(path / "best") is not None:
        return path / "best"
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def start_from(model: Unified, source: str | Path) -> key_map.LoadReport:
    """Puts the weights of another model into this one, where both have a parameter; what it lacks stays as it is.

    source: as of `load_model`. Raises WeightsError if it has a parameter that this model has not, or in another shape.
    """
    weights = {name: x.detach() for name, x in load_model(source)[0].named_parameters()}
    report = key_map.convert(model, key_map.by_name(model, weights), weights, where=source, strict=False)
    refuse_unfit(report, source)
    return report


def refuse_unfit(report: key_map.LoadReport, source: str | Path) -> None:
    """WeightsError if the other model has a parameter that this one has not, or in another shape."""
    if report.misshapen or report.extra:
        what, do = (
            "these weights do not fit the model to start from them",
            "give the model the same sizes (--set model....)",
        )
        expected = "every tensor of theirs in ours, of the same shape"
        raise WeightsError(what, where=source, got=report.problems(), expected=expected, do=do)
