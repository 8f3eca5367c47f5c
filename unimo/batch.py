"""What a model reads in one step: images in a rectangle, texts in one packed row, and the targets.

    N images · S side in pixels · R regions · F their features · M texts · T packed tokens

Absent things are absent, never zero-filled: a batch without texts has M = T = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

# What a token is to the others; `unimo.model.attention` turns roles into who may see whom.
IMAGE, GROUND, TEXT, KNOWN, WRITTEN, PADDING = range(6)


class Sent:
    """What is made on the host, and may have gone to a GPU."""

    @property
    def host(self: Any) -> Any:
        """The same on the host, where lengths decide shapes: as it was before it was sent, so that nothing waits."""
        if "_sent_from" not in self.__dict__:
            if self.device.type == "cpu":
                return self
            self.__dict__["_sent_from"] = self.to("cpu")
        return self.__dict__["_sent_from"]

    @property
    def device(self: Any) -> torch.device:
        values = (getattr(self, f.name) for f in fields(self))
        return next(value.device for value in values if isinstance(value, Tensor))

    def to(self: Any, device: torch.device | str) -> Any:
        """The same with every tensor on `device`."""
        return sent(self, lambda x: x.to(device, non_blocking=True))


@dataclass(frozen=True)
class Texts(Sent):
    """M texts packed end to end in one row of T tokens.

    ids, positions, roles: (T,) int64; roles TEXT (read), KNOWN (read before a written answer) or WRITTEN. offsets:
    (M + 1,), text m holds tokens [offsets[m], offsets[m + 1]) and begins with [CLS]. speakers, turns: (T,) who says a
    token of a dialogue, and when. delta: (T, D) added to the summed embeddings, by adversarial training.
    """

    ids: Tensor
    positions: Tensor
    roles: Tensor
    offsets: Tensor
    speakers: Tensor | None = None
    turns: Tensor | None = None
    delta: Tensor | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def owner(self) -> Tensor:
        """(T,) which text each token belongs to."""
        return torch.searchsorted(self.offsets[1:], torch.ones_like(self.ids).cumsum(0) - 1, right=True)


@dataclass(frozen=True)
class Regions(Sent):
    """Detected regions of N images in a rectangle of R rows, row 0 the whole image (spec unimo §1.5).

    features: (N, R, F); boxes: (N, R, 5), corners and area as fractions of the image; lengths: (N,) rows that there
    are, at least 1: a sample without regions is a request without an image.
    classes: (N, R, K) the detector's probabilities, for masked region modelling, or None.
    """

    features: Tensor
    boxes: Tensor
    lengths: Tensor
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Targets(Sent):
    """Targets of one objective in the packed text row: the token at rows[i] should be labels[i].

    rows: (n,) packed positions whose output answers; labels: (n,) token ids.
    """

    rows: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Batch(Sent):
    """One rank's part of one step.

    pixels: (N, 3, S, S) uint8. image_groups / text_groups: name -> (first, last + 1) range of images / texts, such
    as "pairs" or "texts.masked". targets: objective -> Targets. extra: anything else an objective drew for itself.
    keys: stream -> sample names, to name what a failed step had read. regions: in place of pixels, for UNIMO.
    """

    step: int
    pixels: Tensor
    texts: Texts
    image_groups: dict[str, tuple[int, int]]
    text_groups: dict[str, tuple[int, int]]
    targets: dict[str, Targets]
    extra: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=dict)
    regions: Regions | None = None

    def images_of(self, group: str) -> Tensor:
        """Numbers of the images of a group, (n,), on the host."""
        return torch.arange(*self.image_groups[group])

    def texts_of(self, group: str) -> Tensor:
        """Numbers of the texts of a group, (n,), on the host."""
        return torch.arange(*self.text_groups[group])


def read_back(x: Tensor) -> Tensor:
    """A tensor on the host. Waits for all that its GPU was given to do: a training step does it as seldom as it can."""
    return x.cpu()


def sent(value: Any, send: Callable[[Tensor], Tensor]) -> Any:
    """A batch, or a part of one, with every tensor as `send` gives it; what was on the host is remembered."""
    if isinstance(value, Tensor):
        return send(value)
    if isinstance(value, Sent):
        moved: Any = replace(value, **{f.name: sent(getattr(value, f.name), send) for f in fields(value)})  # type: ignore
        if "_sent_from" in value.__dict__ or value.device.type == "cpu":
            moved.__dict__["_sent_from"] = value.host
        return moved
    if isinstance(value, dict):
        return {key: sent(part, send) for key, part in value.items()}
    return value
