"""Batches of a task: every row once an epoch, the same on any number of ranks, each image shown once."""

from __future__ import annotations

import pytest
import torch
from tiny_task import keys_of, write_images

from unimo.corpus.corpus import open_corpus
from unimo.data.augment import Views
from unimo.finetune.batches import Place, TaskRows, TaskStream, places_of
from unimo.finetune.split import Example, Examples
from unimo.finetune.task_types import Classification
from unimo.model.task_heads import HeadSettings
from unimo.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Examples:
    """Ten rows about five images."""
    folder = tmp_path_factory.mktemp("rows") / "images"
    write_images(folder, 5)
    corpus = open_corpus("images", str(folder))
    keys = sorted(corpus.keys, key=lambda key: key.rpartition("/")[2])
    assert len(keys_of(folder)) == 5
    rows = [Example(f"row {i}", (f"question {i}",), keys[i % 5], ("yes", "no")[i % 2]) for i in range(10)]
    return Examples("train", rows, corpus)


HEAD = HeadSettings(labels=("no", "yes"), reads="both")


def rows_of(examples, **options) -> TaskRows:
    return TaskRows(examples, size=16, tokenizer=Tokenizer.default(), **options)


def stream_of(examples, batch_size=4, views=Views(), **options) -> TaskStream:
    return TaskStream(
        rows_of(examples, views=views), Classification(HEAD, sees=True), batch_size=batch_size, seed=3, **options
    )


def test_every_row_comes_once_an_epoch(examples):
    stream = stream_of(examples, batch_size=5)
    ids = [one for step in range(8) for one in stream.batch(step).keys["examples"]]
    everyone = sorted(row.id for row in examples.rows)
    epochs = [ids[first : first + 10] for first in range(0, 40, 10)]
    assert all(sorted(epoch) == everyone for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_is_a_function_of_seed_and_step(examples):
    views = Views(crop=0.5, flip=0.5)
    one, other = stream_of(examples, views=views), stream_of(examples, views=views)
    other.batch(7), other.batch(0)  # whatever was read before
    a, b = one.batch(3), other.batch(3)
    assert a.keys == b.keys and torch.equal(a.pixels, b.pixels) and torch.equal(a.texts.ids, b.texts.ids)
    assert not torch.equal(a.pixels, one.batch(4).pixels)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_what_one_process_reads(examples, world):
    alone = stream_of(examples, batch_size=4, micro_batches=4)
    parts = [stream_of(examples, batch_size=4, micro_batches=4, rank=rank, world=world) for rank in range(world)]
    for step in range(5):
        batch_size = [one for part in parts for one in part.batch(step).keys["examples"]]
        assert batch_size == alone.batch(step).keys["examples"]


def test_an_image_of_several_rows_is_shown_once_unless_it_varies(examples):
    rows = rows_of(examples)
    builder = rows.builder([Place(0), Place(5), Place(1)])  # rows 0 and 5 have the same image
    assert [one.image for one in builder.examples] == [0, 0, 1] and len(builder.pixels["examples"]) == 2
    varied = rows_of(examples, views=Views(flip=0.5)).builder([Place(0, names=(1,)), Place(5, names=(2,))])
    assert [one.image for one in varied.examples] == [0, 1]
    blind = rows_of(examples, sees=False).builder([Place(0)])
    assert blind.examples[0].image == -1 and not blind.pixels


def test_each_target_counts_once(examples):
    rows = [Example("a", target=("x", "y", "z")), Example("b", target="x"), Example("c")]
    made = Examples("made", rows)
    assert places_of(made, each_target=True) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert places_of(made) == [(0, 0), (1, 0)]  # what has no target is not learnt
