"""Pixels to patch tokens and words to word tokens (spec unimo2 §2.2, §2.3).

N pictures · S side in pixels · P patches · T packed tokens · D width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """Pictures to [CLS] + patch tokens with positions. forward: (N, 3, S, S) uint8 -> (N, 1 + P, D).

    Pixels become (x / 255 - 0.5) / 0.5 (§5.4). padding: zero rows before each side; the published code pads by
    (patch - 1) // 2, which shifts every patch window; the standard ViT, and our default, by 0. The position table keeps
    the size it was made for and is resized bicubically for other picture sizes, in the graph (§2.2).
    """

    def __init__(self, width: int, image_size: int, patch: int, padding: int = 0):
        super().__init__()
        if image_size % patch:
            raise ValueError(f"image size {image_size} is not a multiple of the patch size {patch}")
        self.patch, self.padding, self.grid = patch, padding, image_size // patch
        self.projection = nn.Conv2d(3, width, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        nn.init.trunc_normal_(self.cls, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        side, p = pixels.shape[-1], self.patch
        x = pixels.float().mul_(2 / 255).sub_(1)
        if self.padding:  # windows start `padding` pixels early; what falls off the far side was never used
            x = F.pad(x, (self.padding, 0, self.padding, 0))[..., :side, :side]
        # A convolution whose stride is its kernel is one matrix product over unfolded patches.
        x = x.unflatten(2, (-1, p)).unflatten(4, (-1, p))  # (N, 3, rows, p, columns, p)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, P, 3 * p * p)
        x = F.linear(x, self.projection.weight.flatten(1), self.projection.bias)
        x = torch.cat([self.cls.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        return x + self.position_table(side // p)

    def position_table(self, grid: int) -> Tensor:
        """(1, 1 + grid * grid, D); the stored table, resized when the picture is not the size it was made for."""
        if grid == self.grid:
            return self.positions
        cls, patches = self.positions[:, :1], self.positions[:, 1:]
        patches = patches.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
        return torch.cat([cls, patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


class WordEmbedding(nn.Module):
    """Word + position, LayerNorm, dropout; no type embedding. forward: ids (T,), positions (T,) -> (T, D)."""

    def __init__(self, vocabulary: int, width: int, positions: int, dropout: float = 0.0):
        super().__init__()
        self.word = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.norm(self.word(ids) + self.position(positions)))
