"""Batches by step number: read what the schedule says, let objectives hide and ask, pack.

    1. schedule   (seed, step)          -> which pairs, images and passages, per shard
    2. read       corpus[i]             -> token ids, decoded images (a bounded cache keeps them)
    3. corrupt    objective.corrupt     -> masked, written, cut versions and their questions
    4. pack       Draft.finish          -> one Batch

`Stream.batch(step)` is a pure function, so loader workers (`unimo.data.workers`) keep no state and resuming needs one
integer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from unimo import rng
from unimo.batch import Batch
from unimo.config import Contradiction, check_settings, setting
from unimo.data.augment import Views, squeeze, view
from unimo.data.batch_builder import Draft, Drawn
from unimo.data.images import load_rgb
from unimo.data.sample import Indexed, Regions
from unimo.data.schedule import Bins, Shuffled, passages
from unimo.data.side_inputs import Prepared
from unimo.errors import UsageError
from unimo.tokenizer import Tokenizer


class Corrupts(Protocol):
    """The half of an objective the loader needs."""

    def corrupt(self, draft: Draft) -> None: ...


@runtime_checkable
class AsksAlone(Protocol):
    """An objective that for a part of a run is the only one. progress: share of the run's steps that lie behind."""

    def alone(self, progress: float) -> bool: ...


@dataclass(frozen=True)
class Budgets:
    """How much of each kind every step holds, over all shards and ranks."""

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
        0.5, "share of the passages that are cut and written (seq2seq); the rest is masked", at_least=0, at_most=1
    )
    shards: int = setting(1, "equal parts of a step; a multiple of the number of processes", at_least=1)

    def contradictions(self) -> Iterator[Contradiction]:
        for kind in ("pairs", "images"):
            if getattr(self, kind) % self.shards:
                yield Contradiction(
                    f"{kind} per step cannot be cut into equal shards",
                    (kind, "shards"),
                    got=getattr(self, kind),
                    expected=f"a multiple of batch.shards = {self.shards}",
                )


class Cache:
    """Decoded images as uint8 squares, up to a number of bytes; what does not fit is decoded again."""

    def __init__(self, limit: int):
        self.limit, self.used = limit, 0
        self.kept: dict[tuple[str, int], np.ndarray] = {}

    def get(self, key: tuple[str, int], make: Callable[[], np.ndarray]) -> np.ndarray:
        if key in self.kept:
            return self.kept[key]
        image = make()
        if self.used + image.nbytes <= self.limit:
            self.kept[key] = image
            self.used += image.nbytes
        return image


