"""What an objective is: it hides something from the model, says what must meet, and asks.

An objective is a frozen dataclass of its settings, with no state. In one step each has three turns:

    corrupt(builder)            in the loader: add versions of texts and images, and questions about them
    requests(model, batch, towers)
                                after the towers: which images and texts are to be fused
    loss(model, batch, towers, fused)
                                after the Grounded Transformer: the answers, as sums and counts

Sums and counts are local; the loop divides the sum over all ranks by the count over all ranks, so that one process
and many compute the same mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from unimo.batch import Batch, Targets
from unimo.data.batch_builder import BatchBuilder
from unimo.model.attention import rounded
from unimo.model.unified import Fused, Request, Towers, Unified

if TYPE_CHECKING:
    from unimo.model.unimo2 import UNIMO2

MEMBERS = ("unimo", "unimo-2")
NEGATIVES = "pairs.negatives"  # texts: rewritten captions that are not true, each of pair extra["cmcl.negatives"]
IGNORE_INDEX = -100  # label of rows that only round the shape


@dataclass(frozen=True)
class Part:
    """A loss (or, with weight 0, a number to watch): total over local items, how many there were, and its weight."""

    total: Tensor
    count: Tensor | int
    weight: float


class Objective(Protocol):
    """A loss of pre-training, or of a task.

    members: the models it is for, `MEMBERS` for both. parts: every name that `loss` may return, so that ranks agree on
    them where one has nothing to compute. trains: what of the model, beside its towers, has a gradient from `loss`
    (`unimo.train.step`). An objective with a method `alone(progress)` is the only one of its run while that is true
    (`unimo.data.loader.AsksAlone`).
    """

    parts: tuple[str, ...]
    trains: tuple[str, ...]

    @property
    def weight(self) -> float: ...

    def corrupt(self, builder: BatchBuilder) -> None: ...

    def requests(self, model: Any, batch: Batch, towers: Towers) -> dict[str, Request]: ...

    def loss(self, model: Any, batch: Batch, towers: Towers, fused: dict[str, Fused]) -> dict[str, Part]: ...


def step(model: Unified, batch: Batch, objectives: Mapping[str, Objective]) -> tuple[dict[str, Part], dict[str, Fused]]:
    """One forward pass for all objectives: towers once, one fused row, then everyone's loss.

    Returns the losses by name and what was fused (to count its cost).
    """
    towers = model.towers(batch)
    requests: dict[str, Request] = {}
    for objective in objectives.values():
        requests |= objective.requests(model, batch, towers)
    requests = {name: request for name, request in requests.items() if len(request)}
    fused = model.fuse(towers, requests) if requests else {}
    parts: dict[str, Part] = {}
    for objective in objectives.values():
        parts |= objective.loss(model, batch, towers, fused)
    return parts, fused


def predict_words(
    model: Unified, fused: Fused, targets: Targets, batch: Batch, name: str, weight: float, smoothing: float = 0.0
) -> dict[str, Part]:
    """Cross-entropy of the language-model head on the target rows, and the fraction predicted right.

    The vocabulary is touched at these rows and nowhere else.
    """
    extra = rounded(len(targets.rows)) - len(targets.rows)
    rows = targets.host.rows
    rows = torch.cat([rows, rows[:1].expand(extra)])
    labels = F.pad(model.word_columns(targets.labels), (0, extra), value=IGNORE_INDEX)
    logits = model.subset_logits(fused.words(rows, batch.texts), fused.word_table()).float()
    total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing, ignore_index=IGNORE_INDEX)
    right = (logits.detach().argmax(-1) == labels).sum()
    count = len(targets.labels)
    return {name: Part(total, count, weight), f"{name}.accuracy": Part(right, count, 0.0)}


def pair_features(model: UNIMO2, batch: Batch, towers: Towers, normalise: str = "both") -> tuple[Tensor, Tensor]:
    """The contrastive features of a batch's pairs, (n, D) each, row i of both from pair i."""
    image = model.contrastive_feature(towers.image_cls(batch.images_of("pairs")), "image")
    text = model.contrastive_feature(towers.text_cls(batch.texts_of("pairs.clean")), "text")
    if normalise in ("both", "image"):
        image = F.normalize(image, dim=-1)
    if normalise == "both":
        text = F.normalize(text, dim=-1)
    return image, text


def same(a: Tensor, b: Tensor) -> Tensor:
    """(n,), (m,) -> (n, m) bool: which entries are equal."""
    return a[:, None] == b[None, :]
