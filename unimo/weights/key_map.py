"""Weights of others into our models: where each of ours comes from, and what became of every tensor on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unimo.errors import WeightsError


@dataclass(frozen=True)
class KeyMap:
    """names: published tensors, joined along the first axis after each was turned, where `turned`.

    change: what makes ours of the joined tensor, where it is not the same.
    """

    names: tuple[str, ...]
    turned: bool = False
    change: Callable[[Tensor], Tensor] | None = None

    def take(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Our tensor. Raises KeyError for the first name that is not there."""
        parts = [weights[name] for name in self.names]
        if self.turned:
            parts = [part.T if part.ndim == 2 else part for part in parts]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined if self.change is None else self.change(joined)


OWN_TABLE, WORD_TABLE = "language_model.table.weight", "words.word.weight"


def by_name(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, KeyMap]:
    """Origins of a model's parameters in weights of the same names.

    A model with an output table of its own that starts from one without has the word table there: it is what theirs
    predicts words with.
    """
    same = {name: KeyMap((name,)) for name, _ in model.named_parameters()}
    if OWN_TABLE in same and OWN_TABLE not in weights:
        same[OWN_TABLE] = KeyMap((WORD_TABLE,))
    return same


@dataclass
class LoadReport:
    """What became of every tensor: ours that were found, are missing or have another shape; theirs that nobody took."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    def table(self) -> list[str]:
        """One line a kind, with the first names."""
        return [line(kind, names) for kind, names in vars(self).items()]


def line(kind: str, names: Sequence[str]) -> str:
    """A kind, how many, and the first names."""
    return f"{kind:>10} {len(names):>5}  {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"


def convert(
    model: nn.Module,
    origins: Mapping[str, KeyMap],
    weights: Mapping[str, Tensor],
    *,
    where: object,
    strict: bool = True,
) -> LoadReport:
    """Puts somebody else's weights into a model of the same sizes, and says what became of each.

    origins: our parameter name -> where it comes from, for every parameter they have too.

    strict: WeightsError if any of ours is missing or has another shape, or any of theirs is left over.
    """
    account, own = LoadReport(), dict(model.named_parameters())
    left = set(weights)
    for name, parameter in own.items():
        origin = origins.get(name)
        if origin is None or not set(origin.names) <= set(weights):
            account.missing.append(name)
            continue
        left -= set(origin.names)
        try:
            found = origin.take(weights)
        except RuntimeError:  # parts that cannot be joined
            shapes = ", ".join(str(tuple(weights[part].shape)) for part in origin.names)
            account.misshapen.append(f"{name} {shapes} for {tuple(parameter.shape)}")
            continue
        if found.shape == parameter.shape:
            parameter.data.copy_(found)
            account.loaded.append(name)
        else:
            account.misshapen.append(f"{name} {tuple(found.shape)} for {tuple(parameter.shape)}")
    account.extra = sorted(left)
    if strict and (account.missing or account.misshapen or account.extra):
        raise WeightsError(
            "the weights do not fit the model",
            where=where,
            got="; ".join(" ".join(line.split()) for line in account.table()[1:]),
            expected=f"{len(own)} tensors, each once",
            do="check the sizes, or allow the difference",
        )
    return account
