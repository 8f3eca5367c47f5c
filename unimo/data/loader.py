"""Batches by step number: read what the schedule says, let objectives mask and add targets, pack.

    1. schedule   (seed, step)          -> which pairs, images and passages, per shard
    2. read       corpus[i]             -> token ids, decoded images (a bounded cache keeps them)
    3. corrupt    objective.corrupt     -> masked, written, cut versions and their targets
    4. pack       BatchBuilder.finish   -> one Batch

`Stream.batch(step)` is a pure function, so loader workers (`unimo.data.workers`) keep no state and resuming needs one
integer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from unimo import rng
from unimo.batch import Batch
from unimo.config import Contradiction, check_settings, setting
from unimo.data.augment import Views, resize, view
from unimo.data.batch_builder import BatchBuilder, SampledExample
from unimo.data.images import Cache, load_rgb
from unimo.data.regions import ImageRegions
from unimo.data.sample import Indexed, Regions
from unimo.data.schedule import Bins, Shuffled, passages
from unimo.data.side_inputs import Prepared
from unimo.errors import UsageError
from unimo.tokenizer import Tokenizer


class Corrupts(Protocol):
    """The half of an objective the loader needs."""

    def corrupt(self, builder: BatchBuilder) -> None: ...


@runtime_checkable
class AsksAlone(Protocol):
    """An objective that for a part of a run is the only one. progress: fraction of the run's steps that lie behind."""

    def alone(self, progress: float) -> bool: ...


@dataclass(frozen=True)
class Budgets:
    """How much of each kind every step holds, over all micro-batches and ranks."""

    pairs: int = setting(128, "image-text pairs per step; 0 switches the stream off", at_least=0)
    images: int = setting(
        32, "images without text per step, each seen in two views; 0 switches the stream off", at_least=0
    )
    text_tokens: int = setting(
        2048, "tokens of text without images per step; 0 switches the stream off", at_least=0, at_most=1 << 28
    )
    caption_length: int = setting(40, "longest caption in tokens, [CLS] and [SEP] included", at_least=3)
    passage_length: int = setting(128, "longest passage of text in tokens, [CLS] and [SEP] included", at_least=3)
    fragments: float = setting(
        0.5, "fraction of the passages that are cut and written (seq2seq); the rest is masked", at_least=0, at_most=1
    )
    micro_batches: int = setting(
        1,
        "equal parts of a step, for matching negatives; a multiple of the number of processes, each of which "
        "encodes all its parts at once (tower_chunk, activation_checkpointing: less memory)",
        at_least=1,
    )

    def contradictions(self) -> Iterator[Contradiction]:
        for kind in ("pairs", "images"):
            if getattr(self, kind) % self.micro_batches:
                yield Contradiction(
                    f"{kind} per step cannot be cut into equal micro-batches",
                    (kind, "micro_batches"),
                    got=getattr(self, kind),
                    expected=f"a multiple of batch.micro_batches = {self.micro_batches}",
                )


