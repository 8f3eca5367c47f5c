"""Settings: frozen dataclasses in which every field has a type and a sentence.

    @dataclass(frozen=True)
    class Train:
        steps: int = setting(1000, "optimizer steps of the whole run", at_least=1)
        lr: float = setting(1e-4, "peak learning rate", above=0)

They are overridden by `key=value` texts, read from and written to JSON, compared and described. A misspelt key, a value
of the wrong type or out of its bounds, and values that contradict each other are refused with the nearest name or what
is expected, before any work starts (`unimo.config.values`, `unimo.config.checks`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from unimo.config.checks import Bounds, Contradiction, check_settings
from unimo.config.values import fit_group, group_type, hints_of, keys_of, optional, read, unknown, wrong
from unimo.errors import UnimoError, UsageError
from unimo.json_files import check_json

S = TypeVar("S")

ABSENT = "(absent)"

__all__ = [
    "ABSENT",
    "Contradiction",
    "check_settings",
    "describe",
    "diff",
    "fingerprint",
    "flatten",
    "from_dict",
    "override",
    "setting",
    "to_dict",
]


def setting(default: Any, sentence: str, **bounds: Any) -> Any:
    """A dataclass field with its default, the sentence that explains it to a user, and what it may be.

    bounds: at_least, above, at_most, below for numbers (each one, in a list); filled=True for texts that cannot be
    empty.
    """
    declared = {"help": sentence, "bounds": Bounds(**bounds)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=declared)
    return dataclasses.field(default=default, metadata=declared)


def override(settings: S, assignments: Iterable[str]) -> S:
    """A copy of `settings` with texts like "model.width=256" applied, all at once.

    Lists are written "1,2,3" or as JSON; `none` empties an optional field. Raises UsageError for a key that
    does not exist (naming the nearest), a value of the wrong type or out of its bounds, values that contradict each
    other, and one key given two values.
    """
    texts: dict[str, str] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not key:
            raise UsageError("a setting must read key=value", got=assignment, expected="key=value")
        if texts.setdefault(key, text) != text:
            got = f"{texts[key]} and {text}"
            raise UsageError("a setting is given two values", where=key, got=got, expected="one value")
    values = to_dict(settings)
    for key, text in texts.items():
        _put(values, type(settings), key, text)
        if any(other.startswith(f"{key}.") for other in texts):
            raise UsageError("a group of settings is emptied and set", where=key, expected="one of both")
    return from_dict(type(settings), values)


def _put(values: dict[str, Any], cls: Any, key: str, text: str) -> None:
    """Puts what a text means at a dotted key of the nested dictionaries of a class."""
    known, (*groups, name) = keys_of(cls), key.split(".")
    for group in groups:
        cls = group_type(hints_of(cls).get(group))
        if cls is None:
            raise unknown(key, known)
        values[group] = values.get(group) or {}  # an absent group begins with its defaults
        values = values[group]
    hint = hints_of(cls).get(name)
    if hint is None:
        raise unknown(key, known)
    inner = group_type(hint)
    if inner is not None and not (optional(hint) and text.lower() == "none"):
        raise wrong(key, text, hint, do=f"set one of {', '.join(f'{key}.{k}' for k in hints_of(inner))}")
    values[name] = read(text, hint, key)


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested plain dictionaries and lists, ready for JSON."""
    return {name: _plain(value) for name, value in _items(settings)}


def from_dict(cls: type[S], values: Mapping[str, Any], *, where: str = "", error: type[UnimoError] = UsageError) -> S:
    """The settings that `to_dict` described, which may come from anyone. Absent keys keep their defaults; unknown keys
    and what `check_settings` refuses are refused.

    where: stands in front of keys in messages. error: what is raised, such as WeightsError for a saved model's.
    """
    try:
        settings: S = fit_group(cls, values, where)
        check_settings(settings, where)
    except UsageError as fault:
        if error is UsageError:
            raise
        raise error(fault.what, where=fault.where, got=fault.got, expected=fault.expected, do=fault.do) from fault
    return settings


def flatten(settings: Any) -> dict[str, Any]:
    """Dotted key -> value, in the order of the fields. Takes settings or the dictionaries of `to_dict`."""
    flat: dict[str, Any] = {}
    for name, value in _items(settings):
        if _is_group(value):
            flat |= {f"{name}.{key}": leaf for key, leaf in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def diff(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """(key, value in a, value in b) wherever they differ; a key that one side lacks is "(absent)" there."""
    flat_a, flat_b = flatten(a), flatten(b)
    rows = [(key, flat_a.get(key, ABSENT), flat_b.get(key, ABSENT)) for key in {**flat_a, **flat_b}]
    # 1 and 1.0 and True are equal in Python but not as settings: their texts differ.
    return [row for row in rows if _text(row[1]) != _text(row[2])]


def describe(settings: Any) -> list[str]:
    """One line per setting, "key = value  # sentence"; what stands before the # can be given back to `override`."""
    lines: list[str] = []
    sentences = {field.name: field.metadata.get("help") for field in dataclasses.fields(settings)}
    for name, value in _items(settings):
        if _is_group(value):
            lines += [f"{name}.{line}" for line in describe(value)]
        else:
            lines.append(f"{name} = {_text(value)}  # {sentences[name]}")
    return lines


def fingerprint(settings: Any) -> str:
    """SHA-256 (hex) of the settings, independent of the order of fields."""
    plain = _plain(settings)
    check_json(plain)
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _items(settings: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        return settings.items()
    cls: Any = type(settings)
    return [(name, getattr(settings, name)) for name in hints_of(cls)]


def _plain(value: Any) -> Any:
    if _is_group(value):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(_plain(value))


def _is_group(value: Any) -> bool:
    return isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type))
