"""Layer-wise decay: every parameter in one group, slower the deeper it lies, and the loop heeds it."""

from __future__ import annotations

import pytest
import torch
from tiny_task import SIZES, quiet, tiny_run, write_csv, write_start

from unimo.finetune.job import Task
from unimo.finetune.settings import TaskData
from unimo.model.build import ModelSettings, build
from unimo.model.task_heads import HeadSettings
from unimo.train import loop as T
from unimo.train.optimizer import OptimizerSettings, lr_scales, make_optimizer

DEEP = {**SIZES, "depth": 3, "image_depth": 2, "text_depth": 2, "grounded_depth": 2}


def model_of(member: str):
    return build(ModelSettings("tiny", member=member, head=HeadSettings(labels=("a", "b")), **DEEP))


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (
            "unimo-2",
            {
                "head.output.weight": 0, "text_pooler.linear.bias": 0, "dictionary.entries": 0,
                "grounded_encoder.layers.1.ffn_in.weight": 1, "grounded_encoder.layers.0.ffn_in.weight": 2,
                "text_encoder.layers.1.ffn_in.weight": 3, "text_encoder.layers.0.attention.qkv.bias": 4,
                "words.word.weight": 5, "words.norm.bias": 5,
                "image_encoder.final_norm.weight": 2, "image_encoder.layers.1.ffn_out.weight": 3,
                "image_encoder.layers.0.ffn_out.weight": 4, "patches.positions": 5,
            },
        ),
        (
            "unimo",
            {
                "head.output.bias": 0, "image_pooler.linear.weight": 0, "encoder.layers.2.ffn_in.weight": 1,
                "encoder.layers.0.ffn_in.weight": 3, "words.word.weight": 4, "regions.feature.weight": 4,
            },
        ),
    ],
)  # fmt: skip
def test_scales_are_powers_of_the_layers_above(member, expected):
    scales = lr_scales(model_of(member), 0.5)
    assert {name: scales[name] for name in expected} == {name: 0.5**above for name, above in expected.items()}
    assert set(lr_scales(model_of(member), 1.0).values()) == {1.0}


@pytest.mark.parametrize("layers", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_with_its_own_scale(layers):
    model = model_of("unimo-2")
    scales = lr_scales(model, 0.8)
    optimizer = make_optimizer(model, OptimizerSettings(layer_decay=0.8, matrix_optimizer=layers))
    told = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(told) == len(scales)
    assert all(told[id(p)] == scales[name] for name, p in model.named_parameters())


def test_deep_layers_move_less_in_a_run(tmp_path, monkeypatch):
    rates: list[dict[float, float]] = []
    real = T.make_optimizer

    def watched(model, settings):
        optimizer = real(model, settings)
        step = optimizer.step

        def told():
            rates.append({group["scale"]: group["lr"] for group in optimizer.param_groups})
            step()

        optimizer.step = told
        return optimizer

    monkeypatch.setattr(T, "make_optimizer", watched)
    rows = [{"text": f"film {i}", "label": str(i % 2)} for i in range(8)]
    path = write_csv(tmp_path / "rows.csv", rows)
    run = tiny_run(write_start(tmp_path / "start"), "classification", TaskData(train=(path,)), "steps=3",
                   "optimizer.layer_decay=0.5", "optimizer.warmup=0")  # fmt: skip
    torch.manual_seed(0)
    T.train(Task(run), tmp_path / "run", say=quiet)
    assert len(rates) == 3 and len(rates[0]) > 2
    for told in rates:
        assert all(rate == pytest.approx(told[1.0] * scale) for scale, rate in told.items())
