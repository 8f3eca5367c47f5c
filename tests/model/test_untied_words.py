"""A language-model head with a table of its own (`mask_lm_out_fc.w_0`): the same model where the table is the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_unimo import lively_unimo, random_regions, regions_batch
from tiny_unimo2 import VOCABULARY, as_batch, lively_model, pack, random_images, random_rows
from torch import nn
from weights.test_pretrained import SETTINGS, lively
from weights.test_published import archive

from unimo.decoding.beam_search import GenerationConfig, beam, greedy
from unimo.decoding.decoder import CachedDecoder, Given
from unimo.errors import WeightsError
from unimo.model.build import build
from unimo.model.unified import Request
from unimo.weights.convert import convert_published
from unimo.weights.init_from import start_from
from unimo.weights.loading import load_model
from unimo.weights.saving import save_pretrained

OWN = "language_model.table.weight"
EVERYONE = torch.arange(3)


def twins(make):
    """A tied model, and an untied one with the same weights whose table is a copy of the word table."""
    tied, untied = make(), make(tie_word_embeddings=False)
    theirs = dict(tied.named_parameters())
    with torch.no_grad():
        for name, parameter in untied.named_parameters():
            parameter.copy_(theirs["words.word.weight" if name == OWN else name])
    return tied, untied


def asked(model):
    """Scores of all words at every place of three pairs, or of the texts."""
    texts = pack(random_rows([5, 9, 3]))
    unimo = hasattr(model, "regions")
    batch = regions_batch(random_regions([2, 3, 4]), texts) if unimo else as_batch(random_images(3), texts)
    fused = model.fuse(model.towers(batch), {"x": Request(EVERYONE, EVERYONE)})["x"]
    return model.subset_logits(fused.words(torch.arange(len(texts.ids)), texts), fused.word_table())


@pytest.mark.parametrize("known", [None, [0, 2, 5, 9, 30, 100]])
@pytest.mark.parametrize("make", [lively_unimo, lively_model])
def test_with_a_copied_table_it_is_the_tied_model_forward_and_backward(make, known):
    tied, untied = twins(make)
    answers = []
    for model in (tied, untied):
        if known is not None:
            model.know_words(torch.tensor(known))
        logits = asked(model)
        weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        (logits * weights).sum().backward()
        answers.append(logits.detach())
    assert torch.equal(*answers) and answers[0].shape[1] == (VOCABULARY if known is None else len(known))
    theirs, ours = dict(tied.named_parameters()), dict(untied.named_parameters())
    both = ours["words.word.weight"].grad + ours[OWN].grad
    torch.testing.assert_close(both, theirs["words.word.weight"].grad, rtol=1e-5, atol=1e-5)
    assert ours[OWN].grad.abs().max() > 0
    for name, parameter in theirs.items():
        if name != "words.word.weight" and parameter.grad is not None:
            torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-6, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("make", [lively_unimo, lively_model])
def test_it_reads_with_one_table_and_writes_with_the_other(make):
    """Changing the output table moves scores alone; changing the word table moves what is read."""
    _, model = twins(make)
    before = asked(model)
    with torch.no_grad():
        model.language_model.table.weight[7] += 1.0
    moved = (asked(model) - before).abs().amax(0) > 1e-6
    assert moved.nonzero()[:, 0].tolist() == [7]
    model.know_words(torch.tensor([3, 7, 8]))
    assert torch.equal(model.word_table(), model.language_model.table.weight[[3, 7, 8]])
    scores = model.word_logits(torch.zeros(2, 16))
    assert scores.isfinite().nonzero()[:, 1].tolist() == [3, 7, 8] * 2


@torch.no_grad()
@pytest.mark.parametrize("search", [greedy, beam])
def test_it_writes_what_the_tied_model_writes(search):
    tied, untied = twins(lively_model)
    known = [row.numpy() for row in random_rows([6, 3])]

    def written(model):
        images = model.encode_images(random_images(2))
        return search(
            CachedDecoder(model, Given(images, known)), GenerationConfig(cls=0, end=2, max_length=8, blocked=(0,))
        )

    assert written(tied) == written(untied)
    before = written(untied)
    untied.language_model.table.weight.neg_()
    assert written(untied) != before


@pytest.mark.parametrize("kind", ["unimo-2", "unimo"])
def test_it_is_saved_and_comes_back(tmp_path, kind):
    settings = replace(SETTINGS[kind], vocabulary=50265, tie_word_embeddings=False)
    model = lively(settings)
    folder = save_pretrained(model, tmp_path / "out", settings)
    again, _ = load_model(folder)
    assert torch.equal(again.language_model.table.weight, model.language_model.table.weight)
    assert not torch.equal(again.words.word.weight, again.output_table)


@pytest.mark.parametrize("member", ["unimo-2", "unimo"])
def test_an_archive_with_the_table_comes_back(tmp_path, member):
    """Published (H, V), as every fully connected map is: one variable a file, read with nothing said about it."""
    from weights.test_paddle import variable

    sizes = {"vocabulary": 40, "width": 64, "heads": 1, "positions": 20, "region_size": 6, "masked_grounding": False}
    settings = replace(
        SETTINGS[member], **sizes, image_contrastive=False, region_heads=False, tie_word_embeddings=False
    )
    model = lively(settings)
    published = archive(model)
    name = "mask_lm_out_fc.w_0" if member == "unimo" else "grounded.mask_lm_out_fc.w_0"
    assert published[name].shape == (64, 40)
    (tmp_path / "archive").mkdir()
    for key, tensor in published.items():
        (tmp_path / "archive" / key).write_bytes(variable(np.ascontiguousarray(tensor.numpy())))
    converted = convert_published(tmp_path / "archive", assignments=["model.chosen=4"], released=False)
    assert not converted.settings.tie_word_embeddings
    for (ours, a), b in zip(model.named_parameters(), converted.model.parameters(), strict=True):
        assert torch.equal(a, b), ours
    with pytest.raises(WeightsError, match=r"mask_lm_out_fc\.w_0"):  # nothing is passed over
        convert_published(tmp_path / "archive", assignments=["model.tie_word_embeddings=true"])


def test_starting_from_a_tied_model_begins_with_its_word_table(tmp_path):
    settings = SETTINGS["unimo"]
    folder = save_pretrained(lively(settings), tmp_path / "tied", settings)
    model = build(replace(settings, tie_word_embeddings=False))
    start_from(model, folder)
    assert torch.equal(model.language_model.table.weight, model.words.word.weight)
    assert model.language_model.table.weight is not model.words.word.weight
    whole = replace(settings, tie_word_embeddings=False)
    other = save_pretrained(lively(whole), tmp_path / "untied", whole)
    with pytest.raises(WeightsError, match=OWN):
        start_from(build(settings), other)


def test_fresh_tables_are_drawn_as_all_matrices_are():
    torch.manual_seed(0)
    model = build(replace(SETTINGS["unimo"], tie_word_embeddings=False))
    table = model.language_model.table.weight
    assert isinstance(model.language_model.table, nn.Linear) and table.shape == (50265, 16)
    assert 0.015 < table.std() < 0.02 and table.abs().max() <= 0.04
