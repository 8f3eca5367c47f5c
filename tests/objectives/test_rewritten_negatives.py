"""UNIMO-2 meets rewritten captions: further columns of CMCL, and a third negative of matching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tiny_batches import tiny_draft
from tiny_unimo2 import lively_model, pack
from torch import Tensor

from unimo.batch import Batch
from unimo.objectives import CrossModalContrastive, ImageTextMatching, step

RAGGED = (3, 0, 1, 2)  # false captions that each of four pairs has


@dataclass(frozen=True)
class SideInputs:
    """A pair's false captions, as many as there are, and of them the first alone where only some strata are wanted."""

    ids: np.ndarray
    count: int

    def rewritten(self, positives, negatives, rng, only=()):
        wrong = [np.concatenate([self.ids[: 3 + k], [90 + k]]) for k in range(self.count)]
        return [], wrong[: 1 if only else negatives]


def made(*objectives, counts=RAGGED, **draft) -> Batch:
    builder = tiny_draft(pairs=len(counts), **draft)
    for pair, count in zip(builder.pairs, counts):
        object.__setattr__(pair, "side_inputs", SideInputs(pair.ids, count))
    for objective in objectives:
        objective.corrupt(builder)
    return builder.finish()


def one_by_one(model, batch: Batch) -> Tensor:
    """The loss from single vectors: every image and text encoded alone, every row a sum of its own."""

    def unit(x: Tensor) -> Tensor:
        return x / x.norm()

    def read(t: int) -> Tensor:
        ids = batch.texts.ids[batch.texts.offsets[t] : batch.texts.offsets[t + 1]]
        return unit(model.encode_texts(pack([ids]))[0])

    n = len(batch.images_of("pairs"))
    images = [unit(model.encode_images(batch.pixels[i : i + 1])[0, 0]) for i in range(n)]
    captions = [read(t) for t in batch.texts_of("pairs.clean").tolist()]
    owners = batch.extra.get("cmcl.negatives", torch.zeros(0, dtype=torch.int64)).tolist()
    false = [read(t) for t in (batch.texts_of("pairs.negatives").tolist() if owners else ())]
    tau, total = model.contrastive_temperature.value, 0.0
    for i in range(n):
        mine = [text for text, owner in zip(false, owners) if owner == i]
        across = torch.stack([images[i] @ text / tau for text in (*captions, *mine)])
        down = torch.stack([captions[i] @ image / tau for image in images])
        total = total + sum(scores.exp().sum().log() - scores[i] for scores in (across.squeeze(), down.squeeze())) / 2
    return total


@pytest.mark.parametrize("negatives", [0, 1, 2, 3])
@pytest.mark.parametrize("counts", [RAGGED, (3, 3, 3, 3), (0, 0, 0, 0)], ids=str)
def test_equals_one_by_one_in_loss_and_gradient(negatives, counts):
    objective = CrossModalContrastive(negatives=negatives)
    batch = made(objective, counts=counts)
    assert len(batch.extra.get("cmcl.negatives", ())) == sum(min(negatives, count) for count in counts)
    ours, plain = lively_model(), lively_model()
    parts, fused = step(ours, batch, {"cmcl": objective})
    assert not fused  # the text tower's work alone
    expected = one_by_one(plain, batch)
    torch.testing.assert_close(parts["cmcl"].total, expected)
    parts["cmcl"].total.backward()
    expected.backward()
    theirs = {name: weight.grad for name, weight in plain.named_parameters() if weight.grad is not None}
    mine = {name: weight.grad for name, weight in ours.named_parameters() if weight.grad is not None}
    assert "contrastive_temperature.value" in mine
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@torch.no_grad()
def test_found_among_its_rewritten_captions_counts_only_who_has_any():
    objective = CrossModalContrastive(negatives=3)
    batch, model = made(objective), lively_model()
    part = step(model, batch, {"cmcl": objective})[0]["cmcl.rewritten.accuracy"]
    image = torch.nn.functional.normalize(model.encode_images(batch.pixels)[:, 0], dim=-1)
    towers = model.towers(batch)
    text = torch.nn.functional.normalize(towers.text_cls(torch.arange(len(batch.texts))), dim=-1)
    false, owners = batch.texts_of("pairs.negatives"), batch.extra["cmcl.negatives"]
    found = [
        all(image[i] @ text[i] > image[i] @ text[t] for t, owner in zip(false, owners) if owner == i) for i in (0, 2, 3)
    ]
    assert (int(part.total), int(part.count)) == (sum(found), 3)


def test_who_meets_them_and_how_many():
    first = made(CrossModalContrastive(negatives=2, pairs=2), counts=(3, 3, 3, 3), micro_batches=2)
    assert first.extra["cmcl.negatives"].tolist() == [0, 0, 2, 2]  # the first of both micro-batches
    binding = made(CrossModalContrastive(negatives=2, binding=1.0), counts=(3, 3, 3, 3))
    assert binding.extra["cmcl.negatives"].tolist() == [0, 1, 2, 3]
    bare = tiny_draft(pairs=3)
    CrossModalContrastive(negatives=2).corrupt(bare)  # nothing was prepared
    assert "pairs.negatives" not in bare.finish().text_groups


@torch.no_grad()
@pytest.mark.parametrize("rewritten", [True, False])
def test_matching_calls_the_first_of_them_false(rewritten):
    cmcl, itm = CrossModalContrastive(negatives=2), ImageTextMatching(pairs=4, rewritten=rewritten)
    batch, model = made(cmcl, itm), lively_model()
    parts, fused = step(model, batch, {"cmcl": cmcl, "itm": itm})
    assert ("itm.rewritten" in fused) == rewritten
    names = [name for name in fused if name.startswith("itm.")]
    if rewritten:
        request = fused["itm.rewritten"].request
        firsts = [batch.extra["cmcl.negatives"].tolist().index(i) for i in (0, 2, 3)]
        assert request.image.tolist() == [0, 2, 3]
        assert request.text.tolist() == batch.texts_of("pairs.negatives")[firsts].tolist()
    expected = 0.0
    for name in names:
        logits = model.match_logits(fused[name])
        expected -= logits.log_softmax(-1)[:, int(name == "itm.match")].sum()
    torch.testing.assert_close(parts["itm"].total, expected)
    assert parts["itm"].count == sum(len(fused[name].request) for name in names) == 12 + 3 * rewritten
