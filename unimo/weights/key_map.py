"""Weights of others in our models: which of their tensors each of ours is made of, and what became of every one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from unimo.errors import WeightsError

OWN_TABLE, WORD_TABLE = "language_model.table.weight", "words.word.weight"


@dataclass(frozen=True)
class KeyMap:
    """Source of one parameter: published tensors, joined along the first axis, each transposed first if `transpose`.

    change: what makes ours of the joined tensor, where it is not the same.
    """

    names: tuple[str, ...]
    transpose: bool = False
    change: Callable[[Tensor], Tensor] | None = None

    def convert(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Our tensor. KeyError for the first name that is not there, RuntimeError for parts that do not join."""
        parts = [weights[name] for name in self.names]
        if self.transpose:
            parts = [part.T if part.ndim == 2 else part for part in parts]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined if self.change is None else self.change(joined)


def by_name(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, KeyMap]:
    """Key maps for weights of the same names as the model's.

    A model with its own output table that starts from one without gets a copy of the word table there: that is what
    the other predicts words with.
    """
    same = {name: KeyMap((name,)) for name, _ in model.named_parameters()}
    if OWN_TABLE in same and OWN_TABLE not in weights:
        same[OWN_TABLE] = KeyMap((WORD_TABLE,))
    return same


@dataclass
class LoadReport:
    """Names of our parameters that were loaded, are missing or have another shape, and of their unused tensors."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    def table(self) -> list[str]:
        """One line a kind, with the first names."""
        return [line(kind, names) for kind, names in vars(self).items()]

    def problems(self) -> str:
        """The kinds other than `loaded` on one line, for an error."""
        return "; ".join(" ".join(row.split()) for row in self.table()[1:])


def line(kind: str, names: Sequence[str]) -> str:
    """A kind, how many, and the first names."""
    return f"{kind:>10} {len(names):>5}  {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"


def convert(
    model: nn.Module, maps: Mapping[str, KeyMap], weights: Mapping[str, Tensor], *, where: object, strict: bool = True
) -> LoadReport:
    """Copies somebody else's weights into a model of the same sizes and reports what became of each.

    maps: our parameter name -> its source, for every parameter that they have too. strict: WeightsError if any of
    ours is missing or has another shape, or any of theirs is left over.
    """
    report, left = LoadReport(), set(weights)
    for name, parameter in model.named_parameters():
        if name not in maps or not weights.keys() >= set(maps[name].names):
            report.missing.append(name)
            continue
        left -= set(maps[name].names)
        try:
            found = maps[name].convert(weights)
            shapes = str(tuple(found.shape))
        except RuntimeError:
            found, shapes = None, ", ".join(str(tuple(weights[part].shape)) for part in maps[name].names)
        if found is not None and found.shape == parameter.shape:
            parameter.data.copy_(found)
            report.loaded.append(name)
        else:
            report.misshapen.append(f"{name} {shapes} for {tuple(parameter.shape)}")
    report.extra = sorted(left)
    if strict and (report.missing or report.misshapen or report.extra):
        expected, do = f"{len(list(model.parameters()))} tensors, each once", "check the sizes, or allow the difference"
        what = "the weights do not fit the model"
        raise WeightsError(what, where=where, got=report.problems(), expected=expected, do=do)
    return report


def refuse_unfit(report: LoadReport, source: str | Path) -> None:
    """WeightsError if the other model has a parameter that this one has not, or in another shape."""
    if report.misshapen or report.extra:
        what, do = (
            "these weights do not fit the model to start from them",
            "give the model the same sizes (--set model....)",
        )
        expected = "every tensor of theirs in ours, of the same shape"
        raise WeightsError(what, where=source, got=report.problems(), expected=expected, do=do)
