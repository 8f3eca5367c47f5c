"""Who moves which weights, how far, and that what was saved goes on as if nothing had happened."""

import dataclasses

import pytest
import torch
from torch import nn

from unimo.config import check_settings
from unimo.errors import UsageError
from unimo.model.build import ModelSettings, build
from unimo.train.optimizer import OptimizerSettings, learning_rate, make_optimizer, moments, put_back, rate_of_step

TINY = ModelSettings(
    size="tiny", width=16, heads=2, image_depth=1, text_depth=1, grounded_depth=1, image_size=32, vocabulary=40,
    positions=20, dictionary=8, chosen=4,
)  # fmt: skip
RATE = 1e-2


def fresh(layers):
    torch.manual_seed(0)
    model = build(TINY)
    return model, make_optimizer(model, OptimizerSettings(lr=RATE, weight_decay=0.0, matrix_optimizer=layers))


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("layers", ["adamw", "muon"])
def test_every_parameter_has_exactly_one_mover(layers):
    model, optimizer = fresh(layers)
    moved = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in model.parameters())


def test_muon_moves_the_matrices_inside_layers_along_an_orthogonal_direction():
    """Its first step is the gradient with all singular values made (nearly) one, as large as Adam's step."""
    model, optimizer = fresh("muon")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    give_gradients(model, 1)
    optimizer.step()
    for name, parameter in model.named_parameters():
        step = (before[name] - parameter.detach()) / RATE
        if ".layers." in name and parameter.ndim == 2:
            u, _, v = torch.linalg.svd(parameter.grad, full_matrices=False)
            exact = u @ v * 0.2 * max(parameter.shape) ** 0.5
            # Five iterations leave singular values between about 0.7 and 1.2: the direction, not the length, is exact.
            assert torch.cosine_similarity(step.flatten(), exact.flatten(), dim=0) > 0.95, name
            assert 0.1 < step.square().mean().sqrt() < 0.3, name
        else:
            adam = parameter.grad / (parameter.grad.abs() + OptimizerSettings().epsilon)  # its first step
            assert torch.allclose(step, adam, atol=2e-3), name


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_queries_keys_and_values_can_be_three_matrices(layer_decay):
    """Each third of the fused weight then moves along its own orthogonal direction; nothing else moves otherwise."""
    moves = []
    for split in (False, True):
        torch.manual_seed(0)
        model = build(TINY)
        settings = OptimizerSettings(
            lr=RATE, weight_decay=0.0, matrix_optimizer="muon", split_qkv=split, layer_decay=layer_decay
        )
        optimizer = make_optimizer(model, settings)
        moved = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(moved) == sorted(id(p) for p in model.parameters())
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        give_gradients(model, 1)
        optimizer.step()
        moves.append({name: before[name] - p.detach() for name, p in model.named_parameters()})
    for name, parameter in model.named_parameters():
        if not name.endswith("qkv.weight"):
            assert torch.allclose(moves[0][name], moves[1][name], atol=1e-6), name
            continue
        assert not torch.allclose(moves[0][name], moves[1][name], atol=1e-3), name
        for step, gradient in zip(moves[1][name].chunk(3), parameter.grad.chunk(3)):
            u, _, v = torch.linalg.svd(gradient)
            assert torch.cosine_similarity(step.flatten(), (u @ v).flatten(), dim=0) > 0.9, name


@pytest.mark.parametrize("layers", ["adamw", "muon"])
def test_saved_moments_go_on_exactly(layers):
    model, optimizer = fresh(layers)
    give_gradients(model, 1)
    optimizer.step()
    saved = {name: value.clone() for name, value in moments(model, optimizer).items()}
    twin, other = fresh(layers)
    twin.load_state_dict(model.state_dict())
    put_back(twin, other, saved)
    for one, its in ((model, optimizer), (twin, other)):
        give_gradients(one, 2)
        its.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(twin.named_parameters())[name]), name


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_rate_rises_then_falls_and_can_be_held_at_its_peak(decay):
    falling = OptimizerSettings(lr=2.0, warmup=0.1, final=0.25, decay=decay)
    rates = [learning_rate(falling, progress) for progress in (0.0, 0.05, 0.1, 0.55, 1.0, 1.7)]
    assert rates == pytest.approx([0.0, 1.0, 2.0, 1.25, 0.5, 0.5])
    held = OptimizerSettings(lr=2.0, warmup=0.1, hold=0.6, decay=decay)
    rates = [learning_rate(held, progress) for progress in (0.05, 0.1, 0.3, 0.6, 0.8, 1.0)]
    assert rates == pytest.approx([1.0, 2.0, 2.0, 2.0, 1.0, 0.0])


def test_a_released_schedule_is_not_held():
    with pytest.raises(UsageError, match=r"optimizer\.hold.*noam"):
        check_settings(OptimizerSettings(hold=0.5, decay="noam"), "optimizer")


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.99, 1.0, 1.5])
def test_case_the_released_line_without_a_warm_up_stays_at_its_peak(progress):
    """The release builds its schedule only `if warmup_steps > 0`; else the rate is one number."""
    assert learning_rate(OptimizerSettings(lr=2.0, warmup=0.0, decay="unimo"), progress) == 2.0
    fallen = learning_rate(OptimizerSettings(lr=2.0, warmup=0.01, decay="unimo"), progress)
    assert fallen == pytest.approx(2.0 * max(0.0, 1 - progress) if progress else 0.0)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 7, 20, 400])
def test_case_every_step_of_a_run_moves_the_weights(decay, steps):
    settings = OptimizerSettings(lr=2.0, warmup=0.05, decay=decay)
    rates = [rate_of_step(settings, step / steps, 1 / steps) for step in range(steps)]
    assert min(rates) > 0 and max(rates) <= 2.0
    rises = rates[: 1 + rates.index(max(rates))]
    assert rises == sorted(rises) and rates[len(rises) :] == sorted(rates[len(rises) :], reverse=True)
    if steps == 400:  # as much way in all as the line itself, whose mean over warm-up and fall is a half
        assert sum(rates) / steps == pytest.approx(1.0, abs=1e-4)


def test_released_steps_have_the_rate_of_their_beginning():
    for decay in ("unimo", "unimo2", "noam", "piecewise"):
        settings = OptimizerSettings(lr=2.0, warmup=0.25, decay=decay)
        for step in range(8):
            assert rate_of_step(settings, step / 8, 1 / 8) == learning_rate(settings, step / 8)


@pytest.mark.parametrize("member", ["unimo", "unimo-2"])
def test_case_maps_and_the_word_table_decay_and_nothing_else(member):
    """By module here, by name there: a table added under another name would show."""
    model = build(dataclasses.replace(
        TINY, member=member, dialogue=member == "unimo", depth=1, masked_grounding=member == "unimo-2",
        contrastive_projection=member == "unimo-2", region_size=5, region_classes=3,
    ))  # fmt: skip
    optimizer = make_optimizer(model, OptimizerSettings(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    maps = {id(part.weight) for part in model.modules() if isinstance(part, (nn.Linear, nn.Conv2d))}
    for name, parameter in model.named_parameters():
        wanted = id(parameter) in maps or name == "words.word.weight"
        assert decay[id(parameter)] == (0.3 if wanted else 0.0), name
