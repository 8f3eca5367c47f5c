"""Fixed inputs, and what a model makes of them. Stored beside weights, they tell when a tensor has gone astray.

    D width · C dictionary · K chosen · R image rows

Checksums say that a file is the one that was written. These say that what was loaded is the model it claims to be: two
tensors of one shape that changed places, in a converter or by hand, change what every layer after them computes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimo.batch import TEXT, Regions, Texts
from unimo.errors import WeightsError
from unimo.model.transformer import Layer
from unimo.model.unified import Request, Towers, Unified
from unimo.model.unimo import UNIMO
from unimo.model.unimo2 import UNIMO2

TOLERANCE = 1e-3  # share of an activation's largest value; float32 of different machines differs by about 1e-5
LONGEST, REGIONS, LOGITS = 24, 5, 64
CODES = "codes"
SHAPELESS = "heads, chosen, hidden_act, fusion, matching_fusion, grounding_*, patch_padding or released"


@torch.no_grad()
def activations(model: Unified, codes: Tensor | None = None) -> dict[str, Tensor]:
    """name -> float32 tensor; every parameter has its share in one of them. The model must be on a CPU, in eval mode.

    codes: (1, K) chosen entries to take for granted. A vote that is almost a tie could else fall the other way on
    another machine.
    """
    found: dict[str, Tensor] = {}
    hooks = [
        part.register_forward_hook(_keep(found, name))
        for name, part in model.named_modules()
        if isinstance(part, (Layer, nn.LayerNorm))
    ]
    try:
        towers = _towers(model)
        model.count_votes(towers)
        if isinstance(model, UNIMO2) and model.dictionary is not None:
            _vote(model, towers, codes, found)
        one = torch.zeros(1, dtype=torch.int64)
        fused = model.fuse(towers, {"probe": Request(one, one)}, whole=True)["probe"]
    finally:
        for hook in hooks:
            hook.remove()
    image, text = fused.image_cls(), fused.text_cls()
    found["pooled image"], found["pooled text"] = model.image_pooler(image), model.text_pooler(text)
    logits = model.language_model(torch.cat([image, text]), model.output_table)
    found["words"] = logits[:, :: max(1, logits.shape[1] // LOGITS)]
    if model.matching is not None:
        found["matching"] = model.match_logits(fused)
    if isinstance(model, UNIMO2):
        _read_out_unimo2(model, towers, fused.ground() if fused.codes is not None else None, found)
    elif isinstance(model, UNIMO):
        for name in ("region_features", "region_classes"):
            if (head := getattr(model, name)) is not None:
                found[name] = head(image)
    return {name: x.detach().float().clone() for name, x in found.items()}


def check(model: Unified, stored: Mapping[str, Tensor], *, where: object, said_in: object = "the settings") -> None:
    """Raises WeightsError, naming the first activation that differs, unless the model computes what was stored.

    said_in: where settings stand that change what is computed and have no share in any tensor's shape.
    """
    found = activations(model, stored.get(CODES, torch.zeros(0)).long() if CODES in stored else None)
    for name, x in found.items():
        other = stored.get(name)
        if other is None or other.shape != x.shape:
            raise WeightsError(
                "no activation to compare with",
                where=f"{where}, {name}",
                got=None if other is None else tuple(other.shape),
                expected=tuple(x.shape),
                do=f"convert or fetch the weights again; or restore {SHAPELESS} in {said_in}",
            )
        apart, size = float((x - other).abs().max()), float(other.abs().max())
        if not apart <= TOLERANCE * size:
            raise WeightsError(
                "the weights are not those the stored activations were made with",
                where=f"{where}, {name}",
                got=f"{apart:.2g} apart, at values up to {size:.2g}",
                expected=f"at most {TOLERANCE:g} of the largest value",
                do=f"convert or fetch the weights again; or restore {SHAPELESS} in {said_in}",
            )


def _keep(found: dict[str, Tensor], name: str):
    """The first and the last row of what a part of the model returns."""

    def hook(_: nn.Module, __: object, out: Tensor) -> None:
        rows = out.flatten(0, -2)
        found[name] = rows[[0, min(len(rows), LONGEST) - 1]]

    return hook


def _scattered(n: int, below: int) -> Tensor:
    """(n,) whole numbers in [0, below) without visible order, the same everywhere (Knuth's multiplicative hash)."""
    return torch.arange(1, n + 1) * 2654435761 % 2**32 * below // 2**32


def _towers(model: Unified) -> Towers:
    """Both towers over one image and one text."""
    n = min(LONGEST, model.words.position.num_embeddings - 2)
    some = {} if model.words.speaker is None else {"speakers": torch.arange(n) % 3, "turns": torch.arange(n) % 16}
    texts = Texts(
        _scattered(n, model.words.word.num_embeddings),
        2 + torch.arange(n),
        torch.full((n,), TEXT),
        torch.tensor([0, n]),
        **some,
    )
    words = model.encode_texts(texts)
    if isinstance(model, UNIMO2):
        side = model.patches.grid * model.patches.patch
        pixels = _scattered(3 * side * side, 256).view(1, 3, side, side).to(torch.uint8)
        return Towers(model.encode_images(pixels), words, texts)
    assert isinstance(model, UNIMO)
    size = model.regions.feature.in_features
    features = _scattered(REGIONS * size, 1000).view(1, REGIONS, size) / 500 - 1
    boxes = _scattered(REGIONS * 5, 1000).view(1, REGIONS, 5) / 1000
    lengths = torch.tensor([REGIONS])
    return Towers(model.encode_images(Regions(features, boxes, lengths)), words, texts, image_lengths=lengths)


def _vote(model: UNIMO2, towers: Towers, codes: Tensor | None, found: dict[str, Tensor]) -> None:
    """The tally of the pair; then it is settled, so that `codes` are chosen in their order."""
    dictionary = model.dictionary
    assert dictionary is not None
    found["entries"] = dictionary.entries[:: max(1, len(dictionary.entries) // LOGITS)]
    for side in dictionary.project:
        rows = towers.images[:, 1:].flatten(0, 1) if side == "image" else towers.words
        found[f"voters, {side}"] = dictionary.positions_of(rows[:2], side)
    found["similarity"] = dictionary.similarity(towers.words[:2], dictionary.entries).float()
    if towers.image_votes is None or towers.text_votes is None:
        return
    found["votes"] = tally = towers.image_votes + towers.text_votes
    codes = dictionary.choose(tally) if codes is None else codes
    found[CODES] = codes
    settled = torch.zeros_like(tally)
    settled[0, codes[0]] = torch.arange(codes.shape[1], 0, -1, dtype=tally.dtype)
    towers.image_votes, towers.text_votes = settled, torch.zeros_like(settled)


def _read_out_unimo2(model: UNIMO2, towers: Towers, ground: Tensor | None, found: dict[str, Tensor]) -> None:
    for side in ("image", "text"):
        found[f"contrastive, {side}"] = model.embed(towers, side)
    found["temperature"] = model.contrastive_temperature(torch.ones(1))
    if model.image_temperature is not None:
        found["image temperature"] = model.image_temperature(torch.ones(1))
    if model.dictionary is not None:
        found["scale"] = F.softplus(model.dictionary.scale)
        if model.masked_grounding is not None and ground is not None:
            found["masked grounding"] = model.masked_grounding(ground[0, :2], model.dictionary.entries)
