"""Whether settings can be at all: the type and the bounds of every value, and which values contradict each other.

Settings come through many doors: `--set`, a dataclass in Python, the settings.json of a recipe, the config.json of a
folder from anywhere. All of them are checked here, by `check_settings`, before anything is opened or built.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from unimo.config.values import fit, group_type, hints_of, joined, optional, wrong
from unimo.errors import UsageError


@dataclass(frozen=True)
class Bounds:
    """What a number may be, or every number of a list. filled: a text must have something in it, and no zero byte."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    filled: bool = False

    def admit(self, value: Any) -> bool:
        if isinstance(value, str):
            return not self.filled or (bool(value) and "\0" not in value)
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least} to {self.at_most}"
        named = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        parts = [f"{word} {bound}" for word, bound in named.items() if bound is not None]
        return " and ".join(parts + ["not empty, without a zero byte"] * self.filled)


@dataclass(frozen=True)
class Contradiction:
    """Values that cannot stand together. keys: their names within the group that says so; (): the group itself."""

    what: str
    keys: tuple[str, ...]
    got: object = None
    expected: object = None
    do: str | None = None

    def error(self, where: str) -> UsageError:
        keys = ", ".join(joined(where, key) for key in self.keys) or where or "settings"
        return UsageError(self.what, where=keys, got=self.got, expected=self.expected, do=self.do)


def check_settings(settings: Any, where: str = "", *, cls: Any = None) -> None:
    """UsageError for the first value of (nested) settings that has a wrong type or is out of its bounds, then for the
    first contradiction (see `Contradiction`; a settings class may have a method `contradictions` that yields them).

    where: the key of these settings in those they are part of, such as "model". cls: what class they have to be of.
    """
    if not dataclasses.is_dataclass(settings) or not isinstance(settings, cls or object):
        raise wrong(where or getattr(cls, "__name__", "settings"), settings, cls or type(settings))
    its: Any = type(settings)
    hints = hints_of(its)
    for field in dataclasses.fields(settings):
        key, value, hint = joined(where, field.name), getattr(settings, field.name), hints[field.name]
        group = group_type(hint)
        if group is None:
            fit(value, hint, key)
            _check_bounds(value, field.metadata["bounds"], key, field.metadata["help"])
        elif value is not None or not optional(hint):
            check_settings(value, key, cls=group)
    for found in getattr(settings, "contradictions", tuple)():
        raise found.error(where)


def _check_bounds(value: Any, bounds: Bounds, key: str, sentence: str) -> None:
    for item in value if isinstance(value, (tuple, list)) else [value]:
        if item is not None and not bounds.admit(item):
            got, do = item if item != "" else "an empty text", f"what it means: {sentence}"
            raise UsageError("a setting is out of range", where=key, got=got, expected=bounds, do=do)
