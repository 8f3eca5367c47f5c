"""The heads of fine-tuned tasks, and adversarial training as the loop runs it, against the authors' published graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from parity.golden_files import close, real_tokens, scenario
from parity.test_unimo_golden import published_model, regions_of, texts_of

from unimo import objectives
from unimo.batch import Batch
from unimo.finetune import adversarial as adversarial_training
from unimo.finetune.adversarial import AdversarialTrainStep
from unimo.finetune.task_types import Classification, Regression
from unimo.model.task_heads import HeadSettings, TaskHead
from unimo.model.unimo import UNIMO
from unimo.objectives.adversarial import Adversarial

LABELS = ("contradiction", "entailment", "neutral")


@pytest.fixture(scope="module")
def files(golden: Path) -> Path:
    return golden / "unimo"


def with_head(files: Path, settings: HeadSettings, layers: dict[str, str]) -> UNIMO:
    """layers: our layer -> how the published ones end, {w} and {b} for weight and bias."""
    model, weights = published_model(files), scenario(files, "params")
    model.head = TaskHead(model.width, settings).eval()
    with torch.no_grad():
        for name, theirs in layers.items():
            layer = getattr(model.head, name)
            layer.weight.copy_(weights[theirs.format("w")].T)
            layer.bias.copy_(weights[theirs.format("b")])
    return model


def batch_of(texts, extra, regions=None) -> Batch:
    n = len(texts)
    groups = {"examples": (0, n)}
    images = groups if regions is not None else {}
    nothing = torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
    image = torch.arange(n) if regions is not None else torch.full((n,), -1)
    extra = {"examples.image": image, **extra}
    return Batch(0, nothing, texts, images, groups, {}, extra, regions=regions)


def test_three_classes(files):
    x, head = scenario(files, "classification"), HeadSettings(labels=LABELS)
    model = with_head(files, head, {"output": "cls_out_3_{}"})
    texts = texts_of(x, real_tokens(x["in.input_mask"]))
    batch = batch_of(texts, {"classify.labels": x["in.cls3.labels"][:, 0]})
    parts, _ = objectives.step(model, batch, {"task": Classification(head, sees=False)})
    close(parts["classify"].total / parts["classify"].count, x["out.cls3.loss"].squeeze())
    close(parts["classify.accuracy"].total / 3, x["out.cls3.accuracy"].squeeze())


def test_a_number(files):
    x, head = scenario(files, "classification"), HeadSettings(kind="number")
    model = with_head(files, head, {"output": "cls_out_1_{}"})
    texts = texts_of(x, real_tokens(x["in.input_mask"]))
    batch = batch_of(texts, {"regress.targets": x["in.reg.labels"][:, 0]})
    parts, _ = objectives.step(model, batch, {"task": Regression(head, sees=False)})
    close(parts["regress"].total / parts["regress"].count, x["out.reg.loss"].squeeze())


def test_entailment_by_an_image_with_deltas(files, monkeypatch):
    """The whole step of the loop: the poolers' sum, two layers, all deltas, one loss. First deltas: the fixture's."""
    x = scenario(files, "visual_entailment_adversarial")
    values = json.loads((files / "visual_entailment_adversarial.json").read_text())["values"]["released.settings"]
    hidden = scenario(files, "params")["cls_out_w_0"].shape[1]
    head = HeadSettings(labels=LABELS, reads="both", fusion="sum", hidden=hidden)
    model = with_head(files, head, {"between": "cls_out_{}_0", "output": "cls_out_{}_1"})
    real = x["in.text_mask"][..., 0].bool()
    batch = batch_of(texts_of(x, real), {"classify.labels": x["in.labels"][:, 0]}, regions_of(x))
    deltas = {"text": x["out.released.text_delta.0"][real], "image": x["out.released.image_delta.0"]}
    monkeypatch.setattr(adversarial_training, "initial_deltas", lambda *_: dict(deltas))
    settings = Adversarial(steps=values["adv_step"], lr=values["adv_lr"], max_norm=values["adv_max_norm"])
    train_step = AdversarialTrainStep(model, {"task": Classification(head, sees=True)}, settings, seed=0)
    loss, report, _ = train_step(batch)
    close(loss, x["out.released.total_loss"].squeeze())
    loss.backward()
    close(model.head.output.weight.grad.T, x["grad.released.cls_out_w_1"])
    clean = x["out.released.probs_clean"].argmax(-1) == x["in.labels"][:, 0]
    assert train_step.losses(report.tolist())["classify.accuracy"] == pytest.approx(
        float(clean.float().mean()), abs=1e-6
    )
