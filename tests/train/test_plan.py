"""What `unimo plan` foretells of a step is what a real step holds and sends."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from tiny_run import quiet, tiny, write_tiny_world
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unimo import recipes
from unimo.config import override
from unimo.errors import ResourceError, UsageError
from unimo.model.build import build
from unimo.train import parallel as parallel_module
from unimo.train.dry_run import among, dry_run, tensors_of, typical_batch
from unimo.train.loop import train
from unimo.train.optimizer import make_optimizer
from unimo.train.parallel import check_devices, parallel
from unimo.train.plan import CHANGES, GIB, USABLE, Machine, check_fits, plan, rough_bytes
from unimo.train.settings import Run
from unimo.train.step import TrainStep

SMALL = (
    "model.width=64", "model.heads=4", "model.vocabulary=50265", "batch.pairs=32", "batch.images=8",
    "batch.text_tokens=1024", "precision=fp32", "optimizer.matrix_optimizer=adamw", "ema_decay=0.9",
)  # fmt: skip
UNIMO2 = ("model.image_depth=2", "model.text_depth=2", "model.grounded_depth=2", "objectives.itm.hard=false")


def small(recipe: str, *changes: str) -> Run:
    run = recipes.find(recipe)
    own = UNIMO2 if run.model.member == "unimo-2" else ("model.depth=2",)
    last = {change.partition("=")[0]: change for change in (*SMALL, *own, *changes)}
    return override(run, last.values())


def real_step(run: Run) -> tuple[TrainStep, torch.Tensor, int]:
    """The step on real tensors, its loss, and the bytes that its backward pass was given to keep."""
    step = TrainStep(build(run.model), run.objectives.active()).train()
    batch = typical_batch(run)
    kept: dict[int, int] = {}
    known = {x.untyped_storage().data_ptr() for x in (*step.parameters(), *tensors_of(batch))}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in known:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = step(batch)[0]
    return step, loss, sum(kept.values())


@pytest.mark.parametrize("recipe", ["scenes", "unimo-scenes"])
def test_memory_by_part_is_that_of_a_real_step(recipe):
    """Weights and moments to the byte (but for the optimizer's counters); activations to 3 %: index tensors."""
    run = small(recipe)
    step, loss, kept = real_step(run)
    needs = dry_run(run, form="dense")
    assert needs.memory["weights"] == sum(x.nbytes for x in step.state_dict().values())
    assert needs.memory["gradients"] == needs.memory["average"] == needs.memory["weights"]
    assert needs.memory["activations"] == pytest.approx(kept, rel=0.03)
    loss.backward()
    optimizer = make_optimizer(step.model, run.optimizer)
    optimizer.step()
    moments = sum(x.nbytes for state in optimizer.state.values() for x in state.values() if x.numel() > 1)
    without = sum(8 * p.numel() for p in step.parameters() if p.grad is None)
    alone = sum(8 for p in step.parameters() if p.numel() == 1 and p.grad is not None)
    assert needs.memory["moments"] == moments + without + alone


def test_fused_attention_and_what_is_computed_again_need_less():
    run = small("scenes")
    dense, fused = dry_run(run, form="dense"), dry_run(run)
    again = dry_run(replace(run, activation_checkpointing=True))
    chunked = dry_run(replace(run, activation_checkpointing=True, tower_chunk=4))
    order = [needs.memory["activations"] for needs in (dense, fused, again, chunked)]
    assert order == sorted(order, reverse=True) and len(set(order)) == 4


class Sent(TorchDispatchMode):
    """Bytes that collective steps put out, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            size = sum(x.nbytes for x in tree_leaves(args[0]) if isinstance(x, torch.Tensor))
            self.bytes[function.__name__] = self.bytes.get(function.__name__, 0) + size
        return function(*args, **(kwargs or {}))


WORLD = 1024


def test_features_of_1024_processes_are_sent_as_foretold():
    """One pair a process: both features gathered, and the gradient of all of them added up."""
    run = small("scenes", f"batch.pairs={WORLD}", "batch.images=0", "objectives.image_contrastive.weight=0")
    needs = dry_run(run, WORLD)
    assert not dist.is_initialized()
    gathered, identities = WORLD * 64 * 4, WORLD * 2 * 8
    names = sum(len(one.parts) for one in run.objectives.active().values())
    summed = 2 * gathered + 4 * names * 4  # gradients of both sides' features, and the losses
    features = needs.sent["contrastive features"] * WORLD / (WORLD - 1)
    assert features == pytest.approx(2 * gathered + identities + 2 * summed, rel=1e-6)
    assert needs.sent["gradients"] == pytest.approx(2 * 4 * needs.parameters, rel=0.01)


def test_parts_of_1024_processes_have_their_shapes_and_are_gathered_once():
    run = small("scenes", "parallel=fsdp", f"batch.pairs={WORLD}", "batch.images=0")
    step = TrainStep(build(run.model), run.objectives.active()).train()
    whole = {name: p.shape for name, p in step.named_parameters()}
    batch = typical_batch(run, WORLD)
    with among(WORLD):
        module = parallel(step, run)
        for name, parameter in module.named_parameters():
            assert parameter.shape == whole[name]
            assert len(parameter.to_local()) == min(-(-whole[name][0] // WORLD), whole[name][0]), name
        with Sent() as sent:
            module(batch)[0].backward()
    size = sum(4 * shape.numel() for shape in whole.values())
    gathered = sum(n for name, n in sent.bytes.items() if "allgather_base" in name)
    assert size <= gathered <= size + 4 * WORLD * sum(shape.numel() // max(1, shape[0]) for shape in whole.values())
    assert sent.bytes["_reduce_scatter_base_.default"] * WORLD == gathered


def test_parts_hold_less_than_copies():
    run = small("scenes", "batch.pairs=32")
    copies, parts = (dry_run(replace(run, parallel=kind), 8) for kind in ("ddp", "fsdp"))
    assert parts.memory["moments"] == copies.memory["moments"] // 8
    assert parts.memory["weights"] + parts.memory["gathered weights"] > copies.memory["weights"]


def test_a_run_that_does_not_fit_says_what_it_needs_and_what_would_help():
    run = small("scenes")
    needs = dry_run(run)
    with pytest.raises(ResourceError) as error:
        check_fits(run, 1, needs.total)
    assert "activations" in error.value.parts()["got"]
    fits = next(change for change in CHANGES if dry_run(replace(run, **change)).total <= USABLE * needs.total)
    settings = " ".join(f"--set {name}={str(value).lower()}" for name, value in fits.items())
    assert f"with {settings} it needs" in error.value.parts()["do"]
    check_fits(run, 1, 2 * needs.total)
    lines = "\n".join(plan(run, Machine(1, needs.total)))
    assert "it does not fit; with --set" in lines
    assert "together" in lines and f"{needs.memory['weights'] / GIB:8.2f}" in lines


def test_a_plan_has_days_and_cost_for_every_number_of_gpus():
    run = override(recipes.find("unimo-base"), [*SMALL, "model.depth=2", "steps=1000"])
    needs = dry_run(run, 8)
    computing, size = needs.operations / (1e12 * 0.5), sum(needs.sent.values())
    lines = plan(run, Machine(8, rate=1e12, utilisation=0.5, bandwidth=2 * size / computing, price=3.0))
    rows = [line for line in lines if "GPUs " in line and "steps/s" in line]
    assert [int(row.split()[0]) for row in rows] == [8, 64, 1024]
    days = 8 * needs.operations * 1000 / (8 * 1e12 * 0.5) / 86400
    assert f"1,000 steps: {days:.2f} days, cost {days * 24 * 8 * 3:,.0f}" in rows[0] and "32 V100 x 7 days" in rows[0]
    assert f"{2 / computing:.2f} steps/s" in rows[2] and "sending takes longer" in rows[2]
    assert "sending" not in rows[0]


def test_gpus_that_cannot_share_a_batch_are_refused():
    with pytest.raises(UsageError, match="36"):
        plan(small("scenes"), Machine(12))


def test_gpus_of_two_kinds_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    monkeypatch.setattr(parallel_module.distributed, "everyone", lambda name: [name, "A100"])
    with pytest.raises(UsageError, match="rank 0: H100; rank 1: A100"):
        check_devices(small("scenes"), torch.device("cuda"))


@pytest.mark.parametrize(
    ("device", "processes", "place"),
    [("cuda", 1, "a GPU"), ("cpu", 1, "the free memory"), ("cpu", 4, "the free memory of 4 processes")],
)
def test_a_step_that_does_not_fit_is_refused_with_the_numbers_of_its_plan(monkeypatch, device, processes, place):
    run, device = small("scenes"), torch.device(device)
    needs = dry_run(run)
    memory = processes * needs.total / 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory))
    monkeypatch.setattr(parallel_module, "free_memory", lambda: memory)
    with pytest.raises(ResourceError, match=f"does not fit into {place} ") as error:
        check_devices(run, device)
    assert f"about {needs.total / GIB:.1f} GiB: weights" in error.value.parts()["got"]
    memory = processes * needs.total * 2
    check_devices(run, device)


def test_where_the_system_does_not_tell_its_free_memory_a_run_is_let_through(monkeypatch):
    monkeypatch.setattr(parallel_module, "free_memory", lambda: None)
    check_devices(small("scenes"), torch.device("cpu"))


@pytest.mark.parametrize("recipe", ["scenes", "unimo-scenes"])
def test_a_rough_count_is_above_what_a_plan_says(recipe):
    run = small(recipe)
    assert dry_run(run, form="dense").total < rough_bytes(run) < 10 * dry_run(run).total


def test_training_that_does_not_fit_ends_before_it_begins(tmp_path, monkeypatch):
    world = write_tiny_world(tmp_path / "world")
    monkeypatch.setattr(parallel_module, "free_memory", lambda: 1000)
    with pytest.raises(ResourceError, match="does not fit into the free memory"):
        train(tiny(world), tmp_path / "run", say=quiet)
    assert not (tmp_path / "run" / "log.jsonl").exists()
