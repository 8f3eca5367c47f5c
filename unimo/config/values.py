"""What a text or a JSON value means for a field of settings, by the field's type; see `unimo.config`.

Types a field may have: bool, int, float, str, Literal, tuple or list of these, a dataclass of such fields, and
`... | None`. Nothing is guessed: what does not fit is refused with what would.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from unimo.errors import UsageError, nearest
from unimo.json_files import parse_json

_BOOLEANS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def parse(text: str, hint: Any, key: str) -> Any:
    """The value that a text means for a field of this type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        if optional(hint) and text.lower() == "none":
            return None
        return _first_that_fits(lambda member: parse(text, member, key), text, hint, key)
    if origin is Literal:
        choices = {str(choice): choice for choice in arguments}
        return choices[text] if text in choices else _refuse(key, text, hint)
    if origin in (tuple, list):
        if text.startswith("["):
            return fit(parse_json(text, where=key, error=UsageError), hint, key)
        pieces = [piece.strip() for piece in text.removesuffix(",").split(",")] if text else []
        return origin(parse(piece, kind, key) for piece, kind in zip(pieces, _item_hints(pieces, hint, key)))
    try:
        if hint is bool:
            return _BOOLEANS[text.lower()]
        if hint in (int, float):
            return fit(hint(text), hint, key)
    except (KeyError, ValueError):
        raise wrong(key, text, hint) from None
    return fit(text, hint, key)


def fit(value: Any, hint: Any, key: str) -> Any:
    """The JSON value as a field of this type holds it; anything that would need a guess is refused."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        if value is None and optional(hint):
            return None
        return _first_that_fits(lambda member: fit(value, member, key), value, hint, key)
    if dataclasses.is_dataclass(hint):
        return fit_group(hint, value, key)
    if origin is Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in arguments)
        return value if fits else _refuse(key, value, hint)
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise wrong(key, value, hint)
        return origin(fit(item, kind, key) for item, kind in zip(value, _item_hints(value, hint, key)))
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint in (bool, int, str) and type(value) is hint:
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
    return build(cls, fitted, where)


def build(cls: Any, values: dict[str, Any], where: str) -> Any:
    """The settings with these values, which fit their fields."""
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError("a required setting is missing", where=joined(where, missing[0]), do="give it a value")
    try:
        return cls(**values)
    except ValueError as fault:  # a dataclass may check its own values in __post_init__
        raise UsageError("settings contradict each other", where=where or cls.__name__, got=fault) from fault


def hints_of(cls: Any) -> dict[str, Any]:
    """Field name -> type; a field without a sentence is a fault of whoever wrote the class."""
    return _hints_of(cls)


@functools.cache
def _hints_of(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    silent = [field.name for field in fields if not field.metadata.get("help")]
    if silent:
        raise TypeError(f"{cls.__name__}.{silent[0]} has no sentence: write it as `setting(default, sentence)`")
    return {field.name: hints[field.name] for field in fields}


def keys_of(cls: Any) -> list[str]:
    """The dotted keys of all settings of a class, those of its groups included."""
    found: list[str] = []
    for name, hint in hints_of(cls).items():
        group = group_type(hint)
        found += [name] if group is None else [f"{name}.{key}" for key in keys_of(group)]
    return found


def group_type(hint: Any) -> Any:
    """The settings class behind a field's type, or None."""
    members = typing.get_args(hint) if _is_union(hint) else (hint,)
    return next((member for member in members if dataclasses.is_dataclass(member)), None)


def optional(hint: Any) -> bool:
    """Whether a field of this type may be none."""
    return _is_union(hint) and types.NoneType in typing.get_args(hint)


def joined(where: str, name: str) -> str:
    """The dotted key of a setting in its group."""
    return f"{where}.{name}" if where else name


def unknown(key: str, known: Iterable[str]) -> UsageError:
    """The error for a key that does not exist, with what is meant if that can be told."""
    known = list(known)
    from unimo.config.aliases import elsewhere, keys_meant  # a table that only a refusal needs

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
    near = nearest(got, choices) if choices else None
    what = "no such choice" if choices else "wrong type of setting"
    do = do or (f"did you mean {near}?" if near else None)
    return UsageError(what, where=key, got=got or "an empty text", expected=_type_name(hint), do=do)


def _refuse(key: str, value: Any, hint: Any) -> typing.NoReturn:
    raise wrong(key, value, hint)


def _first_that_fits(attempt: Any, value: Any, hint: Any, key: str) -> Any:
    members = [member for member in typing.get_args(hint) if member is not types.NoneType]
    if len(members) == 1 and dataclasses.is_dataclass(members[0]):  # keeps the message located inside it
        return attempt(members[0])
    for member in members:
        try:
            return attempt(member)
        except UsageError:
            continue
    raise wrong(key, value, hint)


def _item_hints(items: Iterable[Any], hint: Any, key: str) -> list[Any]:
    count, arguments = len(list(items)), typing.get_args(hint)
    if typing.get_origin(hint) is list or arguments[1:] == (...,):
        return [arguments[0]] * count
    if count != len(arguments):
        raise wrong(key, f"{count} values", hint)
    return list(arguments)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _type_name(hint: Any) -> str:
    simple = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in simple:
        return simple[hint]
    if _is_union(hint):
        members = [_type_name(member) for member in arguments if member is not types.NoneType]
        return " or ".join([*members, "none"] if optional(hint) else members)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin in (tuple, list):
        if origin is list or arguments[1:] == (...,):
            return f"a list, each {_type_name(arguments[0])}"
        return f"{len(arguments)} values: " + ", ".join(_type_name(item) for item in arguments)
    if dataclasses.is_dataclass(hint):
        return "a group of settings"
    raise TypeError(f"a setting cannot have the type {hint}")
