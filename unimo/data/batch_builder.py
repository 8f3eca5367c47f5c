"""From samples to one batch: a batch builder that objectives write on, packed when everyone has had a turn.

    S side in pixels · M texts · T packed tokens

The batch builder holds what the schedule chose (raw image arrays, captions and passages as token ids). An objective
adds the versions it wants encoded (masked, written, cut into fragments) under a group name, and its targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unimo.batch import TEXT, Batch, Targets, Texts
from unimo.data.regions import ImageRegions, stack_regions
from unimo.rng import generator
from unimo.tokenizer import Tokenizer
from unimo.tokenizer import positions as positions_of

if TYPE_CHECKING:
    from unimo.data.side_inputs import SideInputs

STREAMS = ("pairs", "images", "masked", "fragments")


@dataclass
class SampledExample:
    """One chosen sample.

    name: printable. identity: equal for equal content. ids: token ids without specials. names: what its random draws
    depend on; of a pair (seed, item, epoch). place: its place within its micro-batch. side_inputs: what was prepared
    for a pair, or None. shard: of a passage, the number of its micro-batch.
    """

    name: str
    identity: int
    ids: np.ndarray
    names: tuple[int | str, ...]
    place: int = 0
    side_inputs: SideInputs | None = None
    shard: int = 0

    def rng(self, purpose: str) -> np.random.Generator:
        """This sample's random generator of this epoch, for one purpose."""
        return generator(purpose, *self.names)


@dataclass
class BatchBuilder:
    """The open batch of one rank.

    micro_batches: equal parts of the whole step, all ranks together; local_micro_batches: how many of them are here.
    progress: fraction of the run's steps that lie behind it, 0 in a run whose steps are not known beforehand. pairs,
    images, masked, fragments: what was drawn, the last two being passages of text to read and to write. pixels: group
    -> list of (3, S, S) uint8 arrays; image i of group "pairs" belongs to pairs[i]. regions: the same of detected
    regions, for UNIMO; then there are no pixels.
    """

    step: int
    size: int
    tokenizer: Tokenizer
    micro_batches: int = 1
    local_micro_batches: int = 1
    progress: float = 0.0
    pairs: list[SampledExample] = field(default_factory=list)
    images: list[SampledExample] = field(default_factory=list)
    masked: list[SampledExample] = field(default_factory=list)
    fragments: list[SampledExample] = field(default_factory=list)
    pixels: dict[str, list[np.ndarray]] = field(default_factory=dict)
    regions: dict[str, list[ImageRegions]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    _texts: dict[str, list[tuple[np.ndarray, ...]]] = field(default_factory=dict)
    _targets: dict[str, list[tuple[str, int, np.ndarray, np.ndarray]]] = field(default_factory=dict)

    def framed(self, ids: np.ndarray) -> np.ndarray:
        """[CLS] ids [SEP] as int64."""
        return np.concatenate([[self.tokenizer.cls], ids, [self.tokenizer.sep]]).astype(np.int64)

    def first_pairs(self, count: int) -> list[int]:
        """Numbers of the first pairs of every shard, `count` of them in the whole step."""
        return [i for i, sampled in enumerate(self.pairs) if sampled.place * self.micro_batches < count]

    def last_pairs(self, count: int) -> list[int]:
        """Numbers of the last pairs of every shard, `count` of them in the whole step."""
        per_shard = len(self.pairs) // self.local_micro_batches
        return [
            i for i, sampled in enumerate(self.pairs) if (per_shard - 1 - sampled.place) * self.micro_batches < count
        ]

    def read_captions(self) -> None:
        """Adds the captions as they are, as group "pairs.clean", unless another objective has."""
        if "pairs.clean" not in self._texts:
            for sampled in self.pairs:
                self.add_text("pairs.clean", self.framed(sampled.ids))

    def add_image(self, group: str, image: ImageRegions | np.ndarray) -> None:
        """Adds the regions of an image, or its pixels (3, S, S) uint8, to a group."""
        if isinstance(image, ImageRegions):
            self.regions.setdefault(group, []).append(image)
        else:
            self.pixels.setdefault(group, []).append(image)

    def add_text(
        self,
        group: str,
        ids: np.ndarray,
        *,
        role: int | np.ndarray = TEXT,
        positions: np.ndarray | None = None,
        dialogue: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> int:
        """Adds one framed text to a group; returns its number within the group. dialogue: speaker and turn of each."""
        if positions is None:
            positions = positions_of(len(ids))
        rows = self._texts.setdefault(group, [])
        rows.append((np.asarray(ids), np.asarray(positions), np.broadcast_to(role, len(ids)), *(dialogue or ())))
        return len(rows) - 1

    def add_targets(self, objective: str, group: str, text: int, places: np.ndarray, labels: np.ndarray) -> None:
        """The output at `places` of text number `text` of `group` should be `labels`."""
        self._targets.setdefault(objective, []).append((group, text, np.asarray(places), np.asarray(labels)))

    def finish(self) -> Batch:
        """Packs everything into one batch."""
        rows = [row for texts in self._texts.values() for row in texts]
        text_groups = _ranges(self._texts)
        offsets = np.cumsum([0] + [len(row[0]) for row in rows])
        pixels = [image for images in self.pixels.values() for image in images]
        regions = [image for images in self.regions.values() for image in images]
        return Batch(
            step=self.step,
            pixels=torch.from_numpy(np.stack(pixels) if pixels else np.zeros((0, 3, self.size, self.size), np.uint8)),
            texts=_packed(rows, offsets),
            image_groups=_ranges(self.regions or self.pixels),
            text_groups=text_groups,
            targets={
                objective: Targets(
                    _long([offsets[text_groups[group][0] + text] + places for group, text, places, _ in targets]),
                    _long([labels for *_, labels in targets]),
                )
                for objective, targets in self._targets.items()
            },
            extra={name: torch.from_numpy(np.asarray(array)) for name, array in self.extra.items()},
            regions=stack_regions(regions) if regions else None,
            keys={stream: [sampled.name for sampled in getattr(self, stream)] for stream in STREAMS},
        )


def _ranges(groups: Mapping[str, Sequence[Any]]) -> dict[str, tuple[int, int]]:
    """Name -> (first, last + 1) of the members of groups that lie one behind the other."""
    ends = np.cumsum([len(members) for members in groups.values()]).tolist()
    return dict(zip(groups, zip([0, *ends], ends)))


def _packed(rows: list[tuple[np.ndarray, ...]], offsets: np.ndarray) -> Texts:
    """Texts, each (ids, positions, roles) and of a dialogue (..., speakers, turns), in one packed row."""
    width = min((len(row) for row in rows), default=3)  # 5 where every text is of a dialogue
    ids, positions, roles, *dialogue = (_long([row[i] for row in rows]) for i in range(width))
    return Texts(ids, positions, roles, _long([offsets]), *dialogue)


def _long(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *arrays]).astype(np.int64))