class Stream:
    """All batches of a run. corpora: kind -> Corpus, absent kinds left out.

    size: side of the model's images in pixels. pair_views, image_views: how images are varied. rank, world: which
    shards are ours. cache_bytes: memory for decoded images, per worker. regions: kind -> detected regions of its
    images, for UNIMO, which sees no pixels. prepared: rewritings and neighbours of the pairs. steps: of the run, if
    known. held_out: kind -> items that are never read.
    """

    def __init__(
        self,
        corpora: Mapping[str, Indexed],
        budgets: Budgets,
        objectives: Sequence[Corrupts],
        *,
        size: int,
        tokenizer: Tokenizer,
        seed: int,
        pair_views: Views = Views(),
        image_views: Views = Views(),
        rank: int = 0,
        world: int = 1,
        cache_bytes: int = 2 << 30,
        regions: Mapping[str, Regions] | None = None,
        prepared: Prepared | None = None,
        steps: int | None = None,
        held_out: Mapping[str, np.ndarray] | None = None,
    ):
        check_settings(budgets, "batch")
        self.corpora, self.budgets, self.objectives = corpora, budgets, list(objectives)
        self.size, self.tokenizer, self.seed, self.steps = size, tokenizer, seed, steps
        self.views = {"pairs": pair_views, "images": image_views}
        per_rank = budgets.micro_batches // world
        self.micro_batches = range(rank * per_rank, (rank + 1) * per_rank)
        self.cache, self.regions, self.prepared = Cache(cache_bytes), regions or {}, prepared
        # Room for random crops; without crops the images are kept at the size the model reads.
        self.kept_size = {kind: size if v.crop == 1 else round(size * 8 / 7) for kind, v in self.views.items()}
        imaged = [kind for kind in ("pairs", "images") if kind in corpora]
        without = held_out or {}
        # Of images whose regions are bad there is nothing to see.
        usable = {kind: _usable(corpora[kind], self.regions.get(kind)) for kind in imaged}
        self.items = {kind: np.setdiff1d(items, without.get(kind, ())) for kind, items in usable.items()}
        self.orders = {kind: Shuffled(len(self.items[kind]), seed, kind) for kind in imaged}
        if "texts" in corpora:
            cut = passages(corpora["texts"].token_counts, budgets.passage_length - 2)
            self.passages = cut[~np.isin(cut[:, 0], without.get("texts", ()))]
            lengths = self.passages[:, 2] - self.passages[:, 1] + 2
            budget = max(budgets.text_tokens // budgets.micro_batches, budgets.passage_length)
            self.bins = Bins(lengths, budget, seed, "texts")

    def batch(self, step: int) -> Batch:
        """This rank's part of a step."""
        progress = step / self.steps if self.steps else 0.0
        builder = BatchBuilder(
            step, self.size, self.tokenizer, self.budgets.micro_batches, len(self.micro_batches), progress
        )
        alone = [one for one in self.objectives if isinstance(one, AsksAlone) and one.alone(progress)]
        draws = {"pairs": self._draw_pairs, "images": self._draw_images, "texts": self._draw_texts}
        for kind, draw in draws.items():
            for shard in self.micro_batches if kind in self.corpora and (kind == "pairs" or not alone) else ():
                draw(builder, shard)
        for objective in alone or self.objectives:
            objective.corrupt(builder)
        return builder.finish()

    def _drawn(self, kind: str, step: int, shard: int) -> Iterator[tuple[int, int]]:
        """(epoch, item) of this shard's places in the endless shuffled run."""
        per_shard = getattr(self.budgets, kind) // self.budgets.micro_batches
        first = (step * self.budgets.micro_batches + shard) * per_shard
        for place in range(first, first + per_shard):
            epoch, chosen = self.orders[kind][place]
            yield epoch, int(self.items[kind][chosen])

    def _draw_pairs(self, builder: BatchBuilder, shard: int) -> None:
        corpus, max_length = self.corpora["pairs"], self.budgets.caption_length - 2
        for place, (epoch, item) in enumerate(self._drawn("pairs", builder.step, shard)):
            caption = self._caption_of(item, epoch)
            ids = np.asarray(corpus.tokens(item, caption))[:max_length]
            names = (self.seed, item, epoch)
            show = partial(self._related, names) if "images" in self.corpora and not self.regions else None
            side_inputs = None if self.prepared is None else self.prepared.of(item, caption, max_length, show)
            name = f"{corpus.keys[item]}#{caption}"
            builder.pairs.append(SampledExample(name, _content(ids), ids, names, place, side_inputs))
            builder.add_image("pairs", self._seen("pairs", item, names))
            builder.extra.setdefault("pairs.image", []).append(item)
            builder.extra.setdefault("pairs.caption", []).append(builder.pairs[-1].identity)

    def _caption_of(self, item: int, epoch: int) -> int:
        """Captions take turns in an order of the image's own, so that none comes twice before all have come."""
        offsets = self.corpora["pairs"].caption_offsets
        assert offsets is not None
        captions = int(offsets[item + 1] - offsets[item])
        turn, place = divmod(epoch, captions)
        return int(rng.generator(self.seed, "captions", item, turn).permutation(captions)[place])

    def _draw_images(self, builder: BatchBuilder, shard: int) -> None:
        for epoch, item in self._drawn("images", builder.step, shard):
            names = (self.seed, item, epoch)
            name = str(self.corpora["images"].keys[item])
            builder.images.append(SampledExample(name, item, np.zeros(0, np.int64), names))
            views = {"images": names} if "images" in self.regions else {f"images.{v}": (*names, v) for v in "ab"}
            for group, view_names in views.items():
                builder.add_image(group, self._seen("images", item, view_names))

    def _draw_texts(self, builder: BatchBuilder, shard: int) -> None:
        corpus = self.corpora["texts"]
        epoch, chosen = self.bins[builder.step * self.budgets.micro_batches + shard]
        for passage in chosen:
            document, first, last = map(int, self.passages[passage])
            ids = np.asarray(corpus.tokens(document)[first:last])
            name = f"{corpus.keys[document]}[{first}:{last}]"
            sampled = SampledExample(name, passage, ids, (self.seed, passage, epoch), shard=shard)
            written = sampled.rng("masked or fragments").random() < self.budgets.fragments
            (builder.fragments if written else builder.masked).append(sampled)

    def _seen(self, kind: str, item: int, names: tuple[int | str, ...]) -> ImageRegions | np.ndarray:
        """What the model sees of an image: its regions, or pixels."""
        return self.regions[kind].image(item) if kind in self.regions else self._pixels(kind, item, names)

    def _related(self, names: tuple[int | str, ...], item: int) -> np.ndarray:
        """An image of the image corpus that is related to the pair of these names, and so varied as pairs are."""
        return self._pixels("images", item, (*names, "related", item), self.views["pairs"])

    def _pixels(self, kind: str, item: int, names: tuple[int | str, ...], views: Views | None = None) -> np.ndarray:
        """(3, S, S) uint8: a view of an image, drawn by these names."""
        corpus, side, views = self.corpora[kind], self.kept_size[kind], views or self.views[kind]

        def decode() -> np.ndarray:
            return resize(load_rgb(corpus.image_bytes(item), where=corpus.keys[item]), side)

        image = self.cache.get((kind, item), decode)
        if views == Views() and side == self.size:  # shown as it is: nothing to draw
            return np.ascontiguousarray(image.transpose(2, 0, 1))
        return view(image, self.size, views, rng.generator("view", kind, *names))


def _usable(corpus: Indexed, regions: Regions | None) -> np.ndarray:
    """The items whose images can be seen."""
    if regions is None:
        return np.arange(len(corpus))
    if len(regions.lengths) != len(corpus):
        raise UsageError("regions of other images", got=len(regions.lengths), expected=len(corpus))
    return np.flatnonzero(regions.lengths)


def _content(ids: np.ndarray) -> int:
    """A number equal for equal captions, to keep duplicates from being called negatives."""
    return rng.number("caption", ids.tobytes().hex())
