"""How often a training step waits for its GPU, counted without one.

Tensors of the "GPU" are fake: they have shapes and no numbers. What is sent from the host, and what is made with a
`device`, becomes one of them; to look at a number of them, or at a shape that depends on their numbers, fails. Only
`Tensor.cpu` is allowed: it is counted, and gives zeros. Counted is also what copies Python numbers to a GPU, and waits.
"""

from __future__ import annotations

import pytest
import torch
from tiny_batches import tiny_batch, tiny_draft
from tiny_unimo import detected, lively_unimo
from tiny_unimo2 import lively_model
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from unimo import objectives as every
from unimo.batch import read_back, sent
from unimo.model.attention import Plan
from unimo.train.optimizer import OptimizerSettings, make_optimizer
from unimo.train.step import TrainStep

COPIES = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)  # of Python numbers, to a device: they wait


class Gpu(TorchFunctionMode):
    """A device that is told of by `device=` and `non_blocking=`; it counts who waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.fake, self.waits = FakeTensorMode(allow_non_fake_inputs=True), 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        of_gpu = bool(args) and isinstance(args[0], FakeTensor)
        if function is torch.Tensor.cpu and of_gpu:
            self.waits += 1
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        if function is torch.Tensor.to and "non_blocking" in kwargs:
            return self.fake.from_tensor(args[0]) if not of_gpu else args[0]
        if function in COPIES and (of_gpu or kwargs.get("device") is not None):
            self.waits += 1
        if kwargs.get("device") is not None:
            with self.fake:
                return function(*args, **kwargs)
        if function is torch.Tensor.__setitem__ or function is torch.Tensor.__getitem__:
            masks = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(m, FakeTensor) and m.dtype == torch.bool for m in masks), "waits to count a mask"
        return function(*args, **kwargs)


def waits_of_a_step(model, active, batch) -> int:
    """Forward, backward, clipping, the numbers read back, and the update, as the loop does them."""
    gpu = Gpu()
    step = TrainStep(model, active).train()
    for module in step.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(gpu.fake.from_tensor(parameter.detach())))
    optimizer = make_optimizer(model, OptimizerSettings())
    with gpu:
        for _ in range(2):
            loss, report, _ = step(sent(batch, gpu.fake.from_tensor))
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            step.losses([*read_back(torch.cat([report, norm[None]])).tolist()[:-1], 1.0])
            optimizer.step()
            optimizer.zero_grad()
    assert gpu.waits % 2 == 0
    return gpu.waits // 2


def of_unimo2(**options):
    active = {
        "mlm": every.MaskedLanguageModeling(pairs=4),
        "seq2seq": every.Seq2SeqGeneration(pairs=2),
        "cmcl": every.CrossModalContrastive(),
        "itm": every.ImageTextMatching(pairs=4, **options),
        "image_contrastive": every.ImageContrastive(),
        "dictionary": every.GroundedDictionaryLoss(),
        "masked_grounding": every.MaskedGrounding(weight=1.0, pairs=3),
        "text_contrastive": every.TextContrastive(weight=1.0),
    }
    return active, tiny_batch(active.values(), pairs=6, images=2, masked=3, fragments=2, same_image={3: 1})


@pytest.mark.parametrize(("hard", "most"), [(True, 2), (False, 1)])
def test_a_step_of_unimo2_waits_for_what_it_reports_and_for_its_negatives(hard, most):
    active, batch = of_unimo2(hard=hard)
    assert waits_of_a_step(lively_model(masked_grounding=True), active, batch) == most


def test_towers_in_chunks_wait_no_more():
    active, batch = of_unimo2(hard=True)
    model = lively_model(dropout=0.0)
    model.tower_chunk = 2
    active.pop("masked_grounding")
    assert waits_of_a_step(model, active, batch) == 2


def test_a_step_of_unimo_waits_for_what_it_reports_alone():
    active = {
        "mlm": every.MaskedLanguageModeling(pairs=2),
        "seq2seq": every.Seq2SeqGeneration(pairs=2),
        "itm": every.ImageTextMatching(pairs=2, hard=False),
        "mrm": every.MaskedRegionModeling(pairs=2),
        "rewriting": every.RewritingContrastive(pairs=3),
    }
    builder = tiny_draft(pairs=4, masked=2, fragments=1)
    builder.pixels, builder.regions = {}, {"pairs": detected([3, 5, 4, 2])}
    for objective in active.values():
        objective.corrupt(builder)
    assert waits_of_a_step(lively_unimo(matching=2, region_heads=True), active, builder.finish()) == 1


@torch.no_grad()
def test_the_sparse_mask_is_laid_out_without_waiting():
    gpu, role = Gpu(), torch.tensor([0, 0, 2, 2, 4, 4] * 60)
    owner = torch.arange(60).repeat_interleave(6)
    with gpu:
        plan = Plan(owner, role, torch.arange(360), device=gpu.fake.from_tensor(role).device)
        assert isinstance(plan.block_mask.kv_indices, FakeTensor)
    assert gpu.waits == 0
