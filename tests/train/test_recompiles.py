"""How often the sparse attention, and layers where asked for, are compiled while batches of every length go by.

Counted on a CPU. FlexAttention refuses a backward pass on CPUs; but for that check it can
be traced there with its gradients (backend aot_eager: graphs are made, and run operation by operation).
"""

from __future__ import annotations

import pytest
import torch
from tiny_batches import tiny_batch
from tiny_unimo2 import lively_model
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention as module

from unimo import objectives as every
from unimo.train import loop
from unimo.train.settings import Run
from unimo.train.step import TrainStep

MOST = 2  # the first graph takes sizes that happen to be equal for one size; the second does no longer


@pytest.fixture
def traced(monkeypatch):
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(module, "_validate_device", lambda *_: None)
    kernel = torch.compile(module.flex_attention, dynamic=True, backend="aot_eager")
    monkeypatch.setattr(module, "flex_attention", kernel)
    yield
    torch._dynamo.reset()
    counters.clear()


def test_steps_of_every_length_need_few_graphs_and_break_none(traced):
    """Three to five masked passages, texts of 4 to 30 tokens: the packed rows of all three towers change every step."""
    active = {
        "mlm": every.MaskedLanguageModeling(pairs=4),
        "seq2seq": every.Seq2SeqGeneration(pairs=2),
        "cmcl": every.CrossModalContrastive(),
        "itm": every.ImageTextMatching(pairs=4, hard=False),
    }
    model = lively_model(dropout=0.0, attention_dropout=0.0).train()
    step = TrainStep(model, active)
    for i in range(4):
        batch = tiny_batch(active.values(), pairs=6 + i, masked=3 + i % 3, fragments=2 + i % 2, seed=i)
        found = {}
        for form in ("flex", "dense"):
            model.attention_form = form
            model.zero_grad()
            step(batch)[0].backward()
            found[form] = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        if i == 1:
            warm = counters["stats"]["unique_graphs"]
        for ours, plain in zip(found["flex"], found["dense"], strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max() + 1e-3))
    assert 1 <= counters["stats"]["unique_graphs"] == warm <= MOST and not counters["graph_break"]


def test_compiled_layers_learn_the_same_and_are_compiled_once_for_each_form(monkeypatch):
    """torch_compile: what follows the attention, of pre-norm and of post-norm layers, whatever the lengths."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(loop, "compiled", lambda function: torch.compile(function, dynamic=True, backend="aot_eager"))
    active = {"seq2seq": every.Seq2SeqGeneration(pairs=2), "cmcl": every.CrossModalContrastive()}
    found = {}
    for compiled in (False, True):
        model = lively_model(dropout=0.0, attention_dropout=0.0).train()
        loop.set_up(model, Run(torch_compile=compiled), torch.device("cpu"))
        step = TrainStep(model, active)
        for i in range(4):
            if i == 2:
                warm = counters["stats"]["unique_graphs"]
            model.zero_grad()
            step(tiny_batch(active.values(), pairs=6 + i, fragments=2 + i % 2, seed=i))[0].backward()
        found[compiled] = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        assert (counters["stats"]["unique_graphs"] > 0) == compiled
    for ours, plain in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(ours, plain)
    assert counters["stats"]["unique_graphs"] == warm <= 2 * MOST and not counters["graph_break"]
