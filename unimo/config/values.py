"""What a text or a JSON value means for a field of settings, by the field's type; see `unimo.config`.

Types a field may have: bool, int, float, str, Literal, tuple or list of these, a dataclass of such fields, and
`... | None`. Nothing is guessed: what does not fit is refused with what would.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from unimo.errors import UsageError, nearest
from unimo.json_files import parse_json

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_LARGEST = sys.float_info.max


def read(text: str, hint: Any, key: str) -> Any:
    """The JSON value that a text means for a field of this type; else the text itself, which `fit` refuses."""
    if optional(hint) and text.lower() == "none":
        return None
    for kind in _members(hint):
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is Literal:
            return {str(choice): choice for choice in arguments}.get(text, text)
        if origin in (tuple, list):
            if text.startswith("["):
                return parse_json(text, where=key, error=UsageError)
            pieces = [piece.strip() for piece in text.removesuffix(",").split(",")] if text else []
            items = _item_kinds(kind, len(pieces))
            return [read(piece, items[i] if i < len(items) else str, key) for i, piece in enumerate(pieces)]
        with contextlib.suppress(KeyError, ValueError):
            if kind is bool:
                return _BOOLEANS[text.lower()]
            if kind in (int, float):
                return kind(text)
    return text


def fit(value: Any, hint: Any, key: str) -> Any:
    """The JSON value as a field of this type holds it; anything that would need a guess is refused."""
    if value is None and optional(hint):
        return None
    kinds = _members(hint)
    if len(kinds) > 1:
        for kind in kinds:
            with contextlib.suppress(UsageError):
                return fit(value, kind, key)
        raise wrong(key, value, hint)
    (kind,) = kinds
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return fit_group(kind, value, key)
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        items = _item_kinds(kind, len(value))
        if len(items) == len(value):
            return origin(fit(item, each, key) for item, each in zip(value, items))
        value = f"{len(value)} values"
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in typing.get_args(kind)):
            return value
    elif kind is float and type(value) in (int, float) and -_LARGEST <= value <= _LARGEST:
        return float(value)
    elif kind in (bool, int, str) and type(value) is kind:
        return value
    raise wrong(key, value, hint)


def fit_group(cls: Any, values: Any, where: str) -> Any:
    """The settings of a class that a dictionary of JSON describes; see `unimo.config.from_dict`."""
    if not isinstance(values, Mapping):
        raise wrong(where or cls.__name__, values, cls)
    hints = hints_of(cls)
    for name in values:
        if name not in hints:
            raise unknown(joined(where, str(name)), [joined(where, known) for known in keys_of(cls)])
    fitted = {name: fit(value, hints[name], joined(where, name)) for name, value in values.items()}
    try:
        return cls(**fitted)
    except ValueError as fault:  # a dataclass may check its own values in __post_init__
        raise UsageError("settings contradict each other", where=where or cls.__name__, got=str(fault)) from fault


@functools.cache
def hints_of(cls: Any) -> dict[str, Any]:
    """Field name -> type; a field without a sentence is a fault of whoever wrote the class."""
    hints, fields = typing.get_type_hints(cls), dataclasses.fields(cls)
    silent = [field.name for field in fields if not field.metadata.get("help")]
    if silent:
        raise TypeError(f"{cls.__name__}.{silent[0]} has no sentence: write it as `setting(default, sentence)`")
    return {field.name: hints[field.name] for field in fields}


@functools.cache
def keys_of(cls: Any) -> tuple[str, ...]:
    """The dotted keys of all settings of a class, those of its groups included."""
    found: list[str] = []
    for name, hint in hints_of(cls).items():
        group = group_type(hint)
        found += [name] if group is None else [f"{name}.{key}" for key in keys_of(group)]
    return tuple(found)


def group_type(hint: Any) -> Any:
    """The settings class behind a field's type, or None."""
    return next((kind for kind in _members(hint) if dataclasses.is_dataclass(kind)), None)


def optional(hint: Any) -> bool:
    """Whether a field of this type may be none."""
    return types.NoneType in typing.get_args(hint)


def joined(where: str, name: str) -> str:
    """The dotted key of a setting in its group."""
    return f"{where}.{name}" if where else name


def unknown(key: str, known: Iterable[str]) -> UsageError:
    """The error for a key that does not exist, with what is meant if that can be told."""
    from unimo.config.aliases import elsewhere, keys_meant  # a table that only a refusal needs

    known = list(known)
    instead = elsewhere(key)
    meant = [] if instead else keys_meant(key, known)
    group = key.rpartition(".")[0] + "."
    there = [name.removeprefix(group).partition(".")[0] for name in known if name.startswith(group)]
    there = there or [name.partition(".")[0] for name in known]
    return UsageError(
        "no such setting",
        where=key,
        expected=", ".join(meant) or "one of " + ", ".join(dict.fromkeys(there)),
        do=instead or (f"did you mean {' or '.join(meant)}?" if meant else "choose one of the expected names"),
    )


def wrong(key: str, value: Any, hint: Any, do: str | None = None) -> UsageError:
    """The error for a value that a field of this type cannot hold."""
    got = value if isinstance(value, str) else json.dumps(value, default=repr)
    choices = [str(choice) for choice in typing.get_args(hint)] if typing.get_origin(hint) is Literal else []
    near = nearest(got, choices)
    what = "no such choice" if choices else "wrong type of setting"
    do = do or (f"did you mean {near}?" if near else None)
    return UsageError(what, where=key, got=got or "an empty text", expected=_type_name(hint), do=do)


def _members(hint: Any) -> list[Any]:
    """The types of a union but None, or the one type that it is."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [kind for kind in typing.get_args(hint) if kind is not types.NoneType] if union else [hint]


def _item_kinds(kind: Any, count: int) -> list[Any]:
    """The types of so many items of a list, or of all that a tuple has."""
    arguments = typing.get_args(kind)
    return [arguments[0]] * count if typing.get_origin(kind) is list or arguments[1:] == (...,) else list(arguments)


_NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def _type_name(hint: Any) -> str:
    kinds, arguments = _members(hint), typing.get_args(hint)
    if len(kinds) > 1 or optional(hint):
        return " or ".join([*map(_type_name, kinds), *["none"] * optional(hint)])
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if typing.get_origin(hint) is list or arguments[1:] == (...,):
        return f"a list, each {_type_name(arguments[0])}"
    if typing.get_origin(hint) is tuple:
        return f"{len(arguments)} values: " + ", ".join(map(_type_name, arguments))
    return "a group of settings" if dataclasses.is_dataclass(hint) else _NAMES[hint]
