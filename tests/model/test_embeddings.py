"""Patches equal a convolution, resized positions a bicubic resize written out, words plain lookups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_unimo2 import random_images

from unimo.model.embeddings import PatchEmbedding, WordEmbedding


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


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.75."""
    x, a = np.abs(x), -0.75
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resize_matrix(old: int, new: int) -> np.ndarray:
    """(new, old): bicubic weights with half-pixel centres and repeated borders."""
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[i, min(max(tap, 0), old - 1)] += cubic(np.array(centre - tap))
    return matrix


@pytest.mark.parametrize("side", [112, 128, 192])
def test_positions_of_another_image_size_are_a_bicubic_resize(side):
    torch.manual_seed(0)
    embedding = PatchEmbedding(6, 112, 8)
    grid = side // 8
    table = embedding.positions.detach().double().numpy()[0]
    resize = resize_matrix(14, grid)
    expected = np.einsum("ia,jb,abd->ijd", resize, resize, table[1:].reshape(14, 14, 6)).reshape(grid * grid, 6)
    ours = embedding.position_table(grid)
    np.testing.assert_allclose(ours[0, 0].detach().numpy(), table[0], atol=1e-7)
    np.testing.assert_allclose(ours[0, 1:].detach().numpy(), expected, atol=1e-6)
    ours.square().sum().backward()
    assert embedding.positions.shape == (1, 197, 6) and (embedding.positions.grad != 0).all()  # learns through it
    assert embedding(random_images(1, side=side)).shape == (1, 1 + grid**2, 6)


def test_images_that_are_no_whole_number_of_patches_are_refused():
    with pytest.raises(ValueError, match="multiple of the patch size"):
        PatchEmbedding(8, 30, 16)


@torch.no_grad()
def test_words_are_word_plus_position_and_a_norm():
    torch.manual_seed(0)
    embedding = WordEmbedding(20, 8, 10, dropout=0.5).eval()
    ids, positions = torch.tensor([3, 3, 19]), torch.tensor([2, 3, 9])
    x = embedding.word.weight[ids] + embedding.position.weight[positions]
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(embedding(ids, positions), x)
