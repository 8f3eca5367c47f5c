"""Six updates of a toy network, and learning-rate schedules, against the published optimizers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from unimo.train.optimizer import OptimizerSettings, learning_rate, make_optimizer

NAMES = {  # published name -> ours, chosen so that our rule sees what theirs sees
    "toy_fc.w_0": "fc.weight",
    "toy_fc.b_0": "fc.bias",
    "toy_layer_norm_scale": "norm.weight",
    "toy_layer_norm_bias": "norm.bias",
    "toy_out_w": "out.weight",
    "toy_out_b": "out.bias",
    "toy_out_b_0": "extra",  # its suffix is none of those that do not decay
    "toy_projection_bias": "patches.projection.bias",
}
RELEASED = {
    ("unimo", "linear_wd"): {"decay": "unimo", "epsilon_form": "unimo"},
    ("unimo", "linear_clip"): {"decay": "unimo", "epsilon_form": "unimo"},
    ("unimo2", "adam_nodecay"): {"decay": "unimo2", "weight_decay": 0.0},
    ("unimo2", "adamw"): {"decay": "unimo2"},
}


def toy(weights: dict[str, np.ndarray]) -> nn.Module:
    module = nn.Module()
    for theirs, array in weights.items():
        *rooms, name = NAMES[theirs].split(".")
        at = module
        for room in rooms:
            if not hasattr(at, room):
                at.add_module(room, nn.Module())
            at = getattr(at, room)
        at.register_parameter(name, nn.Parameter(torch.from_numpy(array.copy())))
    return module


@pytest.mark.parametrize(("member", "variant"), RELEASED)
def test_six_updates(golden, member, variant):
    x = load_file(golden / member / "optimizer.safetensors")
    said = json.loads((golden / member / "optimizer.json").read_text())["values"][f"{variant}.settings"]
    total = said["num_train_steps"]
    settings = OptimizerSettings(
        **{
            "lr": said["learning_rate"],
            "warmup": said["warmup_steps"] / total,
            "weight_decay": said["weight_decay"],
            "beta1": said["beta1"],
            "beta2": said["beta2"],
            "epsilon": said["epsilon"],
            "clip": said["clip_global_norm"],
            "decayed": "released",
            **RELEASED[member, variant],
        }
    )
    first = {name.removeprefix("in.initial."): array for name, array in x.items() if name.startswith("in.initial.")}
    module = toy(first)
    optimizer = make_optimizer(module, settings)
    own = dict(module.named_parameters())
    assert len(own) == len(first) >= 7
    for step in range(6):
        rate = learning_rate(settings, step / total)
        assert rate == pytest.approx(float(x[f"out.{variant}.lr"][step]), rel=1e-6)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for theirs in first:
            own[NAMES[theirs]].grad = torch.from_numpy(x[f"out.{variant}.grad.{theirs}"][step].copy())
        nn.utils.clip_grad_norm_(own.values(), settings.clip)
        optimizer.step()
        for theirs in first:
            want = torch.from_numpy(x[f"out.{variant}.param.{theirs}"][step])
            torch.testing.assert_close(own[NAMES[theirs]].detach(), want, rtol=0, atol=1e-5 * max(1, want.abs().max()))


@pytest.mark.parametrize("member", ["unimo", "unimo2"])
@pytest.mark.parametrize("name", ["linear", "noam", "piecewise"])
def test_schedules(golden, member, name):
    rates = load_file(golden / member / "optimizer.safetensors")[f"out.schedule.{name}"]
    said = json.loads((golden / member / "optimizer.json").read_text())["values"][f"schedule.{name}.settings"]
    total = said["num_train_steps"]
    changes = {}
    if name == "piecewise":
        changes["boundaries"] = tuple(step / total for step in said["boundaries"])
        changes["factors"] = tuple(value / said["learning_rate"] for value in said["values"])
    settings = OptimizerSettings(
        lr=said["learning_rate"],
        warmup=said["warmup_steps"] / total,
        decay=member if name == "linear" else name,
        **changes,
    )
    late = int(member == "unimo" and name == "noam")  # released UNIMO counts from 1 here
    got = [learning_rate(settings, (step + late) / total) for step in range(len(rates))]
    np.testing.assert_allclose(got, rates, rtol=2e-6, atol=1e-12)
