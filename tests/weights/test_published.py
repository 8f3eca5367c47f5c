"""Published weights under their own names: every tensor lands in its place, or is named."""

from __future__ import annotations

import torch

from unimo.model.build import ModelSettings, build
from unimo.weights.key_map import convert
from unimo.weights.published_names import key_maps

TINY = ModelSettings(
    size="tiny", width=16, heads=2, image_depth=1, text_depth=2, grounded_depth=1, image_size=32, vocabulary=40,
    positions=20, dictionary=8, chosen=4, image_contrastive=False,
)  # fmt: skip


def archive(model, **options):
    """The model's weights as the published files hold them: cut, turned and renamed, written apart from `convert`."""
    found = {}
    for name, parameter in model.named_parameters():
        origin = key_maps(model, **options)[name]
        for theirs, part in zip(origin.names, parameter.detach().chunk(len(origin.names))):
            found[theirs] = part.T.contiguous() if theirs.endswith(".w_0") else part.clone()
    return found


def test_every_weight_comes_back():
    torch.manual_seed(0)
    one, other = build(TINY), build(TINY)
    report = convert(other, key_maps(other), archive(one), where="archive")
    assert len(report.loaded) == len(dict(one.named_parameters())) and not report.extra
    for (name, a), b in zip(one.named_parameters(), other.parameters()):
        assert torch.equal(a, b), name
