"""Reading the fixtures of tests/golden, and comparing with them in their own measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.numpy import load_file
from torch import Tensor

from unimo.model.unified import Unified
from unimo.weights.published_names import key_maps

TOLERANCE = 1e-5


def scenario(folder: Path, name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in load_file(folder / f"{name}.safetensors").items()}


def close(ours: Tensor, theirs: Tensor, atol: float = TOLERANCE) -> None:
    """The fixtures' own measure: |a - b| <= atol * max(1, largest magnitude)."""
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol * max(1.0, float(theirs.abs().max())))


def real_tokens(permission: Tensor) -> Tensor:
    """(B, L, L) released permissions -> (B, L) which tokens are no padding."""
    return permission.amax(1).bool()


def same_gradients(
    model: Unified,
    loss: Tensor,
    theirs: dict[str, Tensor],
    prefix: str,
    atol: float = TOLERANCE,
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Every gradient the fixture holds for this loss, and at least one. extra: tensors that are not the model's."""
    model.zero_grad()
    loss.backward()
    own, extra = dict(model.named_parameters()), extra or {}
    given = {key.removeprefix(prefix): x for key, x in theirs.items() if key.startswith(prefix)}
    seen = set()
    for ours, origin in key_maps(model).items():
        if set(origin.names) <= set(given):
            close(own[ours].grad, origin.convert(given), atol)
            seen |= set(origin.names)
        elif len(origin.names) == 3 and (parts := set(origin.names) & set(given)):  # one of query, key, value
            for place, name in enumerate(origin.names):
                if name in parts:
                    mine = own[ours].grad.chunk(3)[place]
                    close(mine.T if mine.ndim == 2 else mine, given[name], atol)
            seen |= parts
    for name in set(extra) & set(given):
        close(extra[name].grad, given[name], atol)
        seen.add(name)
    assert seen == set(given) != set()
