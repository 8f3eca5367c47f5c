"""A model small enough for any test, with weights large enough that everything it does can be seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.batch import TEXT, Batch, Texts
from unimo.model.transformer import Transformer
from unimo.model.unimo2 import UNIMO2

SIDE, PATCH, PATCHES, VOCABULARY = 16, 4, 16, 211


def lively_model(seed: int = 0, **options) -> UNIMO2:
    """Fresh weights of std 0.02 hardly move anything; these do, so a forbidden influence would show."""
    torch.manual_seed(seed)
    sizes = {"width": 16, "heads": 2, "image_depth": 2, "text_depth": 2, "grounded_depth": 2}
    sizes |= {"image_size": SIDE, "patch": PATCH, "vocabulary": VOCABULARY, "positions": 64}
    model = UNIMO2(**{**sizes, "dictionary": 24, "chosen": 4, **options}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
        if model.dictionary is not None:
            model.dictionary.scale.fill_(1.5)  # votes that differ, neither 0 nor 1
    return model


def random_images(n: int, seed: int = 0, side: int = SIDE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def random_rows(lengths: list[int], seed: int = 0) -> list[Tensor]:
    """Framed texts of these lengths: [CLS] words [SEP], no word twice in one text."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.cat(
            [
                torch.tensor([0]),
                4 + torch.randperm(VOCABULARY - 5, generator=generator)[: n - 2],
                torch.tensor([2]),
            ]
        )
        for n in lengths
    ]


def pack(rows: list[Tensor], roles: list[Tensor] | int = TEXT) -> Texts:
    """Rows of ids end to end, positions from 2."""
    if isinstance(roles, int):
        roles = [torch.full_like(row, roles) for row in rows]
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    positions = torch.cat([2 + torch.arange(len(row)) for row in rows])
    return Texts(torch.cat(rows), positions, torch.cat(roles), offsets)


def as_batch(pixels: Tensor, texts: Texts) -> Batch:
    return Batch(0, pixels, texts, {}, {}, {})


def no_texts() -> Texts:
    nothing = torch.zeros(0, dtype=torch.int64)
    return Texts(nothing, nothing, nothing, torch.zeros(1, dtype=torch.int64))


@torch.no_grad()
def torchs_own(tower: Transformer, act=F.gelu) -> nn.TransformerEncoder:
    """torch.nn.TransformerEncoder with the tower's weights: post-norm, nothing after the last layer."""
    heads, width = tower.layers[0].attention.heads, tower.layers[0].ffn_out.out_features
    layer = nn.TransformerEncoderLayer(width, heads, tower.ffn, 0.0, act, batch_first=True, norm_first=False)
    theirs = nn.TransformerEncoder(layer, len(tower.layers), enable_nested_tensor=False).eval()
    for a, b in zip(theirs.layers, tower.layers):
        a.self_attn.in_proj_weight.copy_(b.attention.qkv.weight)
        a.self_attn.in_proj_bias.copy_(b.attention.qkv.bias)
        pairs = (a.self_attn.out_proj, b.attention.output), (a.linear1, b.ffn_in), (a.linear2, b.ffn_out)
        for mine, ours in (*pairs, (a.norm1, b.attention_norm), (a.norm2, b.ffn_norm)):
            mine.load_state_dict(ours.state_dict())
    return theirs
