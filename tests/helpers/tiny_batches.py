"""Batches made by the objectives' own `corrupt`, over a stand-in tokenizer of 211 ids."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from tiny_unimo2 import SIDE, VOCABULARY

from unimo.batch import Batch
from unimo.data.batch_builder import BatchBuilder, SampledExample


def small_tokenizer() -> SimpleNamespace:
    """What a batch builder and the objectives ask of a tokenizer; every third id continues the word before it."""

    def word_starts(ids: np.ndarray) -> np.ndarray:
        ids = np.asarray(ids)
        place = (ids % 3 == 0).astype(np.int8)
        place[(ids < 4) | (ids == VOCABULARY - 1)] = -1
        place[1:][(place[1:] == 1) & (place[:-1] == -1)] = 0
        return place

    return SimpleNamespace(
        cls=0, pad=1, sep=2, unk=3, mask=VOCABULARY - 1, vocab_size=VOCABULARY, word_starts=word_starts
    )


def sampled(number: int, length: int, place: int = 0, seed: int = 0) -> SampledExample:
    rng = np.random.default_rng([seed, number])
    ids = rng.integers(4, VOCABULARY - 1, length)
    return SampledExample(f"sample {number}", number, ids, (seed, number), place)


def random_images(n: int, seed: int = 0) -> list[np.ndarray]:
    """Images that differ as wholes, not only in noise."""
    rng = np.random.default_rng(seed)
    return [np.repeat(np.repeat(rng.integers(0, 256, (3, 4, 4)), 4, 1), 4, 2).astype(np.uint8) for _ in range(n)]


def tiny_draft(
    *,
    pairs: int = 0,
    images: int = 0,
    masked: int = 0,
    fragments: int = 0,
    micro_batches: int = 1,
    same_image: dict[int, int] | None = None,
    same_words: dict[int, int] | None = None,
    seed: int = 0,
) -> BatchBuilder:
    """Ragged captions of 4 to 12 words. same_image, same_words: pair -> the earlier one it repeats."""
    builder = BatchBuilder(0, SIDE, small_tokenizer(), micro_batches, micro_batches)
    for i in range(pairs):
        words = (same_words or {}).get(i, i)
        one = sampled(words, 4 + words % 9, i % (pairs // micro_batches), seed)
        builder.pairs.append(SampledExample(one.name, one.identity, one.ids, (seed, "pair", i), one.place))
    if pairs:
        source = [(same_image or {}).get(i, i) for i in range(pairs)]
        made = random_images(pairs, seed)
        builder.pixels["pairs"] = [made[i] for i in source]
        builder.extra["pairs.image"] = source
        builder.extra["pairs.caption"] = [one.identity for one in builder.pairs]
    if images:
        builder.images = [sampled(1000 + i, 0, seed=seed) for i in range(images)]
        made = random_images(images, seed + 1)
        builder.pixels["images.a"] = made
        builder.pixels["images.b"] = [np.ascontiguousarray(image[:, :, ::-1]) for image in made]
    builder.masked = [sampled(2000 + i, 10 + i, seed=seed) for i in range(masked)]
    builder.fragments = [sampled(3000 + i, 24 + i, seed=seed) for i in range(fragments)]
    return builder


def tiny_batch(objectives, **what) -> Batch:
    builder = tiny_draft(**what)
    for objective in objectives:
        objective.corrupt(builder)
    return builder.finish()
