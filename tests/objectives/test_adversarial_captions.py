"""Adversarial captioning with object tags, three inner steps, against a plain computation of its own.

The plain one takes sample after sample with the model's bare weights and shares no code with ours: a caption's delta is
a tensor of the caption's length, so there is nothing in it that could delta a tag.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tiny_unimo import FEATURES, lively_unimo, random_regions
from torch import Tensor

from unimo.batch import KNOWN, WRITTEN, Batch, Targets, Texts
from unimo.finetune import adversarial as adversarial_training
from unimo.finetune.adversarial import AdversarialTrainStep
from unimo.finetune.settings import Writing
from unimo.finetune.task_types import Generation
from unimo.objectives.adversarial import Adversarial

SMOOTHING = 0.1
TAGS, CAPTIONS = (4, 2, 0, 3), (5, 3, 6, 4)  # words of each sample
IMAGES, REGIONS = (
    (0, 1, 1, -1),
    (2, 4),
)  # two captions of one image, and one of none; its regions, [IMG] not counted
WIDTH = 16


@dataclass
class Sample:
    tags: Tensor
    caption: Tensor
    features: Tensor  # (regions, F); (0, F) without an image
    boxes: Tensor


def samples() -> tuple[list[Sample], Batch]:
    """The same four captions one by one and packed."""
    generator = torch.Generator().manual_seed(5)
    regions = random_regions(list(REGIONS))
    regions = type(regions)(regions.features.double(), regions.boxes.double(), regions.lengths)
    found, ids, positions, roles, rows, labels, offsets = [], [], [], [], [], [], [0]
    for tags, words, image in zip(TAGS, CAPTIONS, IMAGES):
        one = Sample(
            torch.randint(4, 200, (tags,), generator=generator),
            torch.cat([torch.tensor([0]), torch.randint(4, 200, (words - 2,), generator=generator), torch.tensor([2])]),
            regions.features[image, : regions.lengths[image]] if image >= 0 else torch.zeros(0, FEATURES).double(),
            regions.boxes[image, : regions.lengths[image]] if image >= 0 else torch.zeros(0, 5).double(),
        )
        found.append(one)
        rows += [offsets[-1] + tags + i for i in range(words - 1)]
        labels.append(one.caption[1:])
        ids += [one.tags, one.caption]
        positions += [2 + torch.arange(tags), 2 + torch.arange(words)]
        roles += [torch.full((tags,), KNOWN), torch.full((words,), WRITTEN)]
        offsets.append(offsets[-1] + tags + words)
    texts = Texts(torch.cat(ids), torch.cat(positions), torch.cat(roles), torch.tensor(offsets))
    batch = Batch(
        0,
        torch.zeros(0, 3, 1, 1, dtype=torch.uint8),
        texts,
        {"examples": (0, len(REGIONS))},
        {"examples": (0, len(texts))},
        {"write": Targets(torch.tensor(rows), torch.cat(labels))},
        {"examples.image": torch.tensor(IMAGES)},
        regions=regions,
    )
    return found, batch


# ---- plain --------------------------------------------------------------------------------------------------


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def plain_logits(w: dict[str, Tensor], one: Sample, of_text: Tensor, of_image: Tensor) -> Tensor:
    """(words - 1, V): what follows each word of the caption. Perturbations: (words, D) and (regions, F)."""
    image = norm(
        linear(one.features + of_image, w, "regions.feature") + linear(one.boxes, w, "regions.box"), w, "regions.norm"
    )
    parts = [image]
    for ids, delta in ((one.tags, 0), (one.caption, of_text)):
        places = 2 + torch.arange(len(ids))
        parts.append(norm(w["words.word.weight"][ids] + w["words.position.weight"][places] + delta, w, "words.norm"))
    x = torch.cat(parts)
    before, total = len(image) + len(one.tags), len(x)
    sees = [[k < before or (q >= before and k <= q) for k in range(total)] for q in range(total)]
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        q, k, v = linear(x, w, f"{layer}.attention.qkv").chunk(3, -1)
        heads = []
        for h in (slice(0, 8), slice(8, 16)):
            scores = q[:, h] @ k[:, h].T / 8**0.5
            heads.append(scores.masked_fill(~torch.tensor(sees), float("-inf")).softmax(-1) @ v[:, h])
        x = norm(x + linear(torch.cat(heads, -1), w, f"{layer}.attention.output"), w, f"{layer}.attention_norm")
        x = norm(x + linear(gelu(linear(x, w, f"{layer}.ffn_in")), w, f"{layer}.ffn_out"), w, f"{layer}.ffn_norm")
    said = norm(gelu(linear(x[before:-1], w, "language_model.transform")), w, "language_model.norm")
    return said @ w["words.word.weight"].T + w["language_model.bias"]


def size(x: Tensor, settings: Adversarial) -> Tensor:
    return x.abs().max() if settings.norm == "inf" else x.square().sum().sqrt()


def plain(w: dict[str, Tensor], given: list[Sample], settings: Adversarial, first: dict[str, list[Tensor]]):
    """The loss of all steps, and each sample's last delta."""
    deltas, total = {side: list(first[side]) for side in settings.sides}, torch.zeros(())
    none = [(torch.zeros(len(one.caption), WIDTH), torch.zeros(len(one.features), FEATURES)) for one in given]

    def answers(changed: str, delta: list[Tensor]) -> Tensor:
        rows = []
        for one, (text, image), mine in zip(given, none, delta):
            rows.append(
                plain_logits(w, one, mine if changed == "text" else text, mine if changed == "image" else image)
            )
        return torch.cat(rows).log_softmax(-1)

    labels = torch.cat([one.caption[1:] for one in given])

    def loss_of(said: Tensor) -> Tensor:
        right = said[torch.arange(len(labels)), labels]
        return -((1 - SMOOTHING) * right + SMOOTHING * said.mean(-1)).mean()

    for _ in range(settings.steps):
        clean = answers("nothing", [torch.zeros(())] * len(given))
        total = total + loss_of(clean) / settings.steps
        for side in settings.sides:
            now = [delta.detach().requires_grad_() for delta in deltas[side]]
            said = answers(side, now)
            loss = loss_of(said) / settings.steps
            apart = (clean.exp() * (clean - said)).sum(-1) + (said.exp() * (said - clean)).sum(-1)
            total = total + loss + settings.kl_weight * apart.mean()
            for i, gradient in enumerate(torch.autograd.grad(loss, now, retain_graph=True, allow_unused=True)):
                if gradient is None or not gradient.numel():
                    continue
                length = size(gradient, settings)
                moved = now[i].detach() + settings.lr * gradient / length
                if settings.max_norm and settings.norm == "inf":
                    moved = moved.clamp(-settings.max_norm, settings.max_norm)
                elif settings.max_norm:
                    measured = length if settings.projection == "released" else size(moved, settings)
                    moved = moved * min(1.0, settings.max_norm / float(measured))
                deltas[side][i] = moved
    return total, deltas