class Stream:
    """All batches of a run. corpora: kind -> Corpus, absent kinds left out.

    size: side of the model's images in pixels. pair_views, image_views: how images are varied. rank, world: which
    shards are ours. cache_bytes: memory for decoded images, per worker. regions: kind -> detected regions of its
    images, for UNIMO, which sees no pixels. prepared: rewritings and neighbours of the pairs. steps: of the run, if
    known.
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
    ):
        check_settings(budgets, "batch")
        self.corpora, self.budgets, self.objectives = corpora, budgets, list(objectives)
        self.size, self.tokenizer, self.seed, self.steps = size, tokenizer, seed, steps
        self.views = {"pairs": pair_views, "images": image_views}
        per_rank = budgets.shards // world
        self.shards = range(rank * per_rank, (rank + 1) * per_rank)
        self.cache, self.regions, self.prepared = Cache(cache_bytes), regions or {}, prepared
        # Room for random crops; without crops the images are kept at the size the model reads.
        self.kept_size = {kind: size if v.crop == 1 else round(size * 8 / 7) for kind, v in self.views.items()}
        imaged = [kind for kind in ("pairs", "images") if kind in corpora]
        # Of images whose regions are bad there is nothing to see.
        self.items = {kind: _usable(corpora[kind], self.regions.get(kind)) for kind in imaged}
        self.orders = {kind: Shuffled(len(self.items[kind]), seed, kind) for kind in imaged}
        if "texts" in corpora:
            self.passages = passages(corpora["texts"].token_counts, budgets.passage_length - 2)
            lengths = self.passages[:, 2] - self.passages[:, 1] + 2
            budget = max(budgets.text_tokens // budgets.shards, budgets.passage_length)
            self.bins = Bins(lengths, budget, seed, "texts")

    def batch(self, step: int) -> Batch:
        """This rank's share of a step."""
        progress = step / self.steps if self.steps else 0.0
        draft = Draft(step, self.size, self.tokenizer, self.budgets.shards, len(self.shards), progress)
        alone = [one for one in self.objectives if isinstance(one, AsksAlone) and one.alone(progress)]
        for shard in self.shards:
            self._draw_pairs(draft, shard)
        for shard in self.shards if not alone else ():
            self._draw_images(draft, shard)
        for shard in self.shards if not alone else ():
            self._draw_texts(draft, shard)
        for objective in alone or self.objectives:
            objective.corrupt(draft)
        return draft.finish()

    def _places(self, kind: str, step: int, shard: int) -> range:
        """This shard's places in the endless shuffled run."""
        per_shard = getattr(self.budgets, kind) // self.budgets.shards
        first = (step * self.budgets.shards + shard) * per_shard
        return range(first, first + per_shard)

    def _draw_pairs(self, draft: Draft, shard: int) -> None:
        if "pairs" not in self.corpora:
            return
        corpus, longest = self.corpora["pairs"], self.budgets.caption_length - 2
        assert corpus.caption_offsets is not None
        for place_in_shard, place in enumerate(self._places("pairs", draft.step, shard)):
            epoch, chosen = self.orders["pairs"][place]
            item = int(self.items["pairs"][chosen])
            captions = int(np.diff(corpus.caption_offsets[item : item + 2])[0])
            # Captions take turns in an order of the image's own, so that none comes twice before all have
            # come.
            turn, place_in_turn = divmod(epoch, captions)
            order = rng.generator(self.seed, "captions", item, turn).permutation(captions)
            caption = int(order[place_in_turn])
            ids = np.asarray(corpus.tokens(item, caption))[:longest]
            names = (self.seed, item, epoch)
            name = f"{corpus.keys[item]}#{caption}"
            show = partial(self._related, names) if "images" in self.corpora and not self.regions else None
            beside = None if self.prepared is None else self.prepared.of(item, caption, longest, show)
            draft.pairs.append(Drawn(name, _content(ids), ids, names, place_in_shard, beside))
            if "pairs" in self.regions:
                draft.regions.setdefault("pairs", []).append(self.regions["pairs"].image(item))
            else:
                draft.pixels.setdefault("pairs", []).append(self._image("pairs", item, names))
            draft.extra.setdefault("pairs.image", []).append(item)
            draft.extra.setdefault("pairs.caption", []).append(draft.pairs[-1].identity)

    def _draw_images(self, draft: Draft, shard: int) -> None:
        if "images" not in self.corpora:
            return
        for place in self._places("images", draft.step, shard):
            epoch, chosen = self.orders["images"][place]
            item = int(self.items["images"][chosen])
            name = str(self.corpora["images"].keys[item])
            draft.images.append(Drawn(name, item, np.zeros(0, np.int64), (self.seed, item, epoch)))
            if "images" in self.regions:
                draft.regions.setdefault("images", []).append(self.regions["images"].image(item))
                continue
            for side in ("a", "b"):
                image = self._image("images", item, (self.seed, item, epoch, side))
                draft.pixels.setdefault(f"images.{side}", []).append(image)

    def _draw_texts(self, draft: Draft, shard: int) -> None:
        if "texts" not in self.corpora:
            return
        corpus = self.corpora["texts"]
        epoch, chosen = self.bins[draft.step * self.budgets.shards + shard]
        for passage in chosen:
            document, first, last = self.passages[passage]
            ids = np.asarray(corpus.tokens(int(document))[first:last])
            name = f"{corpus.keys[int(document)]}[{first}:{last}]"
            drawn = Drawn(name, int(passage), ids, (self.seed, int(passage), epoch), shard=shard)
            written = drawn.rng("masked or fragments").random() < self.budgets.fragments
            (draft.fragments if written else draft.masked).append(drawn)

    def _related(self, names: tuple[int | str, ...], item: int) -> np.ndarray:
        """An image of the image corpus that is related to the pair of these names, and so varied as pairs are."""
        return self._image("images", item, (*names, "related", item), self.views["pairs"])

    def _image(self, kind: str, item: int, names: tuple[int | str, ...], views: Views | None = None) -> np.ndarray:
        corpus, side, views = self.corpora[kind], self.kept_size[kind], views or self.views[kind]

        def decode() -> np.ndarray:
            return squeeze(load_rgb(corpus.image_bytes(item), where=corpus.keys[item]), side)

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
