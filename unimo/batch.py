"""What a model reads in one step: images in a rectangle, texts in one packed row, and the targets.

    N images · S side in pixels · R regions · F their features · M texts · T packed tokens

Absent things are absent, never zero-filled: a batch without texts has M = T = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

# What a token is to the others; `unimo.model.attention` turns roles into who may see whom.
IMAGE, GROUND, TEXT, KNOWN, WRITTEN, PADDING = range(6)


@dataclass(frozen=True)
class Texts:
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
        return torch.arange(len(self), device=self.ids.device).repeat_interleave(
            self.lengths, output_size=len(self.ids)
        )


@dataclass(frozen=True)
class Regions:
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

    def to(self, device: torch.device | str) -> Regions:
        return _moved(self, device)


@dataclass(frozen=True)
class Targets:
    """Targets of one objective in the packed text row: the token at rows[i] should be labels[i].

    rows: (n,) packed positions whose output answers; labels: (n,) token ids.
    """

    rows: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Batch:
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
        """Numbers of the images of a group, (n,)."""
        return torch.arange(*self.image_groups[group], device=self.pixels.device)

    def texts_of(self, group: str) -> Tensor:
        """Numbers of the texts of a group, (n,)."""
        return torch.arange(*self.text_groups[group], device=self.texts.ids.device)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        return _moved(self, device)


def _moved(value, device: torch.device | str):
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, (Batch, Texts, Regions, Targets)):
        return replace(value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)})
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    return value


def pad_texts(texts: Texts, pad: int) -> tuple[Texts, Tensor]:
    """Every text filled up to the longest with tokens of role PADDING, at position 1, that see and are seen by nothing.

    Packed rows need no padding; the published graph has it, and some of its answers depend on it. Also returns (T,)
    where each token went.
    """
    lengths = texts.lengths
    max_length = int(lengths.max()) if len(texts) else 0
    rows = torch.arange(len(texts.ids), device=texts.ids.device)
    rows = rows + (texts.owner * max_length - texts.offsets[texts.owner])
    n = len(texts) * max_length

    def spread(values: Tensor | None, fill: int) -> Tensor | None:
        if values is None:
            return None
        return values.new_full((n, *values.shape[1:]), fill).index_copy(0, rows, values)

    filled = {
        "ids": spread(texts.ids, pad),
        "positions": spread(texts.positions, 1),
        "roles": spread(texts.roles, PADDING),
        "offsets": max_length * torch.arange(len(texts) + 1, device=rows.device),
    }
    filled |= {name: spread(getattr(texts, name), 0) for name in ("speakers", "turns", "delta")}
    return Texts(**filled), rows  # type: ignore[arg-type]