# ---- and ours -----------------------------------------------------------------------------------------------

ABOUT = {
    "released, free": {"max_norm": 0.0},
    "released": {"max_norm": 0.02},
    "villa": {"max_norm": 0.6, "projection": "villa"},
    "largest number": {"norm": "inf", "max_norm": 0.5, "lr": 0.3},
}


@pytest.mark.parametrize("about", ABOUT)
@pytest.mark.parametrize("sides", [("text",), ("image",), ("text", "image")])
def test_three_steps_with_tags_are_the_plain_computation(monkeypatch, sides, about):
    torch.set_default_dtype(torch.float64)
    try:
        model = lively_unimo(dropout=0.0, attention_dropout=0.0)
        given, batch = samples()
        settings = Adversarial(**{"steps": 3, "sides": sides, "lr": 0.4, "kl_weight": 0.7, **ABOUT[about]})
        generator = torch.Generator().manual_seed(1)
        first = {
            "text": [0.1 * torch.randn(len(one.caption), WIDTH, generator=generator) for one in given],
            "image": [0.1 * torch.randn(len(one.features), FEATURES, generator=generator) for one in given],
        }
        packed = {
            "text": torch.cat([torch.cat([torch.zeros(n, WIDTH), delta]) for n, delta in zip(TAGS, first["text"])]),
            "image": torch.nn.utils.rnn.pad_sequence(first["image"][:3], batch_first=True),
        }
        last = {side: packed[side].clone() for side in sides}
        monkeypatch.setattr(adversarial_training, "initial_deltas", lambda *_: last)
        kind = Generation("captions", Writing(smoothing=SMOOTHING), sees=True, reads=True)
        loss, _, _ = AdversarialTrainStep(model, {"task": kind}, settings, seed=0)(batch)
        ours = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

        weights = dict(model.named_parameters())
        expected, deltas = plain(weights, given, settings, first)
        theirs = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        for name, mine, its in zip(weights, ours, theirs):
            assert (mine is None) == (its is None), name
            if mine is not None:
                torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5, msg=name)
        if "text" in sides:
            wanted = torch.cat([torch.cat([torch.zeros(n, WIDTH), delta]) for n, delta in zip(TAGS, deltas["text"])])
            torch.testing.assert_close(last["text"], wanted, rtol=1e-4, atol=1e-5)
            moved = torch.cat([delta - start for delta, start in zip(deltas["text"], first["text"])])
            assert moved.abs().max() > 0.05
        if "image" in sides:
            wanted = torch.nn.utils.rnn.pad_sequence(deltas["image"][:3], batch_first=True)
            torch.testing.assert_close(last["image"], wanted, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_default_dtype(torch.float32)
