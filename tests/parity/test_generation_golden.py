"""Caption decoding of both members against the published graph: single steps, and whole beam searches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from parity.golden_files import close, real_tokens, scenario
from parity.test_unimo2_golden import pixels_of
from parity.test_unimo2_golden import published_model as published_unimo2
from parity.test_unimo_golden import published_model as published_unimo
from torch import Tensor

from unimo.batch import Regions
from unimo.data.records import Record
from unimo.decoding.beam_search import GenerationConfig, beam
from unimo.decoding.decoder import CachedDecoder, Given

CLS, END = 0, 2


def tags_of(x: dict[str, Tensor], real: Tensor) -> list[Record]:
    """The object tags of every sample as known text. real: (B, L) bool."""
    columns = zip(x["in.obj_ids"][..., 0], x["in.obj_pos"][..., 0], real)
    return [Record(ids[kept].numpy(), at[kept].numpy(), int(kept.sum())) for ids, at, kept in columns]


def begin(golden, member: str, name: str) -> tuple[dict[str, Tensor], CachedDecoder]:
    """The fixture, and our model about to write the captions of its samples."""
    x = scenario(golden / member, name)
    if member == "unimo2":
        model = published_unimo2(golden / member, released=True)
        with torch.no_grad():
            return x, CachedDecoder(
                model, Given(model.encode_images(pixels_of(x)), tags_of(x, x["in.obj_mask"].any(1)))
            )
    model, rows = published_unimo(golden / member), x["in.image_embedding"].shape[1]
    real = real_tokens(x["in.input_mask"])
    lengths = real[:, :rows].sum(1)
    with torch.no_grad():
        images = model.encode_images(Regions(x["in.image_embedding"], x["in.image_loc"], lengths))
        return x, CachedDecoder(model, Given(images, tags_of(x, real[:, rows:]), lengths))


@pytest.mark.parametrize("member", ["unimo", "unimo2"])
def test_single_steps(golden, member):
    x, decoder = begin(golden, member, "caption_decode_steps")
    for t in range(4):
        logits = decoder.advance(x[f"in.step{t}.token"], x[f"in.step{t}.parent"].long())
        close(logits, x[f"out.step{t}.logits"], 3e-5 if member == "unimo2" else 1e-5)


def word_starts(size: int) -> np.ndarray:
    ids = np.arange(size)
    return (ids >= 4) & ((ids % 3 == 0) | (ids % 5 == 0))


@pytest.mark.parametrize("variant", ["lp06", "lp12_beam5", "trigram"])
@pytest.mark.parametrize("member", ["unimo", "unimo2"])
def test_beam_search(golden, member, variant):
    _, decoder = begin(golden, member, "caption_beam")
    values = json.loads((golden / member / "caption_beam.json").read_text())["values"]
    options = values[f"{variant}.settings"]
    found = beam(
        decoder,
        GenerationConfig(CLS, END, max_length=options["max_out_len"], min_length=options["min_out_len"]),
        num_beams=options["beam_size"],
        length_penalty=options["length_penalty"],
        no_repeat_ngram_size=3 if options["block_trigram"] else 0,
        word_starts=word_starts(decoder.model.words.word.num_embeddings),
    )
    for sample in range(2):
        ours = {(CLS, *one.words, *[END] * one.ended): one.score for one in found[sample]}
        theirs = {
            tuple(one["tokens"]): one["score"] for one in values[f"{variant}.hypotheses"] if one["sample"] == sample
        }
        assert ours.keys() == theirs.keys()
        for words, score in theirs.items():
            assert ours[words] == pytest.approx(score, rel=1e-5)
