"""Batches of a task: the rows of one split, with their images, in a batch builder to which the task type adds texts.

    n rows of a split · k rows of a batch · S side in pixels

`TaskRows` turns any chosen rows into a batch builder. `TaskStream` chooses them for training, as
`unimo.data.loader.Stream` does for pre-training: what a step reads is a function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unimo.batch import Batch
from unimo.data.augment import Views, resize, view
from unimo.data.batch_builder import BatchBuilder
from unimo.data.images import Cache, load_rgb
from unimo.data.regions import ImageRegions
from unimo.data.sample import Regions
from unimo.data.schedule import Shuffled
from unimo.finetune.split import Example, Examples
from unimo.rng import generator
from unimo.tokenizer import Tokenizer

if TYPE_CHECKING:
    from unimo.finetune.task_type import TaskType

IMAGES = "examples"  # group of the images of a batch builder's rows
BYTES_PER_TOKEN = 8  # of a text that is read at most: English has 4 to 5


class Place(NamedTuple):
    """A row to be read: its number in the split, which of its targets, and what its random draws depend on."""

    row: int
    target: int = 0
    names: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class SampledRow:
    """One row of a batch builder. image: its number in the group of images, -1 for none."""

    example: Example
    row: int
    image: int
    target: int
    names: tuple[int | str, ...]

    def rng(self, purpose: str) -> np.random.Generator:
        return generator(purpose, *self.names)


@dataclass
class TaskBatchBuilder(BatchBuilder):
    """examples: the rows that were drawn. rows: the whole split they are from, for whoever needs other rows too."""

    examples: list[SampledRow] = field(default_factory=list)
    rows: TaskRows | None = None

    def ids(self, text: str, max_length: int) -> np.ndarray:
        """Token ids of a text without special ones; not much more of a long text than `max_length` tokens is read."""
        ids = self.tokenizer.encode(text, max_bytes=BYTES_PER_TOKEN * max_length)
        return np.asarray(ids, np.int64)

    def finish(self) -> Batch:
        batch = super().finish()
        return replace(batch, keys={**batch.keys, "examples": [one.example.id for one in self.examples]})


class TaskRows:
    """The rows of a split, ready to be read.

    size: side of the model's images. regions: of the split's images, for UNIMO, which sees no pixels. views: how
    images are varied. cache_bytes: memory for decoded images. sees: False for tasks that look at no image.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        size: int,
        tokenizer: Tokenizer,
        regions: Regions | None = None,
        views: Views = Views(),
        cache_bytes: int = 1 << 30,
        sees: bool = True,
    ):
        self.examples, self.size, self.tokenizer, self.sees = examples, size, tokenizer, sees
        self.regions, self.views, self.cache = regions, views, Cache(cache_bytes)
        self.kept_size = size if views.crop == 1 else round(size * 8 / 7)  # room for random crops

    def __len__(self) -> int:
        return len(self.examples)

    def builder(
        self, places: Sequence[Place], step: int = 0, micro_batches: int = 1, local_micro_batches: int = 1
    ) -> TaskBatchBuilder:
        """The rows at these places; an image of several rows is shown once, unless views vary it."""
        builder = TaskBatchBuilder(step, self.size, self.tokenizer, micro_batches, local_micro_batches, rows=self)
        shown: dict[object, int] = {}
        for place in places:
            example = self.examples.rows[place.row]
            image = -1
            if self.sees and example.image is not None:
                same = example.image if self.views == Views() else place
                if same not in shown:
                    shown[same] = self.show(builder, example.image, place.names)
                image = shown[same]
            builder.examples.append(SampledRow(example, place.row, image, place.target, place.names))
        return builder

    def show(self, builder: BatchBuilder, key: str, names: tuple[int | str, ...]) -> int:
        """Adds an image to a batch builder; returns its number there."""
        item = self.examples.image_item(key)
        builder.add_image(IMAGES, self._pixels(item, key, names) if self.regions is None else self.regions.image(item))
        return len((builder.regions or builder.pixels)[IMAGES]) - 1

    def seen(self, row: int) -> bytes | ImageRegions:
        """What an `Pipeline` takes for the image of a row: the file, or its regions."""
        key, images = self.examples.rows[row].image, self.examples.images
        assert key is not None and images is not None, "rows without an image are refused by the task's check"
        item = self.examples.image_item(key)
        return images.image_bytes(item) if self.regions is None else self.regions.image(item)

    def _pixels(self, item: int, key: str, names: tuple[int | str, ...]) -> np.ndarray:
        """(3, S, S) uint8 of an image, varied by `views`."""
        images = self.examples.images
        assert images is not None
        square = self.cache.get(
            ("task", item), lambda: resize(load_rgb(images.image_bytes(item), where=key), self.kept_size)
        )
        if self.views == Views():
            return np.ascontiguousarray(square.transpose(2, 0, 1))
        return view(square, self.size, self.views, generator("view", *names))


class TaskStream:
    """Training batches of a task. batch_size: rows of a step, over all micro-batches and ranks; each is drawn once an
    epoch.

    A row with several targets (captions, references) counts as many times as it has targets: see `places_of`.
    """

    def __init__(
        self,
        rows: TaskRows,
        task: TaskType,
        *,
        batch_size: int,
        seed: int,
        micro_batches: int = 1,
        rank: int = 0,
        world: int = 1,
        each_target: bool = False,
    ):
        self.rows, self.task, self.batch_size = rows, task, batch_size
        self.seed, self.micro_batches = seed, micro_batches
        self.places = places_of(rows.examples, each_target)
        self.order = Shuffled(len(self.places), seed, "examples")
        self.local = micro_batches // world
        mine = self.local * (batch_size // micro_batches)
        self.mine = range(rank * mine, (rank + 1) * mine)

    def batch(self, step: int) -> Batch:
        """This rank's part of a step."""
        chosen = []
        for place in self.mine:
            epoch, number = self.order[step * self.batch_size + place]
            row, target = self.places[number]
            chosen.append(Place(row, target, (self.seed, number, epoch)))
        builder = self.rows.builder(chosen, step, self.micro_batches, self.local)
        self.task.corrupt(builder)
        return builder.finish()


def places_of(examples: Examples, each_target: bool = False) -> list[tuple[int, int]]:
    """(row, target) of everything that is drawn once an epoch: rows with a target, or every target of them."""
    found: list[tuple[int, int]] = []
    for i, row in enumerate(examples.rows):
        if row.target is not None:
            count = len(row.target) if each_target and isinstance(row.target, tuple) else 1
            found += [(i, j) for j in range(count)]
    return found
