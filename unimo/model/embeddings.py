"""Pixels or regions to image tokens and words to word tokens (spec unimo2 §2.2, §2.3; unimo §1.4).

N images · S side in pixels · P patches · R regions · F their features · T packed tokens · D width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.batch import Texts


class PatchEmbedding(nn.Module):
    """Images to [CLS] + patch tokens with positions. forward: (N, 3, S, S) uint8 -> (N, 1 + P, D).

    Pixels become (x / 255 - 0.5) / 0.5 (§5.4). padding: zero rows before each side; the published code pads by
    (patch - 1) // 2, which shifts every patch window; the standard ViT, and our default, by 0. The position table keeps
    the size it was made for and is resized bicubically for other image sizes, in the graph (§2.2).
    """

    def __init__(self, width: int, image_size: int, patch: int, padding: int = 0):
        super().__init__()
        if image_size % patch:
            raise ValueError(f"image size {image_size} is not a multiple of the patch size {patch}")
        self.patch, self.padding, self.grid = patch, padding, image_size // patch
        self.projection = nn.Conv2d(3, width, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        for table in (self.cls, self.positions):
            nn.init.trunc_normal_(table, std=0.02, a=-0.04, b=0.04)

    def forward(self, pixels: Tensor) -> Tensor:
        side, p = pixels.shape[-1], self.patch
        x = pixels.float().mul_(2 / 255).sub_(1)
        if self.padding:  # windows start `padding` pixels early; what falls off the far side was never used
            x = F.pad(x, (self.padding, 0, self.padding, 0))[..., :side, :side]
        # A convolution whose stride is its kernel is one matrix product over unfolded patches.
        x = x.unflatten(2, (-1, p)).unflatten(4, (-1, p))  # (N, 3, rows, p, columns, p)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, P, 3 * p * p)
        x = F.linear(x, self.projection.weight.flatten(1), self.projection.bias)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        return x + self.position_table(side // p)

    def position_table(self, grid: int) -> Tensor:
        """(1, 1 + grid * grid, D); the stored table, resized when the image is not the size it was made for."""
        if grid == self.grid:
            return self.positions
        cls, patches = self.positions[:, :1], self.positions[:, 1:]
        patches = patches.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
        return torch.cat([cls, patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


class WordEmbedding(nn.Module):
    """Word + position, LayerNorm, dropout; no type embedding. forward: ids (T,), positions (T,) -> (T, D).

    dialogue: rows of two more tables, who speaks and in which turn, or None (spec unimo §6.4, CoQA).
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        positions: int,
        dropout: float = 0.0,
        dialogue: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.word = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.speaker = nn.Embedding(dialogue[0], width) if dialogue else None
        self.turn = nn.Embedding(dialogue[1], width) if dialogue else None

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        speakers: Tensor | None = None,
        turns: Tensor | None = None,
        delta: Tensor | None = None,
    ) -> Tensor:
        x = self.word(ids) + self.position(positions)
        if speakers is not None:
            assert self.speaker is not None and self.turn is not None, "built without tables for dialogue"
            x = x + self.speaker(speakers) + self.turn(turns)
        return self.dropout(self.norm(x if delta is None else x + delta))

    def of(self, texts: Texts) -> Tensor:
        """All words of packed texts, with whatever comes with them."""
        return self(texts.ids, texts.positions, texts.speakers, texts.turns, texts.delta)


class RegionEmbedding(nn.Module):
    """Detected regions to tokens: feature and box, each through a linear map, summed, LayerNorm, dropout (unimo §1.4).

    forward: features (N, R, F), boxes (N, R, 5) -> (N, R, D). The only trace of place is the box.
    """

    def __init__(self, width: int, features: int = 2048, dropout: float = 0.0):
        super().__init__()
        self.feature = nn.Linear(features, width)
        self.box = nn.Linear(5, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        return self.dropout(self.norm(self.feature(features) + self.box(boxes)))


def rows_and_columns(grid: int, width: int) -> Tensor:
    """(grid * grid, D) of spread 1: for each patch the sum of a random vector of its row and one of its column.

    One patch to the left is then the same direction in every row; between rows of a random table it has to be learnt.
    """
    rows, columns = torch.randn(2, grid, width) / 2**0.5
    return (rows[:, None] + columns).flatten(0, 1)


def waves(n: int, width: int, slowest: float = 100.0) -> Tensor:
    """(n, D) sines and cosines of the position, from 1 to `slowest` positions a radian (Vaswani et al. 2017, §3.5).

    A neighbour's row is this one's turned by the same angles everywhere, so attending to the word before is one linear
    map; from random rows it has to be learnt for each position.
    """
    turns = torch.arange(n)[:, None] / slowest ** (torch.arange(0, width, 2) / width)
    return torch.stack([turns.sin(), turns.cos()], -1).flatten(1)[:, :width]
