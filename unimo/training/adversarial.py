"""Adversarial training as one step of the loop: the same question, asked of pushed inputs too (spec unimo §6.8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import Batch
from unimo.data import chance
from unimo.model.unified import Fused, Unified
from unimo.objectives import Objective, Part
from unimo.objectives.adversarial import Adversarial, adversarial_losses, first_pushes
from unimo.tasks.kinds import Classify, Write
from unimo.training.learner import Learner


class AdversarialLearner(Learner):
    """Classification or generation. The losses of all pushes are one graph: its memory grows with their number.

    settings.sides that a batch lacks (words of a picture alone) are left out.
    """

    def __init__(self, model: Unified, active: dict[str, Objective], settings: Adversarial, seed: int):
        super().__init__(model, active)
        self.settings, self.seed = settings, seed

    def ask(self, batch: Batch) -> tuple[dict[str, Part], dict[str, Fused]]:
        (kind,) = self.active.values()
        assert isinstance(kind, (Classify, Write)), "adversarial training is for classification and generation"
        fused: dict[str, Fused] = {}
        hits: list[Tensor] = []
        count = 0

        def answer(given: Batch) -> tuple[Tensor, Tensor]:
            nonlocal fused, count
            towers = self.model.towers(given)
            fused = self.model.fuse(towers, kind.requests(self.model, given, towers))
            logits = kind.logits(self.model, given, fused)
            if isinstance(kind, Write):
                total, count = kind.loss_of(logits, given, self.model)
                labels = self.model.word_columns(given.targets["write"].labels)
            else:
                total, count = kind.loss_of(logits, given)
                labels = given.extra["classify.labels"]
            if not hits and labels.ndim == 1:
                hits.append((logits.detach().argmax(-1) == labels).sum())
            if labels.ndim == 2:  # answers of VQA: each is a yes or a no, and so are they compared
                logits = torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], -1).flatten(0, 1)
            return logits, total / count

        settings = self.settings
        sides = tuple(side for side in settings.sides if side == "image" or len(batch.texts.ids))
        luck = torch.Generator(batch.texts.ids.device).manual_seed(chance.number(self.seed, "pushes", batch.step))
        pushes = first_pushes(batch, self.model.width, settings, luck)
        pushes = {side: pushes[side] for side in sides}
        loss = torch.stack(list(adversarial_losses(answer, batch, settings, pushes))).sum()
        name = kind.parts[0]
        parts = {name: Part(loss * count, count, kind.weight)}
        if hits:
            parts[kind.parts[1]] = Part(hits[0], count, 0.0)
        return parts, fused
