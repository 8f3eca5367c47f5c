"""Patches equal a convolution; a resized position table still learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_unimo2 import random_images

from unimo.model.build import ModelSettings, build
from unimo.model.embeddings import PatchEmbedding, rows_and_columns


@torch.no_grad()
@pytest.mark.parametrize("patch, padding, side", [(16, 7, 64), (16, 7, 96), (16, 0, 48), (4, 1, 12), (5, 2, 20)])
def test_patches_equal_a_convolution_with_padding(patch, padding, side):
    """(16, 7) is the published patch: every window starts 7 pixels early (spec unimo2 §2.2)."""
    torch.manual_seed(0)
    embedding = PatchEmbedding(8, side, patch, padding)
    pixels = random_images(2, side=side)
    x = (pixels.float() / 255 - 0.5) / 0.5
    expected = F.conv2d(x, embedding.projection.weight, embedding.projection.bias, stride=patch, padding=padding)
    expected = expected.flatten(2).transpose(1, 2) + embedding.positions[:, 1:]
    out = embedding(pixels)
    assert out.shape == (2, 1 + (side // patch) ** 2, 8)
    torch.testing.assert_close(out[:, 1:], expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(out[:, :1], (embedding.cls + embedding.positions[:, :1]).expand(2, -1, -1))


def test_a_resized_position_table_learns():
    embedding = PatchEmbedding(6, 112, 8)
    embedding.position_table(16).square().sum().backward()
    assert embedding.positions.shape == (1, 197, 6) and (embedding.positions.grad != 0).all()


def test_images_that_are_no_whole_number_of_patches_are_refused():
    with pytest.raises(ValueError, match="multiple of the patch size"):
        PatchEmbedding(8, 30, 16)


def test_rows_and_columns_tell_a_patch_by_the_same_directions_everywhere():
    torch.manual_seed(0)
    table = rows_and_columns(7, 400).unflatten(0, (7, 7))
    assert 0.95 < table.std() < 1.05
    steps = table[1:] - table[:-1]  # one row down is the same step in every column
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-5)
    assert torch.cdist(table.flatten(0, 1), table.flatten(0, 1)).fill_diagonal_(9).min() > 1


def test_patch_positions_begin_as_large_as_asked():
    settings = ModelSettings("tiny", image_size=64, width=64, heads=2, initial_patch_positions=2.0)
    (loud, usual) = (build(one).patches.positions for one in (settings, ModelSettings("tiny", image_size=64)))
    assert 1.5 < loud[0, 1:].std() < 2.5 and loud[0, 0].std() < 0.1 and usual.std() < 0.1
