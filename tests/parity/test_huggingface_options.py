"""Options of ours against `transformers` with the same: relu between the maps, words predicted with another table."""

from __future__ import annotations

import pytest
import torch
from parity.test_huggingface import PATCH, ROWS, SIDE, roberta, unimo, vit

from unimo.batch import TEXT, Batch, Texts
from unimo.errors import WeightsError
from unimo.model.unified import Request
from unimo.weights.huggingface import start_from_roberta, start_from_vit

pytest.importorskip("transformers")


@torch.no_grad()
def test_a_vit_with_relu(tmp_path):
    from parity.test_huggingface import unimo2

    theirs = vit(hidden_act="relu")
    theirs.save_pretrained(tmp_path)
    model = unimo2(hidden_act="relu")
    start_from_vit(model, tmp_path)
    pixels = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = theirs(pixels.float() / 127.5 - 1).last_hidden_state
    torch.testing.assert_close(model.encode_images(pixels), expected, rtol=0, atol=1e-4)
    assert SIDE % PATCH == 0
    with pytest.raises(WeightsError, match="hidden_act"):
        start_from_vit(unimo2(), tmp_path)


def test_a_roberta_whose_output_layer_is_its_own(tmp_path):
    theirs = roberta(tie_word_embeddings=False)
    table = theirs.lm_head.decoder.weight
    assert table is not theirs.get_input_embeddings().weight
    theirs.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="tie_word_embeddings=false"):
        start_from_roberta(unimo(), tmp_path)
    model = unimo(tie_word_embeddings=False)
    start_from_roberta(model, tmp_path)
    assert torch.equal(model.language_model.table.weight, table)
    ids = torch.tensor([0, 5, 9, 17, 30, 2])
    assert len(ids) < ROWS
    texts = Texts(ids, 2 + torch.arange(6), torch.full((6,), TEXT), torch.tensor([0, 6]))
    with torch.no_grad():
        towers = model.towers(Batch(0, torch.zeros(0, 3, 1, 1, dtype=torch.uint8), texts, {}, {}, {}))
        fused = model.fuse(towers, {"x": Request(None, torch.tensor([0]))})["x"]
        said = model.word_logits(fused.words(torch.arange(6), texts))
        expected = theirs(ids[None]).logits[0]
    torch.testing.assert_close(said, expected, rtol=0, atol=1e-4)


def test_a_roberta_with_a_tied_table_starts_both_tables(tmp_path):
    theirs = roberta()
    theirs.save_pretrained(tmp_path)
    model = unimo(tie_word_embeddings=False)
    start_from_roberta(model, tmp_path)
    assert torch.equal(model.language_model.table.weight, model.words.word.weight)


def test_its_head_is_gelu_whatever_its_configuration_says(tmp_path):
    """So relu of ours, which is the head's too, cannot be started from it."""
    roberta(hidden_act="relu").save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"model\.hidden_act"):
        start_from_roberta(unimo(hidden_act="relu"), tmp_path)
    with pytest.raises(WeightsError, match="hidden_act"):
        start_from_roberta(unimo(), tmp_path)
