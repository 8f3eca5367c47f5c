"""Adversarial training as one step of the loop: the loss of perturbed inputs too (spec unimo §6.8)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unimo import rng
from unimo.batch import Batch, Regions
from unimo.finetune.batches import IMAGES
from unimo.finetune.classification import Classification
from unimo.finetune.generation import Generation
from unimo.finetune.task_type import EXAMPLES, images_of
from unimo.model.unified import Fused, Unified
from unimo.objectives.adversarial import Adversarial, adversarial_losses, initial_deltas
from unimo.objectives.objective import Objective, Part
from unimo.train.step import TrainStep


class AdversarialTrainStep(TrainStep):
    """Classification or generation. The losses of all deltas are one graph: its memory grows with their number.

    Sides that a batch lacks (words of an image alone) are left out.
    """

    def __init__(self, model: Unified, active: dict[str, Objective], settings: Adversarial, seed: int):
        super().__init__(model, active)
        self.settings, self.seed = settings, seed

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, float]:
        return super().forward(with_own_images(batch))

    def compute(self, batch: Batch) -> tuple[dict[str, Part], dict[str, Fused]]:
        (task,) = self.active.values()
        assert isinstance(task, (Classification, Generation)), "checked by the settings"
        fused: dict[str, Fused] = {}
        hits: list[Tensor] = []
        count = 0

        def predict(given: Batch) -> tuple[Tensor, Tensor]:
            nonlocal fused, count
            towers = self.model.towers(given)
            fused = self.model.fuse(towers, task.requests(self.model, given, towers))
            logits = task.logits(self.model, given, fused)
            if isinstance(task, Generation):
                total, count = task.loss_of(logits, given, self.model)
                labels = self.model.word_columns(given.targets["write"].labels)
            else:
                total, count = task.loss_of(logits, given)
                labels = given.extra["classify.labels"]
            if not hits and labels.ndim == 1:
                hits.append((logits.detach().argmax(-1) == labels).sum())
            if labels.ndim == 2:  # answers of VQA: each is a yes or a no, and so are they compared
                logits = torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], -1).flatten(0, 1)
            return logits, total / count

        here = {"text": len(batch.texts.ids) > 0, "image": batch.regions is not None}
        settings = replace(self.settings, sides=tuple(side for side in self.settings.sides if here[side]))
        generator = torch.Generator(batch.texts.ids.device).manual_seed(rng.number(self.seed, "pushes", batch.step))
        deltas = initial_deltas(batch, self.model.width, settings, generator)
        loss = torch.stack(list(adversarial_losses(predict, batch, settings, deltas))).sum()
        name = task.parts[0]
        parts = {name: Part(loss * count, count, task.weight)}
        if hits:
            parts[task.parts[1]] = Part(hits[0], count, 0.0)
        return parts, fused


def with_own_images(batch: Batch) -> Batch:
    """The batch with an image for each of its rows: rows that show the same one each have their own perturbation.

    As released, where every row is a sample with regions of its own. Only regions are perturbed: pixels stay shared.
    """
    numbers = images_of(batch)
    if batch.regions is None or numbers is None:
        return batch
    shown = numbers[numbers >= 0]
    parts = {
        name: None if (values := getattr(batch.regions, name)) is None else values[shown]
        for name in ("features", "boxes", "lengths", "classes")
    }
    place = torch.where(numbers >= 0, (numbers >= 0).cumsum(0) - 1, numbers)
    return replace(
        batch,
        regions=Regions(**parts),  # type: ignore[arg-type]
        image_groups={IMAGES: (0, len(shown))},
        extra=batch.extra | {f"{EXAMPLES}.image": place},
    )
